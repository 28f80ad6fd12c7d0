"""BIOS services in Python, so that boot sectors and boot loaders run with no firmware image."""

from vmm.bios.dispatch import Bios
from vmm.bios.host import A20Gate, A20Latch, BiosHost, Disk, KeySource
from vmm.bios.port import BiosPort
from vmm.bios.screen import screen_text

__all__ = [
    "A20Gate",
    "A20Latch",
    "Bios",
    "BiosHost",
    "BiosPort",
    "Disk",
    "KeySource",
    "screen_text",
]
