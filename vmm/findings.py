"""What `vmm doctor` finds, and where it looks."""

from __future__ import annotations

import platform
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import kvm_bindings
from vmm import probes
from vmm.probes import Speed

__all__ = ["Finding", "Host", "Level"]

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. A problem has a fix; a note is worth knowing."""

    topic: str
    name: str
    value: str
    level: Level = "ok"
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """Where the facts come from; tests give their own."""

    root: Path = Path("/")
    """Where /dev, /proc and /sys are."""
    machine: str = field(default_factory=platform.machine)
    open_system: Callable[[str], kvm_bindings.System] = kvm_bindings.System
    which: Callable[[str], str | None] = shutil.which
    limit: Callable[[int], tuple[int, int]] = resource.getrlimit
    measure: Callable[[], Speed] = probes.measure

    def text(self, path: str) -> str:
        """The content of a small file, stripped; "" if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""
