"""A machine's whole state: kept, returned to, copied."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.snapshot.reset import Reset
    from vmm.snapshot.snapshot import Snapshot

__all__ = ["MachineStates"]


class MachineStates:
    """The part of a machine that takes snapshots of it, and goes back to them."""

    if TYPE_CHECKING:
        _reset: Reset | None

    def snapshot(self, path: str | None = None, *, base: Snapshot | str | None = None) -> Snapshot:
        """Take the machine's whole state: processors, chips, devices and memory.

        A run in progress is held meanwhile. `vmm.restore` makes machines of it, here or anywhere.

        Args:
            path: a file for it, written beside it first and renamed when it is complete; None:
                it is kept in memory.
            base: a snapshot of this machine, in a file, upon which the new file is to build: it
                then has only the pages that changed, and needs the other to be read.

        Raises:
            SnapshotError: a device cannot be saved, or the file cannot be written.
            LifecycleError: the machine is closed or has failed.
        """
        if path is None:
            if base is not None:
                raise ConfigError("base: a snapshot in memory stands alone; give a path as well")
            from vmm.snapshot.capture import take_snapshot

            return take_snapshot(self._whole)
        from vmm.snapshot.file import write_snapshot

        return write_snapshot(self._whole, path, base)

    def reset_to(self, snapshot: Snapshot) -> None:
        """Bring this machine back to a snapshot of it or of its like, between runs.

        The first time with a snapshot all memory is exchanged; after that only the pages that
        were written since are copied back, so that thousands of resets a second can be had. Views
        of memory that were taken before are to be taken again. The console's output stays; input
        that waits is what waited then.

        Raises:
            SnapshotError: the snapshot is of another kind of machine, or closed; or a device of
                this one is served by others (vhost), whose writes to memory nobody notes.
            LifecycleError: the machine runs, is closed or has failed.
        """
        if self._reset is None or self._reset.snapshot is not snapshot:
            from vmm.snapshot.reset import Reset

            self._reset = Reset(self._whole, snapshot)
        self._reset()

    def fork(
        self,
        *,
        net: Sequence[str] | None = None,
        vsock: str | None = None,
        new_identity: bool = False,
    ) -> Machine:
        """Make an independent machine that goes on from where this one is, ready to run.

        Memory is shared until either of them writes. The first time nothing is copied; later, if
        the guest has run since, all that its memory holds is. Functions on ports are called for
        both machines; devices of your own are to be added to the copy, and take their state then.
        What the copy writes to disks is its own.

        Args:
            net: where the cables of the copy's network cards lead, a text a card as in
                `vmm.boot`; a tap or a forwarded port cannot be had twice.
            vsock: the copy's address for sockets.
            new_identity: network cards and disks of the copy get other addresses and serial
                numbers.

        Raises:
            SnapshotError: a device cannot be saved.
            ConfigError: a network or an address cannot be had.
            LifecycleError: the machine is closed or has failed.
        """
        from vmm.snapshot.fork import fork

        return fork(self._whole, net=net, vsock=vsock, new_identity=new_identity)

    @property
    def _whole(self) -> Machine:
        """The machine that this is a part of."""
        return self  # type: ignore[return-value]
