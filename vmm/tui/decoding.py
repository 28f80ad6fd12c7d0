"""Exits in words: what the log shows of a record, and what is known of it from the record alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import HAS_RIP, WRITE
from vmm.exits import exit_name
from vmm.trace.decoder import Decoder
from vmm.tui.format import clock, duration
from vmm.tui.source import Entry, Section

__all__ = ["entry_of", "hex_lines", "section_of"]

_ADDRESSED = (KVM_EXIT_IO, KVM_EXIT_MMIO)
_MOST_SHOWN = 256


def entry_of(record: Any, decoder: Decoder, begun_ns: int, name_of: Callable[[int], str]) -> Entry:
    """Decode a record for the log; `name_of` says more of a RIP."""
    reason, address = int(record["reason"]), int(record["address"])
    write, size, count = bool(record["flags"] & WRITE), int(record["size"]), int(record["count"])
    value = int(record["value"])
    kind, where, device, said, meaning = exit_name(reason), "", "", "", ""
    if reason in _ADDRESSED:
        kind += " " + _verb(reason, write)
        where = f"{address:#x}"
        device = decoder.devices.name_at(reason, address)
        when = int(record["time_ns"])
        meaning = decoder.decode(reason, address, size, write, value, when) if count == 1 else ""
        said = f"{value:#x}"
        plain = not meaning or meaning.endswith(said)  # no bits that have names
        if size == 1 and count == 1 and plain and 0x20 <= value < 0x7F:
            said += f" {chr(value)!r}"
        if count > 1:
            said, meaning = f"x{count}", f"string of {count} x {size} bytes"
    rip = ""
    if record["flags"] & HAS_RIP:
        number = int(record["rip"])
        rip = f"{number:x} {name_of(number)}".rstrip()
    return Entry(
        clock(int(record["time_ns"]) - begun_ns),
        int(record["vcpu"]),
        kind,
        where,
        device,
        said,
        meaning,
        rip,
        int(record["handler_ns"]),
        int(record["guest_ns"]),
    )


def section_of(record: Any, decoder: Decoder, begun_ns: int, data: bytes) -> Section:
    """Everything that a record says. `data` are the bytes that went over the bus."""
    reason, address = int(record["reason"]), int(record["address"])
    write, size, count = bool(record["flags"] & WRITE), int(record["size"]), int(record["count"])
    lines = [
        f"reason    KVM_EXIT_{exit_name(reason)} ({reason})",
        f"record    {int(record['sequence']):,} of vCPU {int(record['vcpu'])}",
        f"when      {clock(int(record['time_ns']) - begun_ns)} s after the trace was begun",
        f"guest     ran {duration(int(record['guest_ns']))} before it, the kernel included",
        f"handler   took {duration(int(record['handler_ns']))}",
    ]
    if record["irqs"]:
        lines.append(f"irqs      {int(record['irqs'])} lines were raised since the exit before")
    if reason in _ADDRESSED:
        bus = "port" if reason == KVM_EXIT_IO else "guest-physical address"
        place = decoder.devices.find(reason, address)
        owner = decoder.devices.name_at(reason, address)
        amount = f"{count} x {size} bytes"
        lines.append(f"access    {_verb(reason, write)}, {amount}, {bus} {address:#x}")
        if place is not None:
            lines.append(f"device    {owner}, at {place.start:#x}..{place.end - 1:#x}, "
                         f"offset {address - place.base:#x}")  # fmt: skip
        elif owner:
            lines.append(f"device    {owner}")
        value = int(record["value"])
        if count == 1:
            lines.append(f"value     {value:#0{2 + 2 * size}x} = {value}")
            when = int(record["time_ns"])
            meaning = decoder.decode(reason, address, size, write, value, when)
            if meaning:
                lines.append(f"register  {meaning}")
        else:
            lines += [f"bytes     {line}" for line in hex_lines(data)]
    elif record["value"] or record["address"]:
        lines.append(f"details   {int(record['value']):#x}, {address:#x}")
    if record["flags"] & HAS_RIP:
        lines.append(f"rip       {int(record['rip']):#x}, behind the instruction")
    return Section("the exit", tuple(lines))


def hex_lines(data: bytes, address: int | None = None, most: int = _MOST_SHOWN) -> list[str]:
    """Bytes in lines of sixteen, with their characters."""
    lines = []
    for at in range(0, min(len(data), most), 16):
        piece = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        front = f"{at if address is None else address + at:0{4 if address is None else 8}x}"
        lines.append(f"{front}  {piece.hex(' '):<47}  {text}")
    if len(data) > most:
        lines.append(f"... {len(data) - most} more")
    return lines


def _verb(reason: int, write: bool) -> str:
    if reason == KVM_EXIT_IO:
        return "out" if write else "in"
    return "write" if write else "read"
