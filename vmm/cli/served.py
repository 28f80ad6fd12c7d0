"""When a machine that `vmm run` made can be reached by others."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.control.server import ControlServer
    from vmm.machine import Machine

__all__ = ["Served", "serve", "usual_name"]

_LATER_S = 0.2
"""A guest that has ended by then is nobody's to look at, and pays nothing."""
_LINGER_S = 1.5
"""How long the end of a run waits for those who watch: a screen asks twice a second."""


class Served:
    """A machine that others reach, now or a little later."""

    def __init__(self, machine: Machine, image: str, name: str) -> None:
        self.name = name
        self._machine = machine
        self._image = image
        self._server: ControlServer | None = None

    def start(self) -> None:
        """Let it be reached.

        Raises:
            ControlError: the name is taken, or it is none.
        """
        from vmm.control.server import ControlServer

        self._server = ControlServer(self._machine, self.name, self._image)

    def try_to_start(self) -> None:
        """Let it be reached, if that can be: nobody asked for it."""
        from vmm.control.protocol import ControlError

        try:
            self.start()
        except ControlError:
            return  # the run goes on unlisted

    def linger(self) -> None:
        """Let those who watch see how the run ended."""
        if self._server is not None and self._server.clients:
            self._server.linger(_LINGER_S)


def serve(machine: Machine, image: str, name: str | None, *, at_once: bool = False) -> Served:
    """Let a machine be reached: at once under a name that was given, otherwise a little later.

    Raises:
        ControlError: the name is taken, or it is none.
    """
    served = Served(machine, image, name or usual_name(image))
    if name is not None or at_once:
        served.start()
    else:
        machine.events.call_later(_LATER_S, served.try_to_start)
    return served


def usual_name(image: str, process: int | None = None) -> str:
    """What a machine is called that was given no name: by its image and its process (this one)."""
    stem = os.path.basename(image).removeprefix("payload:")
    kept = (c if c.isascii() and (c.isalnum() or c in "._-") else " " for c in stem)
    plain = "-".join("".join(kept).split()).strip(".-_")
    return f"{plain[:48] or 'vm'}-{process or os.getpid()}"
