"""What an access to a device means, in the words of the device's own table of registers.

A recorded access knows its offset and value, but not what the device's other registers held at that
moment. Where these decide which register answers (DLAB, an index port), every one that may have is
named: "THR/DLL = 0x41". Whoever knows their values gives them.
"""

from __future__ import annotations

from collections.abc import Mapping

from devices.registers import Register, RegisterTable
from devices.wiring import open_bus
from kvm_bindings import constants as c
from vmm.bus import Bus
from vmm.exits import Exit, describe

__all__ = ["access_line", "decode_access", "register_at", "registers_in"]

_NAMED = 3
"""More registers than these at one offset are told by what selects among them."""


def access_line(event: Exit, pio: Bus, mmio: Bus) -> str:
    """An exit in the words of the device that it went to."""
    if event.reason not in (c.KVM_EXIT_IO, c.KVM_EXIT_MMIO):
        return describe(event)
    bus = pio if event.reason == c.KVM_EXIT_IO else mmio
    mapping = bus.find(event.address)
    meaning = None
    if mapping is not None and event.count == 1:
        offset = event.address - mapping.base
        meaning = decode_access(mapping.device, offset, event.size, event.write, event.value)
    owner = bus.name_at(event.address)
    return describe(event, f"{owner} {meaning}" if meaning else owner)


def decode_access(
    device: object,
    offset: int,
    size: int,
    write: bool,
    value: int,
    *,
    values: Mapping[str, int] | None = None,
) -> str | None:
    """Say what an access of `size` bytes at `offset` of a device read or wrote.

    Several registers in one access are told from the lowest offset up; a register of which the
    access covers a part is told with the bits: "PM_TMR[7:0] = 0x12".

    Args:
        device: a table of registers, or anything that has one as `registers`.
        offset: in the device's range, in bytes.
        size: the width of the access in bytes.
        write: whether the guest wrote.
        value: what was written, or what the guest was given.
        values: the registers' values at that moment, by name, if they are known.

    Returns:
        "LSR = THRE|TEMT"; None where the device has no table or no register is there.
    """
    table = device if isinstance(device, RegisterTable) else getattr(device, "registers", None)
    if not isinstance(table, RegisterTable) or size < 1:
        return None
    exact = table.at(offset, write=write, values={}, size=size)
    if exact is not None and exact.exact:
        return f"{exact.name} = {exact.decode(value & open_bus(size))}"
    parts: list[str] = []
    position = 0
    while position < size:
        found = _who(table, offset + position, write, values)
        if not found:
            position += 1
            continue
        taken = 1
        limit = min(min(one.offset + one.size for one in found) - offset, size)
        while position + taken < limit and (
            _who(table, offset + position + taken, write, values) == found
        ):
            taken += 1
        part = value >> (8 * position) & open_bus(taken)
        parts.append(_say(found, offset + position, taken, part))
        position += taken
    return ", ".join(parts) or None


def registers_in(
    table: RegisterTable,
    offset: int,
    size: int,
    write: bool,
    value: int,
    values: Mapping[str, int],
) -> list[tuple[Register, int]]:
    """The registers that an access covers, lowest offset first, each with the bits of `value`
    that are its own, in their places. `values` are those of the registers before it: a byte that
    selects among registers counts for the bytes behind it."""
    values = dict(values)
    exact = table.at(offset, write=write, values=values, size=size)
    if exact is not None and exact.exact:
        return [(exact, value & open_bus(size))]
    found: dict[str, tuple[Register, int]] = {}
    for lane in range(size):
        register = table.at(offset + lane, write=write, values=values)
        if register is not None:
            byte = value >> 8 * lane & 0xFF
            _, part = found.get(register.name, (register, 0))
            part |= byte << 8 * (offset + lane - register.offset)
            found[register.name] = (register, part)
            if write:
                values[register.name] = part
    return list(found.values())


def register_at(device: object, offset: int, size: int, write: bool) -> Register | None:
    """The register that alone answers an access, and with all its bits; None where there is none
    or it depends on other registers."""
    table = device if isinstance(device, RegisterTable) else getattr(device, "registers", None)
    if not isinstance(table, RegisterTable):
        return None
    exact = table.at(offset, write=write, values={}, size=size)
    if exact is not None and exact.exact:
        return exact
    found = _who(table, offset, write, None)
    alone = len(found) == 1 and (found[0].offset, found[0].size) == (offset, size)
    return found[0] if alone else None


def _who(
    table: RegisterTable, offset: int, write: bool, values: Mapping[str, int] | None
) -> tuple[Register, ...]:
    """The registers that may answer byte `offset`, the usual one first."""
    if values is None:
        return tuple(
            sorted(table.candidates(offset, write=write), key=lambda r: r.when is not None)
        )
    register = table.at(offset, write=write, values=values)
    return () if register is None else (register,)


def _say(found: tuple[Register, ...], offset: int, size: int, value: int) -> str:
    """`size` bytes at `offset`, which one of `found` answers."""
    if len(found) > 1:
        selectors = sorted({r.when.register for r in found if r.when is not None})
        few = len(found) <= _NAMED
        name = "/".join(r.name for r in found) if few else f"[{'/'.join(selectors)}]"
        return f"{name} = {value:#x}"
    register = found[0]
    if size == register.size:
        return f"{register.name} = {register.decode(value)}"
    low = 8 * (offset - register.offset)
    return f"{register.name}[{low + 8 * size - 1}:{low}] = {value:#x}"
