"""When a machine that `vmm run` made can be reached by others."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["serve"]

_LATER_S = 0.2
"""A guest that has ended by then is nobody's to look at, and pays nothing."""


def serve(machine: Machine, image: str, name: str | None) -> None:
    """Let a machine be reached: at once under a name that was given, otherwise a little later.

    Raises:
        ControlError: the name is taken, or it is none.
    """
    if name is not None:
        _start(machine, image, name)
    else:
        machine.events.call_later(_LATER_S, lambda: _try_to_start(machine, image))


def _try_to_start(machine: Machine, image: str) -> None:
    from vmm.control.protocol import ControlError

    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(image).removeprefix("payload:"))
    name = f"{stem.strip('.-_')[:48] or 'vm'}-{os.getpid()}"
    try:
        _start(machine, image, name)
    except ControlError:
        return  # nobody asked for it: the run goes on unlisted


def _start(machine: Machine, image: str, name: str) -> None:
    from vmm.control.server import ControlServer

    ControlServer(machine, name, image)
