"""A guest's memory and start states for the tests of the explanation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from devices.wiring import GuestAddressError
from vmm.cpustate import CpuState, DescriptorTable, Segment


def _flat(dpl: int) -> dict[str, Segment]:
    data = Segment(0x10 | dpl, 0, 0xFFFF_FFFF, type=3, dpl=dpl, db=1, g=1)
    return dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data)


class Guest:
    """2 MiB of RAM from 0; code at 0x1000, the stack below 0x8000; no IDT and no GDT."""

    CODE, STACK, PML4, PDPT, PD, PT = 0x1000, 0x8000, 0x10000, 0x11000, 0x12000, 0x13000

    def __init__(self) -> None:
        self.bytes = bytearray(0x20_0000)

    def read(self, gpa: int, size: int) -> bytes:
        if gpa < 0 or gpa + size > len(self.bytes):
            raise GuestAddressError(f"no memory at {gpa:#x}")
        return bytes(self.bytes[gpa : gpa + size])

    def code(self, text: str) -> None:
        """Put instructions, in hexadecimal, at CODE."""
        self.write(self.CODE, bytes.fromhex(text))

    def write(self, gpa: int, data: bytes) -> None:
        self.bytes[gpa : gpa + len(data)] = data

    def u64(self, gpa: int, *values: int) -> None:
        for number, value in enumerate(values):
            self.write(gpa + 8 * number, value.to_bytes(8, "little"))

    def u32(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(4, "little"))

    def real(self, **changes: Any) -> CpuState:
        cs, idt = Segment(0, 0, type=0xB), DescriptorTable(0, 0x3FF)
        return replace(CpuState(cs=cs, rip=self.CODE, rsp=self.STACK, idt=idt), **changes)

    def protected(self, cpl: int = 0, **changes: Any) -> CpuState:
        cs = Segment(8 | cpl, 0, 0xFFFF_FFFF, type=0xB, dpl=cpl, db=1, g=1)
        none = DescriptorTable(0, 0)
        state = CpuState(
            cr0=0x11, cs=cs, rip=self.CODE, rsp=self.STACK, idt=none, gdt=none, **_flat(cpl)
        )
        return replace(state, **changes)

    def long(self, cpl: int = 0, **changes: Any) -> CpuState:
        """64-bit mode; the first 2 MiB are mapped one to one by a large page."""
        self.u64(self.PML4, self.PDPT | 7)
        self.u64(self.PDPT, self.PD | 7)
        self.u64(self.PD, 0x87)
        return self.long_unmapped(cpl, **changes)

    def long_unmapped(self, cpl: int = 0, **changes: Any) -> CpuState:
        """The same with whatever is in the tables."""
        cs = Segment(8 | cpl, 0, 0xFFFF_FFFF, type=0xB, dpl=cpl, l=1, g=1)
        none = DescriptorTable(0, 0)
        state = CpuState(
            cr0=0x8000_0011, cr3=self.PML4, cr4=0x20, efer=0x500, cs=cs, rip=self.CODE,
            rsp=self.STACK, idt=none, gdt=none, **_flat(cpl),
        )  # fmt: skip
        return replace(state, **changes)

    def handlers(self, state: CpuState, *vectors: int, handler: int = 0x3000) -> CpuState:
        """Long mode: a GDT with code at 8, and IDT gates for `vectors` to `handler`."""
        gdt, idt = 0x4000, 0x5000
        self.u64(gdt, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
        for vector in vectors:
            low = handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48
            self.u64(idt + 16 * vector, low, handler >> 32)
        return replace(state, gdt=DescriptorTable(gdt, 0x17), idt=DescriptorTable(idt, 32 * 16 - 1))


@pytest.fixture
def guest() -> Guest:
    return Guest()
