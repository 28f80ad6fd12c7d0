"""INT 15h, system services: memory sizes, A20, waiting, block moves; INT 11h and INT 12h.

Power management is the little of APM that switches a machine off from real mode. Left out: the
PS/2 mouse (C2h), event waits (83h), the switch to protected mode (89h).

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 15h - System Services; ACPI
6.5, System Address Map Interfaces; Advanced Power Management BIOS Interface 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from firmware.bios_data import EBDA_SEGMENT, Bda
from firmware.bios_rom import CONFIG_TABLE, ROM_SEGMENT
from vmm.bios.host import WAIT_S, BiosHost, MissingService, Service
from vmm.bios.registers import BiosRegisters
from vmm.loader.e820 import RAM, e820

__all__ = ["System"]

_SMAP = 0x534D4150
_MIB = 1 << 20
_UNSUPPORTED = 0x86
_MAX_BLOCK_WORDS = 0x8000


class System(Service):
    """The system services."""

    vector = 0x15
    name = "system"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self._wait_until_ns = 0
        self.functions = {
            0x24: self._a20,
            0x4F: self._keyboard_intercept,
            0x53: self._power,
            0x86: self._wait,
            0x87: self._block_move,
            0x88: self._extended_memory,
            0x90: self._device_hook,
            0x91: self._device_hook,
            0xC0: self._configuration,
            0xC1: self._extended_area,
            0xE8: self._memory_map,
            0xEC: self._target_mode,
        }

    def save(self) -> dict[str, int]:
        """How long a caller still waits."""
        return {"wait_ns": self._wait_until_ns - self.host.clock_ns()}

    def load(self, saved: Mapping[str, int]) -> None:
        """Let it wait on."""
        self._wait_until_ns = self.host.clock_ns() + saved["wait_ns"]

    def missing(self, regs: BiosRegisters) -> None:
        """Answer with AH=86h and carry set."""
        regs.ah = _UNSUPPORTED
        regs.carry = True

    def equipment(self, regs: BiosRegisters) -> None:
        """INT 11h: return the equipment word in AX."""
        regs.ax = self.ram.get(Bda.EQUIPMENT, 2)

    def conventional_memory(self, regs: BiosRegisters) -> None:
        """INT 12h: return the KiB of memory below the extended data area in AX."""
        regs.ax = self.ram.get(Bda.MEMORY_KIB, 2)

    # Memory.

    def _memory_map(self, regs: BiosRegisters) -> None:
        if regs.al == 0x20:
            self._map_entry(regs)
        elif regs.al in (0x01, 0x81):
            below, blocks = self._memory_above_1m()
            regs.ax = regs.cx = below
            regs.bx = regs.dx = blocks
            regs.carry = False
        else:
            raise MissingService

    def _map_entry(self, regs: BiosRegisters) -> None:
        entries = e820(self.host.layout)
        index = regs.ebx
        if regs.edx != _SMAP or regs.ecx < 20 or index >= len(entries):
            regs.ah = _UNSUPPORTED
            regs.carry = True
            return
        entry = entries[index]
        data = struct.pack("<QQI", entry.start, entry.size, entry.type)
        if not self.ram.write(regs.es_base + regs.di, data):
            regs.ah = _UNSUPPORTED
            regs.carry = True
            return
        regs.eax = _SMAP
        regs.ecx = len(data)
        regs.ebx = index + 1 if index + 1 < len(entries) else 0
        regs.carry = False

    def _memory_above_1m(self) -> tuple[int, int]:
        """KiB from 1 to 16 MiB, and 64 KiB blocks from there to the hole below 4 GiB."""
        end = max(e.end for e in e820(self.host.layout) if e.type == RAM and e.end < 1 << 32)
        below = max(min(end, 16 * _MIB) - _MIB, 0) // 1024
        return below, min(max(end - 16 * _MIB, 0) // 65536, 0xFFFF)

    def _extended_memory(self, regs: BiosRegisters) -> None:
        below, blocks = self._memory_above_1m()
        regs.ax = min(below + blocks * 64, 0xFC00)  # programs take no more than 64 MiB here
        regs.carry = False

    def _block_move(self, regs: BiosRegisters) -> None:
        count = regs.cx * 2
        table = self.ram.read(regs.es_base + regs.si, 48)
        if table is None or regs.cx > _MAX_BLOCK_WORDS:
            regs.ah, regs.carry = 0x02, True
            return
        source, target = (_descriptor_base(table[at : at + 8]) for at in (16, 24))
        data = self.ram.read(source, count)
        done = data is not None and self.ram.write(target, data)
        regs.ah = 0 if done else 0x02  # 2: as for a fault in protected mode
        regs.carry = not done

    # A20.

    def _a20(self, regs: BiosRegisters) -> None:
        if regs.al > 3:
            raise MissingService
        if regs.al in (0x00, 0x01):
            self.host.a20.enabled = regs.al == 0x01
        elif regs.al == 0x02:
            regs.al = int(self.host.a20.enabled)
        else:
            regs.bx = 0x0003  # by the keyboard controller and by port 0x92
        regs.ah = 0
        regs.carry = False

    # Time.

    def _wait(self, regs: BiosRegisters) -> None:
        now = self.host.clock_ns()
        if not regs.stub_carry:
            self._wait_until_ns = now + (regs.cx << 16 | regs.dx) * 1000
        left_ns = self._wait_until_ns - now
        regs.stub_carry = left_ns > 0
        if left_ns > 0:
            self.host.pause(min(left_ns / 1e9, WAIT_S))
        else:
            regs.carry = False

    # What programs ask to find out which machine it is.

    def _keyboard_intercept(self, regs: BiosRegisters) -> None:
        regs.carry = True  # the key goes on as it is

    def _device_hook(self, regs: BiosRegisters) -> None:
        regs.ah = 0
        regs.carry = False

    def _configuration(self, regs: BiosRegisters) -> None:
        regs.set_es(ROM_SEGMENT)
        regs.bx = CONFIG_TABLE
        regs.ah = 0
        regs.carry = False

    def _extended_area(self, regs: BiosRegisters) -> None:
        regs.set_es(EBDA_SEGMENT)
        regs.carry = False

    def _target_mode(self, regs: BiosRegisters) -> None:
        if regs.al != 0:
            raise MissingService
        regs.ah = 0  # told which mode the kernel will run in; nothing depends on it
        regs.carry = False

    def _power(self, regs: BiosRegisters) -> None:
        if regs.al == 0x00 and regs.bx == 0:
            regs.ax = 0x0102  # version 1.2 in BCD
            regs.bx = ord("P") << 8 | ord("M")
            regs.cx = 0  # no protected-mode interface
        elif regs.al == 0x07 and regs.bx == 0x0001 and regs.cx == 0x0003:
            self.host.request("poweroff")
        elif regs.al == 0x0E:
            regs.ax = 0x0102
        elif regs.al not in (0x01, 0x04, 0x05, 0x08, 0x0D, 0x0F):
            raise MissingService
        regs.carry = False


def _descriptor_base(descriptor: bytes) -> int:
    return int.from_bytes(descriptor[2:5], "little") | descriptor[7] << 24
