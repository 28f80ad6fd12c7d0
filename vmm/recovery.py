"""What becomes of an access whose device raised.

The guest has not been entered since, so that its access is pending as it was: it can be made again,
answered with all ones, or left for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from vmm.errors import DeviceFault, FaultChoice
from vmm.exit_io import ExitIo
from vmm.exits import pending_access

__all__ = ["recover"]


def recover(
    io: ExitIo,
    reason: int,
    error: Exception,
    vcpu: int,
    ask: Callable[[DeviceFault], FaultChoice],
) -> None:
    """Finish the access that is pending as `ask` says, which is asked again for each failure.

    Args:
        io: has the access.
        reason: of the exit.
        error: what the device raised.
        vcpu: whose exit it is.
        ask: says what becomes of the access.

    Raises:
        DeviceFault: it is not to be finished.
    """
    done = 0
    while True:
        fault = io.fault(reason, error)
        access = fault.access = pending_access(reason, io.page, vcpu)
        if access is None:
            raise fault
        choice = ask(fault)
        if choice == "raise":
            raise fault
        if access.count > 1:
            done += io.pio.failed_at  # a string goes on with the element that failed
        if choice == "skip":
            if not access.write:
                io.answer_ones(reason, done, access.size)
            done += access.size
            if done == access.size * access.count:
                return
        try:
            io.repeat(reason, done)
            return
        except Exception as again:
            error = again
