"""The Python BIOS: puts its ROM, vectors and data area into memory and answers their traps.

Nothing that a guest does raises. What it asked for in vain is counted in `missing`, and what
the run's report should say is in `notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from firmware.bios_data import BDA_START, EBDA_SEGMENT, build_data_area
from firmware.bios_rom import PUSHES_AX, ROM_SIZE, ROM_START, build_rom, build_vectors, vector_at
from vmm.bios.clock import Clock, ticks_since_midnight
from vmm.bios.disk import DiskService
from vmm.bios.host import BiosHost, MissingService, Service
from vmm.bios.keyboard import Keyboard
from vmm.bios.registers import BiosRegisters, GeneralRegisters, SegmentRegisters
from vmm.bios.screen import screen_text
from vmm.bios.serial import Serial
from vmm.bios.system import System
from vmm.bios.video import Video
from vmm.errors import BootError
from vmm.loader.e820 import conventional_end

__all__ = ["Bios"]

_MAX_MISSING = 64
_COM_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8)
_EXCEPTIONS = {
    0x00: "divide error (#DE)",
    0x06: "invalid opcode (#UD)",
    0x07: "no coprocessor (#NM)",
    0x0C: "stack fault (#SS)",
    0x0D: "general protection fault (#GP)",
}


class Bios:
    """The BIOS of one machine.

    Call `install` before the guest starts, and `handle` each time that a vCPU writes to
    `firmware.bios_rom.TRAP_PORT` in real mode (`vmm.bios.port.BiosPort` does).
    """

    def __init__(self, host: BiosHost) -> None:
        self.host = host
        self.missing: Counter[tuple[int, int]] = Counter()
        """Calls of functions that are not there, by vector and AX."""
        self.calls: Counter[int] = Counter()
        """All calls, by vector."""
        self.video = Video(host)
        self.keyboard = Keyboard(host)
        self._clock = Clock(host)
        system = System(host)
        services = (self.video, DiskService(host), Serial(host), system, self.keyboard, self._clock)
        self._services: dict[int, Service] = {service.vector: service for service in services}
        self._others: dict[int, Callable[[BiosRegisters], None]] = {
            0x08: self._timer,
            0x09: self._key,
            0x11: system.equipment,
            0x12: system.conventional_memory,
            0x17: self._no_printer,
            0x18: self._no_boot,
            0x19: self._reboot,
        }
        for vector in (0x00, 0x06, 0x07):
            self._others[vector] = partial(self._fault, vector)
        for vector in range(0x0A, 0x10):
            self._others[vector] = partial(self._shared, vector)

    def save(self) -> dict[str, dict[str, int]]:
        """What services remember beside guest memory, by their names."""
        return {service.name: service.save() for service in self._services.values()}

    def load(self, saved: Mapping[str, Mapping[str, int]]) -> None:
        """Remember what `save` gave; guest memory has been put back already.

        Raises:
            KeyError: something is missing in it.
        """
        for service in self._services.values():
            service.load(saved[service.name])

    @property
    def notes(self) -> list[str]:
        """Lines for the run's report, those on missing services last."""
        return self.host.notes + [
            f"INT {vector:02X}h AX={ax:04X}h: no such service; called {count} times"
            if count > 1
            else f"INT {vector:02X}h AX={ax:04X}h: no such service"
            for (vector, ax), count in self.missing.most_common()
        ]

    @property
    def drawn_directly(self) -> bool:
        """The guest wrote to the screen memory itself: `screen` has what the console lacks."""
        return self.video.screen.drawn_directly

    @property
    def screen(self) -> list[str]:
        """The text screen's 25 rows."""
        return screen_text(self.host.memory)

    def install(self) -> None:
        """Put the ROM, the interrupt vectors and the data areas into guest memory.

        Raises:
            BootError: memory does not reach up to 1 MiB, where the BIOS lies.
        """
        host, layout = self.host, self.host.layout
        if not layout.contains(ROM_START, ROM_SIZE):
            raise BootError(
                f"memory ends at {layout.low_end:#x}, below the BIOS; use --memory 1M or more"
            )
        hard_disks = [host.disks[n] for n in sorted(host.disks) if n & 0x80]
        memory = host.memory
        memory.write(ROM_START, build_rom([disk.geometry for disk in hard_disks[:2]]))
        memory.write(0, build_vectors())
        area = build_data_area(
            memory_kib=conventional_end(layout) // 1024,
            com_ports=tuple(_COM_PORTS[n] for n in sorted(host.serial) if n < len(_COM_PORTS)),
            floppies=len(host.disks) - len(hard_disks),
            hard_disks=len(hard_disks),
            ticks=ticks_since_midnight(host.wall_clock_ns()),
        )
        memory.write(BDA_START, area)
        memory.write(EBDA_SEGMENT << 4, b"\x01")
        self.video.screen.clear(0)
        self._clock.start()

    def handle(
        self, linear_rip: int, general: GeneralRegisters, segments: SegmentRegisters
    ) -> BiosRegisters | None:
        """Answer a trap from the ROM.

        `linear_rip` is CS base plus RIP, at the OUT instruction or behind it. Returns the
        registers, which know whether they were changed; None where the address is in no stub.
        """
        vector = vector_at(linear_rip)
        if vector is None:
            return None
        skew = 2 if vector in PUSHES_AX else 0
        regs = BiosRegisters(general, segments, self.host.memory, skew=skew)
        if not regs.stub_carry:
            self.calls[vector] += 1
        service = self._services.get(vector)
        ax = regs.ax
        try:
            if service is not None:
                service.handle(regs)
            elif vector in self._others:
                self._others[vector](regs)
            else:
                raise MissingService
        except MissingService:
            self._record(vector, ax)
            if service is not None:
                service.missing(regs)
            else:
                regs.carry = True
        return regs

    def _record(self, vector: int, ax: int) -> None:
        key = (vector, ax)
        if key in self.missing or len(self.missing) < _MAX_MISSING:
            self.missing[key] += 1

    def _timer(self, regs: BiosRegisters) -> None:
        self._clock.tick()
        # A program that waits in the buffer of the data area finds its keys there. One that has
        # never asked for a key may be about to read its input from a serial port instead.
        if self.calls[self.keyboard.vector]:
            self.keyboard.pump()

    def _key(self, regs: BiosRegisters) -> None:
        self.keyboard.scancode(regs.al)

    def _shared(self, vector: int, regs: BiosRegisters) -> None:
        """IRQ 2 to 7, or the exception of the same number: AL has the in-service register.

        With no interrupt controller AL reads as all ones.
        """
        in_service = regs.al
        if in_service != 0xFF and in_service >> (vector - 8) & 1:
            return
        regs.stub_carry = True  # no end-of-interrupt
        if vector in _EXCEPTIONS:
            self._fault(vector, regs)

    def _fault(self, vector: int, regs: BiosRegisters) -> None:
        cs, ip = regs.caller
        self.host.note(f"the guest has no handler for {_EXCEPTIONS[vector]} at {cs:04x}:{ip:04x}")
        self.host.request("stop")

    def _no_printer(self, regs: BiosRegisters) -> None:
        regs.ah = 0x01  # timed out

    def _no_boot(self, regs: BiosRegisters) -> None:
        self.video.say("No bootable device.\r\n")
        self.host.note("the boot sector gave up (INT 18h): no bootable device")
        self.host.request("stop")

    def _reboot(self, regs: BiosRegisters) -> None:
        self.host.request("reset")
