"""Addresses with their names."""

from __future__ import annotations

from vmm.cpustate import CpuState
from vmm.symbols import Symbols

__all__ = ["name_of", "named"]


def name_of(symbols: Symbols | None, state: CpuState, rip: int) -> str:
    """The name of the code at a RIP value: "main+0x12"; "" if nobody knows it."""
    if symbols is None:
        return ""
    return symbols.at(state.linear(state.cs, rip)) or ""


def named(symbols: Symbols | None, address: int) -> str:
    """A linear address with its name, where there is one: "0x100012 (main+0x12)"."""
    name = None if symbols is None else symbols.at(address)
    return f"{address:#x} ({name})" if name else f"{address:#x}"
