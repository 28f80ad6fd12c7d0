"""The way back of a machine that a debugger holds: what is kept of its past, and how it is gone.

A state is kept whenever the guest goes on, as long as that costs little beside the time that it
runs (`vmm.rewind` goes back with them). What the debugger changes makes another guest: the way back
begins there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from vmm.errors import LifecycleError, VmmError
from vmm.gdb.points import Met, Points
from vmm.machine import Machine
from vmm.rerun import InHeldRun
from vmm.rewind import Rewind
from vmm.snapshot.snapshot import Snapshot

__all__ = ["History"]

_SHARE = 20
"""A state is kept after so many times as long as keeping the last one took."""


class History:
    """The past of one machine, as far as a debugger has seen it.

    Args:
        machine: the machine.
        points: what the debugger wants it to stop at.
    """

    def __init__(self, machine: Machine, points: Points) -> None:
        self._machine = machine
        self._points = points
        self.from_start = False
        """The guest has run nothing yet."""
        self._beginning: Snapshot | None = None
        self._rewind: Rewind | None = None
        self._why_not = ""
        self._cost_s = self._kept_s = 0.0

    def keep(self) -> None:
        """Keep the state as it is now, if it is time. The machine is held in a run."""
        if self.from_start:
            self.from_start = False
            with suppress(VmmError, OSError):
                self._beginning = self._machine.snapshot()
        now = time.monotonic()
        if self._why_not or (self._rewind and now - self._kept_s < _SHARE * self._cost_s):
            return
        try:
            if self._rewind is None:
                self._rewind = Rewind(self._machine, InHeldRun(self._machine))
            else:
                self._rewind.mark()
        except (VmmError, OSError) as error:
            self._why_not = str(error)
        self._kept_s = time.monotonic()
        self._cost_s = self._kept_s - now

    def changed(self) -> None:
        """The debugger has changed the guest: what was before leads elsewhere."""
        self.forget()

    def restart(self) -> None:
        """Bring the machine back to before the guest's first instruction.

        Raises:
            VmmError: that was not kept.
        """
        self.keep()
        if self._beginning is None:
            raise LifecycleError(
                "the guest's beginning was not kept; have it wait for gdb: vmm run --gdb"
            )
        self._machine.reset_to(self._beginning)
        self.forget()

    def back(self, *, step: bool, dead: bool = False) -> Generator[None, None, Met | None]:
        """Go back in pieces: by one instruction, or to where a point was met.

        Args:
            step: by one instruction.
            dead: the guest has died, and is held.

        Returns:
            The point; None: none was met on the way, and the guest is where it begins.

        Raises:
            VmmError: that way is not known; the guest is where it was.
        """
        if not dead:
            self.keep()
        if self._rewind is None:
            raise VmmError(f"no way back: {self._why_not}")
        found = yield from self._rewind.back(lambda: self._look(step=step), dead=dead)
        return found if isinstance(found, Met) else None

    def close(self) -> None:
        """Let go of all that is kept."""
        self.forget()
        if self._beginning is not None:
            self._beginning.close()

    def forget(self) -> None:
        """Let go of the way back; the beginning stays."""
        if self._rewind is not None:
            self._rewind.close()
        self._rewind = None

    def _look(self, *, step: bool) -> Callable[[], tuple[Any, Any]]:
        """What looks at the moments of one stretch."""
        points, vcpu = self._points, self._machine.vcpus[0]
        points.look()

        def look() -> tuple[Any, Any]:
            if not points.can_step(vcpu):
                raise VmmError("no way back: this host cannot step where the guest was (CPL 3)")
            return (None, True) if step else points.passed(vcpu)

        return look
