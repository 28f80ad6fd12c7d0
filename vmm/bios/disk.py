"""INT 13h, disks: floppies from 0 and hard disks from 0x80, by CHS and by sector number.

Left out: formatting, disk change, drive locking and CD-ROM emulation, which fail with status 1.

Spec: IBM PS/2 and PC BIOS Interface Technical Reference, Interrupt 13h; Phoenix, BIOS Enhanced
Disk Drive Specification 1.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

from firmware.bios_data import Bda
from firmware.bios_rom import FLOPPY_TABLE, ROM_SEGMENT, DriveGeometry
from vmm.bios.host import BiosHost, Disk, Service
from vmm.bios.registers import BiosRegisters

__all__ = ["DiskService", "Status"]

_SECTOR = 512
_MAX_SECTORS = 2048
"""The most that one call moves: all that real-mode addresses reach."""
_NO_FLAT = 0xFFFF_FFFF


class Status(IntEnum):
    """What a disk call returns in AH."""

    OK = 0x00
    INVALID = 0x01
    WRITE_PROTECTED = 0x03
    NOT_FOUND = 0x04
    DMA_BOUNDARY = 0x09
    CONTROLLER = 0x20


class _Failure(Exception):
    def __init__(self, status: Status) -> None:
        self.status = status


class DiskService(Service):
    """The disk services."""

    vector = 0x13
    name = "disk"

    def __init__(self, host: BiosHost) -> None:
        super().__init__(host)
        self._calls: dict[int, Callable[[BiosRegisters], int | None]] = {
            0x00: self._ready,
            0x02: self._chs_transfer,
            0x03: self._chs_transfer,
            0x04: self._chs_transfer,
            0x08: self._parameters,
            0x09: self._ready,
            0x0C: self._ready,
            0x0D: self._ready,
            0x10: self._ready,
            0x11: self._ready,
            0x14: self._ready,
            0x15: self._drive_type,
            0x16: self._ready,
            0x41: self._extensions,
            0x42: self._packet_transfer,
            0x43: self._packet_transfer,
            0x44: self._packet_transfer,
            0x47: self._packet_transfer,
            0x48: self._extended_parameters,
            0x4B: self._no_emulation,
        }
        self.functions = dict.fromkeys(self._calls, self._run) | {0x01: self._last_status}

    def missing(self, regs: BiosRegisters) -> None:
        """Answer with status 1, invalid function."""
        self._finish(regs, regs.dl, Status.INVALID)

    def _run(self, regs: BiosRegisters) -> None:
        drive = regs.dl  # some calls return something else in DL
        try:
            answer = self._calls[regs.ah](regs)
        except _Failure as failure:
            self._finish(regs, drive, failure.status)
        except OSError as error:
            self.host.note(f"INT 13h: drive {drive:#04x}: {error.strerror or error}")
            self._finish(regs, drive, Status.CONTROLLER)
        else:
            self._finish(regs, drive, Status.OK)
            regs.ah = answer or 0

    def _finish(self, regs: BiosRegisters, drive: int, status: Status) -> None:
        regs.ah = status
        regs.carry = status != Status.OK
        self.ram.put(self._status_field(drive), status)

    @staticmethod
    def _status_field(drive: int) -> int:
        return Bda.DISK_STATUS if drive & 0x80 else Bda.FLOPPY_STATUS

    def _disk(self, regs: BiosRegisters) -> Disk:
        disk = self.host.disks.get(regs.dl)
        if disk is None:
            raise _Failure(Status.INVALID)
        return disk

    def _geometry(self, drive: int, disk: Disk) -> DriveGeometry:
        return disk.geometry if drive & 0x80 else disk.floppy_geometry

    def _count(self, drive: int) -> int:
        return sum(number & 0x80 == drive & 0x80 for number in self.host.disks)

    # The calls. Each changes result registers, and returns AH where success says something there.

    def _ready(self, regs: BiosRegisters) -> None:
        self._disk(regs)

    def _last_status(self, regs: BiosRegisters) -> None:
        status = self.ram.get(self._status_field(regs.dl))
        regs.ah = regs.al = status
        regs.carry = status != Status.OK

    def _chs_transfer(self, regs: BiosRegisters) -> None:
        disk = self._disk(regs)
        shape = self._geometry(regs.dl, disk)
        cylinder, head = regs.ch | (regs.cl & 0xC0) << 2, regs.dh
        sector, count = regs.cl & 0x3F, regs.al
        if not 1 <= count <= 128:
            raise _Failure(Status.INVALID)
        if cylinder >= shape.cylinders or head >= shape.heads or not 1 <= sector <= shape.sectors:
            raise _Failure(Status.NOT_FOUND)
        lba = (cylinder * shape.heads + head) * shape.sectors + sector - 1
        operation = {0x02: "read", 0x03: "write", 0x04: "verify"}[regs.ah]
        regs.al = 0
        self._transfer(disk, operation, lba, count, regs.es_base + regs.bx)
        regs.al = count

    def _transfer(self, disk: Disk, operation: str, lba: int, count: int, gpa: int) -> None:
        if lba + count > disk.sectors:
            end = f"sectors {lba} to {lba + count - 1}, and the disk has {disk.sectors}"
            self.host.note(f"INT 13h: {operation} past the end: {end}")
            raise _Failure(Status.NOT_FOUND)
        if operation == "write":
            if disk.read_only:
                raise _Failure(Status.WRITE_PROTECTED)
            data = self.ram.read(gpa, count * _SECTOR)
            if data is None:
                raise _Failure(Status.DMA_BOUNDARY)
            disk.write(lba, data)
        elif operation == "read" and not self.ram.write(gpa, disk.read(lba, count)):
            raise _Failure(Status.DMA_BOUNDARY)

    def _parameters(self, regs: BiosRegisters) -> None:
        shape = self._geometry(regs.dl, self._disk(regs))
        last = min(shape.cylinders, 1024) - 1
        regs.ch = last & 0xFF
        regs.cl = shape.sectors | last >> 2 & 0xC0
        regs.dh = shape.heads - 1
        regs.al = 0
        if not regs.dl & 0x80:
            regs.bx = _floppy_type(shape)
            regs.set_es(ROM_SEGMENT)
            regs.di = FLOPPY_TABLE
        regs.dl = self._count(regs.dl)

    def _drive_type(self, regs: BiosRegisters) -> int:
        disk = self.host.disks.get(regs.dl)
        if disk is None:
            return 0x00
        if not regs.dl & 0x80:
            return 0x01  # a floppy drive that cannot tell a disk change
        sectors = min(disk.sectors, 0xFFFF_FFFF)
        regs.cx, regs.dx = sectors >> 16, sectors
        return 0x03

    def _extensions(self, regs: BiosRegisters) -> int:
        self._disk(regs)
        if regs.bx != 0x55AA or not regs.dl & 0x80:
            raise _Failure(Status.INVALID)
        regs.bx = 0xAA55
        regs.cx = 0x0005  # packet access and extended parameters
        return 0x21  # version 1.1

    def _packet_transfer(self, regs: BiosRegisters) -> None:
        disk = self._disk(regs)
        address = regs.ds_base + regs.si
        packet = self.ram.read(address, 16)
        if packet is None or packet[0] < 16 or not regs.dl & 0x80:
            raise _Failure(Status.INVALID)
        count, offset, segment, lba = struct.unpack_from("<HHHQ", packet, 2)
        gpa = segment * 16 + offset
        if segment << 16 | offset == _NO_FLAT and packet[0] >= 24:
            gpa = self.ram.get(address + 16, 8)
        if count > _MAX_SECTORS:
            raise _Failure(Status.INVALID)
        operation = {0x42: "read", 0x43: "write", 0x44: "verify", 0x47: "seek"}[regs.ah]
        if operation == "seek":
            count = 1
        try:
            self._transfer(disk, operation, lba, count, gpa)
        except (_Failure, OSError):
            self.ram.put(address + 2, 0, 2)  # blocks moved
            raise

    def _extended_parameters(self, regs: BiosRegisters) -> None:
        disk = self._disk(regs)
        address = regs.ds_base + regs.si
        size = self.ram.get(address, 2)
        if size < 26 or not regs.dl & 0x80:
            raise _Failure(Status.INVALID)
        shape = disk.geometry
        returned = 30 if size >= 30 else 26
        flags = 0x0003  # no DMA boundaries to mind, geometry valid
        result = struct.pack(
            "<HHIIIQHI",
            *(returned, flags, shape.cylinders, shape.heads, shape.sectors),
            *(disk.sectors, _SECTOR, 0xFFFF_FFFF),  # and no drive table
        )
        if not self.ram.write(address, result[:returned]):
            raise _Failure(Status.INVALID)

    def _no_emulation(self, regs: BiosRegisters) -> None:
        # Boot loaders ask whether they came from a CD; no is the answer, not a gap.
        raise _Failure(Status.INVALID)


def _floppy_type(shape: DriveGeometry) -> int:
    types = {(40, 9): 1, (80, 15): 2, (80, 9): 3, (80, 18): 4, (80, 36): 6}
    return types.get((shape.cylinders, shape.sectors), 4)
