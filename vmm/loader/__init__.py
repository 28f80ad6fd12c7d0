"""Loaders: from the bytes of an image to a plan of what goes where and how the guest starts.

`load` tells the format and plans the start; each loader is one module. None of them touches KVM.
"""

from __future__ import annotations

from vmm.loader.load import load
from vmm.loader.plan import (
    START_TABLES_SIZE,
    BootOptions,
    BootPlan,
    Mode,
    Module,
    Rom,
    Start,
    Write,
)

__all__ = [
    "START_TABLES_SIZE",
    "BootOptions",
    "BootPlan",
    "Mode",
    "Module",
    "Rom",
    "Start",
    "Write",
    "load",
]
