"""Tiny guests of our own: what each one is, how it starts, and what is seen when it works.

The assembled guest `NAME.bin` lies beside its source `NAME.S`; `python -m firmware.payloads.build`
makes the one from the other.

How a payload finds the machine:

    format      mode       loaded and entered at  memory
    bootsector  real       0x7C00                 as the BIOS leaves it
    flat16      real       0x7C00                 all segments 0
    flat32      protected  0x100000               flat segments, no paging
    flat64      long       0x100000               the first 4 GiB mapped to themselves
    firmware    real       0xFFFFF000             a ROM, entered at the reset vector

Interrupts are off, the general registers are zero, and so is memory that nobody wrote. The flat
selectors are those of `firmware.gdt`. A payload sets its own stack, right below itself. The
console is COM1 at 0x3F8 (the line status register is polled before every byte), text may also go
to the debug console at port 0xE9, and the debug-exit port is 0xF4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal, TypeAlias

    Format: TypeAlias = Literal["bootsector", "flat16", "flat32", "flat64", "firmware"]
    End: TypeAlias = Literal["halt", "shutdown", "debug_exit", "internal_error", "timeout"]

__all__ = ["PAYLOADS", "SMP_CPUS_OFFSET", "Payload", "payload"]

SMP_CPUS_OFFSET = 4
"""Byte offset in the image of `smp` of the 32-bit count of processors that it waits for."""

_HERE = os.path.dirname(__file__)
_LOAD_ADDRS: Mapping[Format, int] = {
    "bootsector": 0x7C00,
    "flat16": 0x7C00,
    "flat32": 0x10_0000,
    "flat64": 0x10_0000,
    "firmware": 0xFFFF_F000,
}


class Payload:
    """One guest: the machine that it needs and what a run of it shows.

    Args:
        name: of its files.
        summary: what it does, in a few words.
        format: how it starts.
        ends: the reason for which the run ends.
        status: the value written to the debug-exit port, where it ends so.
        console: all that comes out of COM1 (of the BIOS teletype, for a boot sector).
        debugcon: all that comes out of port 0xE9.
        input: what to type at COM1.
        memory: bytes of RAM.
        cpus: how many processors.
        irqchip: needs the in-kernel interrupt controllers and PIT.
        cpl: privilege level to start at.
        devices: devices it needs beside COM1, debug console and debug exit, by the names that the
            models have.
        native_ring0: uses an instruction that KVM cannot emulate at CPL 0: on the kvm_pvm backend
            the run ends with "internal_error" instead.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        format: Format,
        ends: End,
        status: int | None = None,
        console: bytes = b"",
        debugcon: bytes = b"",
        input: bytes = b"",
        memory: int = 2 << 20,
        cpus: int = 1,
        irqchip: bool = False,
        cpl: int = 0,
        devices: tuple[str, ...] = (),
        native_ring0: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.format = format
        self.ends = ends
        self.status = status
        self.console = console
        self.debugcon = debugcon
        self.input = input
        self.memory = memory
        self.cpus = cpus
        self.irqchip = irqchip
        self.cpl = cpl
        self.devices = devices
        self.native_ring0 = native_ring0

    @property
    def load_addr(self) -> int:
        """Guest-physical address that it is assembled for, and its entry point."""
        return _LOAD_ADDRS[self.format]

    @property
    def source_path(self) -> Path:
        """The file with its assembly source."""
        from pathlib import Path

        return Path(_HERE, f"{self.name}.S")

    @property
    def image_path(self) -> Path:
        """The file with the assembled image."""
        from pathlib import Path

        return Path(_HERE, f"{self.name}.bin")

    def image(self, cpus: int | None = None) -> bytes:
        """Return the assembled image, to be loaded at `load_addr`; `cpus` is how many processors
        the machine has, where it is not the usual number."""
        with open(os.path.join(_HERE, f"{self.name}.bin"), "rb") as file:
            image = file.read()
        if cpus is None or self.name != "smp":
            return image
        behind = SMP_CPUS_OFFSET + 4
        return image[:SMP_CPUS_OFFSET] + cpus.to_bytes(4, "little") + image[behind:]


