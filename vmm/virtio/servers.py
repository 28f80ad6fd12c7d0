"""Those who serve devices that were handed over (`vmm.virtio.handed_over.Server`)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from devices.virtio import net
from kvm_bindings.vhost import NO_FD, VhostNet, VhostVsock
from vmm.host.tap import Tap
from vmm.host.vhost_user import SharedRegion, VhostUser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvm_bindings.vhost import Vhost
    from vmm.memory import GuestMemory

__all__ = ["KernelNet", "KernelVsock", "UserServer"]

_LEAVING_S = 5


class _Kernel:
    """What vhost's devices have in common."""

    hangup_fd = -1

    def gone(self) -> bool:
        """It is the kernel, which stays."""
        return False

    def __init__(self, vhost: Vhost) -> None:
        self.vhost = vhost
        self.features = vhost.features
        self.set_vring = vhost.set_vring
        self.set_vring_base = vhost.set_vring_base
        self.vring_base = vhost.vring_base
        self.set_kick = vhost.set_kick
        self.set_call = vhost.set_call

    def share(self, memory: GuestMemory) -> None:
        """Let the kernel reach the guest's memory through this process's addresses."""
        self.vhost.set_memory((r.gpa, r.size, r.hva) for r in memory if not r.readonly)

    def set_features(self, bits: int) -> None:
        """Say which features were agreed upon."""
        self.vhost.set_features(bits & self.vhost.features)


class KernelNet(_Kernel):
    """vhost-net between a guest and a tap device.

    Raises:
        KvmError: there is none here.
    """

    name = "vhost-net"
    queue_sizes: tuple[int, ...] = (256, 256)
    served: Sequence[int] = (0, 1)

    def __init__(self, tap: Tap) -> None:
        self._net = VhostNet()
        super().__init__(self._net)
        self.tap = tap
        self.features |= net.OFFLOADS
        """Offloads are the tap's; the kernel passes the headers on."""

    def start(self, queues: Sequence[int]) -> None:
        """Join the queues to the tap."""
        for index in queues:
            self._net.set_backend(index, self.tap.fd)

    def stop(self, queues: Sequence[int]) -> None:
        """Take them from it."""
        for index in queues:
            self._net.set_backend(index, NO_FD)

    def close(self) -> None:
        """Give both back."""
        self._net.close()
        self.tap.close()


class KernelVsock(_Kernel):
    """vhost-vsock for the guest with the address `cid`.

    Raises:
        KvmError: there is none here, or another guest has the address.
    """

    name = "vhost-vsock"
    queue_sizes: tuple[int, ...] = (128, 128, 16)
    served: Sequence[int] = (0, 1)
    """Events are the device's own."""

    def __init__(self, cid: int) -> None:
        self._vsock = VhostVsock()
        try:
            super().__init__(self._vsock)
            self._vsock.set_guest_cid(cid)
        except BaseException:
            self._vsock.close()
            raise

    def start(self, queues: Sequence[int]) -> None:
        """Let the kernel serve both queues."""
        self._vsock.set_running(True)

    def stop(self, queues: Sequence[int]) -> None:
        """Let it serve none."""
        self._vsock.set_running(False)

    def close(self) -> None:
        """Give it back."""
        self._vsock.close()


class UserServer:
    """Another process, over vhost-user.

    Args:
        connection: to it.
        queue_sizes: of the device type.
        process: to be ended with it, where it was started for this: by the end of its standard
            input, or else by SIGTERM. It leads a process group.
    """

    def __init__(
        self,
        connection: VhostUser,
        queue_sizes: tuple[int, ...],
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.name = connection.name
        self.features = connection.features
        self.have_queues(queue_sizes)
        self.set_features = connection.set_features
        self.set_vring = connection.set_vring
        self.set_vring_base = connection.set_vring_base
        self.set_kick = connection.set_kick
        self.set_call = connection.set_call
        self.config = connection.config
        self.set_config = connection.set_config
        self.hangup_fd = connection.fileno()
        self.gone = connection.gone
        self._connection = connection
        self._process = process
        self._bases: dict[int, int] = {}

    def have_queues(self, sizes: tuple[int, ...]) -> None:
        """Say how many queues there are, and how large; before there is a device."""
        self.queue_sizes = sizes
        self.served: Sequence[int] = range(len(sizes))

    def share(self, memory: GuestMemory) -> None:
        """Hand the guest's memory over.

        Raises:
            ConfigError: it is a private copy, which nobody else sees.
        """
        fd = memory.shared_fd(self.name)
        ram = [
            SharedRegion(r.gpa, r.size, r.hva, fd, memory.ram_offset(r))
            for r in memory
            if r.kind == "ram"
        ]
        files = [SharedRegion(r.gpa, r.size, r.hva, r.fd, 0) for r in memory if r.fd >= 0]
        self._connection.set_memory(ram + files)

    def start(self, queues: Sequence[int]) -> None:
        """Let it serve the queues."""
        for index in queues:
            self._connection.enable(index)

    def stop(self, queues: Sequence[int]) -> None:
        """Stop them; the answer says where."""
        for index in queues:
            self._bases[index] = self._connection.vring_base(index)

    def vring_base(self, index: int) -> int:
        """Tell which entry of the avail ring comes next."""
        return self._bases[index]

    def close(self) -> None:
        """Hang up, and see the process off."""
        self._connection.close()
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.terminate()
        try:
            process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