PAYLOADS: Mapping[str, Payload] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Payload(
                "hello16",
                "greets in real mode",
                "flat16",
                ends="halt",
                console=b"Hello from real mode\n",
            ),
            Payload(
                "hello32",
                "greets in protected mode",
                "flat32",
                ends="halt",
                console=b"Hello from protected mode\n",
            ),
            Payload(
                "hello64",
                "greets in long mode",
                "flat64",
                ends="halt",
                console=b"Hello from long mode\n",
            ),
            Payload(
                "bootsector",
                "greets through the BIOS",
                "bootsector",
                ends="halt",
                console=b"Hello from a boot sector\r\n",
            ),
            Payload(
                "serial_echo",
                "echoes COM1 in upper case, by interrupt, until q or Ctrl-D",
                "flat16",
                ends="debug_exit",
                status=0,
                input=b"Hello, world {1}\rq",
                console=b"echo, q quits\nHELLO, WORLD {1}\r",
                irqchip=True,
            ),
            Payload(
                "pit_ticks",
                "halts through 20 interrupts of the PIT at 1 kHz",
                "flat16",
                ends="debug_exit",
                status=0,
                console=b"20 PIT ticks\n",
                irqchip=True,
            ),
            Payload(
                "lapic_ticks",
                "halts through 20 interrupts of the local APIC's timer",
                "flat64",
                ends="debug_exit",
                status=0,
                console=b"20 APIC timer ticks\n",
                irqchip=True,
            ),
            Payload(
                "smp",
                "starts the other processors with INIT and SIPI",
                "flat32",
                ends="debug_exit",
                status=0,
                console=b"processors: 0 1 2 3 all up\n",
                cpus=4,
                irqchip=True,
            ),
            Payload(
                "mmio",
                "writes and reads a device in memory in 1, 2, 4 and 8 bytes",
                "flat64",
                ends="debug_exit",
                status=0,
                console=b"MMIO in 1, 2, 4 and 8 bytes\n",
                devices=("testdev-mmio",),
            ),
            Payload(
                "page_fault",
                "maps a page in its page-fault handler",
                "flat64",
                ends="debug_exit",
                status=0,
                console=b"page fault at 0000000100180000, mapped and read\n",
            ),
            Payload(
                "triple_fault",
                "raises an exception without any handler",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "bad_jump",
                "jumps to where there is no memory",
                "flat32",
                ends="internal_error",
            ),
            Payload(
                "fault_chain",
                "reads unmapped memory; no handler of the faults can be reached",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "wild_jump",
                "calls a function where nothing is mapped",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "nx_jump",
                "jumps into a page that is not executable",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "stack_overflow",
                "calls itself until its stack is used up",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "bad_selector",
                "loads a segment that is not in the GDT",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "non_canonical",
                "reads at an address that is not canonical",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "divide_error",
                "divides by zero, and has no handler for it",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "lost_tables",
                "clears its own page tables",
                "flat64",
                ends="shutdown",
            ),
            Payload(
                "masked_irq",
                "halts for a timer whose interrupt is masked",
                "flat16",
                ends="timeout",
                irqchip=True,
            ),
            Payload(
                "wait_flag",
                "waits for a flag, with interrupts disabled",
                "flat64",
                ends="timeout",
            ),
            Payload(
                "poll_uart",
                "polls COM1 for a byte that never comes",
                "flat16",
                ends="timeout",
            ),
            Payload(
                "ring3_compute",
                "computes ten million steps at CPL 3",
                "flat64",
                ends="debug_exit",
                status=0,
                console=b"6ab6dc95f4bcf080\n",
                cpl=3,
            ),
            Payload(
                "spin",
                "loops for ever",
                "flat16",
                ends="timeout",
            ),
            Payload(
                "cmpxchg16b",
                "exchanges 16 bytes at once at CPL 0",
                "flat64",
                ends="debug_exit",
                status=0,
                console=b"16 bytes exchanged\n",
                native_ring0=True,
            ),
            Payload(
                "string_io",
                "writes with REP OUTSB and reads with REP INSB",
                "flat16",
                ends="debug_exit",
                status=0,
                debugcon=b"a text by REP OUTSB, and by REP INSB: QEMU\n",
                devices=("fw_cfg",),
            ),
            Payload(
                "hostile",
                "attacks the virtio devices of its machine for as long as port 0x14 reads 1",
                "firmware",
                ends="debug_exit",
                status=0,
            ),
            Payload(
                "io_loop16",
                "writes to port 0x10 ECX times (1,000 for 0) in real mode",
                "flat16",
                ends="halt",
            ),
            Payload(
                "io_loop64",
                "writes to port 0x10 RCX times (1,000 for 0) in long mode",
                "flat64",
                ends="halt",
            ),
        )
    }
)
"""Every payload by its name."""


def payload(name: str) -> Payload:
    """Return the payload called `name`.

    Raises:
        KeyError: there is none; the message names those that there are.
    """
    try:
        return PAYLOADS[name]
    except KeyError:
        raise KeyError(f"no payload {name!r}; there are {', '.join(PAYLOADS)}") from None
