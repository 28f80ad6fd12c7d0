"""QEMU's firmware configuration device: how firmware learns what machine it is on.

Modelled: selector, data port and DMA interface; the items that firmware for x86 asks for
(signature, features, UUID, memory size, processor counts, boot menu); the file directory, and
files that the guest may write where the machine allows it. Left out: writing through the data
port (QEMU ignores it since 2.4), and the layout for memory-mapped machines.

Everything the guest hands to the DMA interface is hostile: addresses outside of memory set the
error bit, and no length makes the host allocate or copy more than an item and a bounded padding.

Spec: QEMU, docs/specs/fw_cfg.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from devices.pc_ports import FW_CFG_PORTS as PORTS
from devices.records import Record
from devices.registers import Register, RegisterDevice, RegisterTable
from devices.states import require, require_unsigned
from devices.wiring import GuestAddressError, StateError

TYPE_CHECKING = False
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import GuestMemory, State

__all__ = ["PORTS", "FwCfg", "FwCfgState"]


KEY_SIGNATURE = 0x00
KEY_ID = 0x01
KEY_UUID = 0x02
KEY_RAM_SIZE = 0x03
KEY_NB_CPUS = 0x05
KEY_BOOT_MENU = 0x0E
KEY_MAX_CPUS = 0x0F
KEY_FILE_DIR = 0x19
KEY_FILE_FIRST = 0x20
KEY_FILE_LAST = 0x3FFF
KEY_IRQ0_OVERRIDE = 0x8002
KEY_WRITE_MODE = 0x4000
"""A bit of the selector that asked for write access before QEMU 2.4 and means nothing since."""

FEATURE_TRADITIONAL = 1 << 0
FEATURE_DMA = 1 << 1

DMA_ERROR = 1 << 0
DMA_READ = 1 << 1
DMA_SKIP = 1 << 2
DMA_SELECT = 1 << 3
DMA_WRITE = 1 << 4
DMA_REQUEST = struct.Struct(">IIQ")
"""Control, length in bytes, guest-physical address."""

MAX_NAME = 55
MAX_PADDING = 1 << 20
"""Bytes of zeros that one DMA read behind an item's end delivers at most; asking for more is an
error. Firmware reads absent items of a few bytes this way, never more."""

REGISTERS = RegisterTable(
    Register("SELECTOR", 0, size=2, access="w", exact=True, doc="Which item comes next."),
    Register("DATA", 1, access="r", doc="The item's next byte, 0 behind its end."),
    Register("DMA_SIGNATURE", 4, size=8, access="r", reset=int.from_bytes(b"QEMU CFG", "little")),
    Register("DMA_HIGH", 4, size=4, access="w", exact=True, doc="Address 63..32, big-endian."),
    Register("DMA_LOW", 8, size=4, access="w", exact=True, doc="Address 31..0; starts a request."),
    Register("DMA_ADDRESS", 4, size=8, access="w", exact=True, doc="Both halves at once."),
)


class _NoMemory:
    """The memory of a device that is not in a machine."""

    def read(self, gpa: int, size: int) -> bytes:
        """Refuse."""
        raise GuestAddressError(f"no memory at {gpa:#x}")

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Refuse."""
        raise GuestAddressError(f"no memory at {gpa:#x}")


class FwCfgState(Record):
    """Where the guest is reading, and what it has written.

    The other items are the machine's configuration and not saved: the machine that loads this
    state adds the same files in the same order.
    """

    kind: ClassVar[str] = "fw_cfg"
    version: ClassVar[int] = 1

    selector: int
    offset: int
    dma_high: int
    written: tuple[tuple[str, bytes], ...]
    """Name and contents of each writable file."""


class FwCfg(RegisterDevice):
    """The configuration device of a machine with `cpus` processors and `ram_size` bytes of RAM.

    `irq0_override` says that the timer's IRQ 0 is wired to pin 2 of the I/O APIC.

    Raises:
        ValueError: a file cannot be added (see `add_file`), or the UUID is not 16 bytes.
    """

    registers = REGISTERS
    inputs = ("add_file",)

    def __init__(
        self,
        name: str = "fw_cfg",
        *,
        memory: GuestMemory | None = None,
        cpus: int = 1,
        max_cpus: int | None = None,
        ram_size: int = 0,
        uuid: bytes = bytes(16),
        boot_menu: bool = False,
        irq0_override: bool = False,
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        super().__init__(name)
        if len(uuid) != 16:
            raise ValueError("a UUID is 16 bytes")
        self._memory: GuestMemory = memory if memory is not None else _NoMemory()
        self._selector = KEY_SIGNATURE
        self._offset = 0
        self._dma_high = 0
        self._items: dict[int, bytes] = {
            KEY_SIGNATURE: b"QEMU",
            KEY_ID: struct.pack("<I", FEATURE_TRADITIONAL | FEATURE_DMA),
            KEY_UUID: bytes(uuid),
            KEY_RAM_SIZE: struct.pack("<Q", ram_size),
            KEY_NB_CPUS: struct.pack("<H", cpus),
            KEY_BOOT_MENU: struct.pack("<H", boot_menu),
            KEY_MAX_CPUS: struct.pack("<H", cpus if max_cpus is None else max_cpus),
            KEY_FILE_DIR: struct.pack(">I", 0),
            KEY_IRQ0_OVERRIDE: struct.pack("<I", irq0_override),
        }
        self._files: dict[str, int] = {}
        self._originals: dict[int, bytes] = {}  # what writable files held at first
        for file_name, data in files.items():
            self.add_file(file_name, data)

    def add_file(self, name: str, data: bytes, *, writable: bool = False) -> None:
        """Add a file to the directory ("etc/e820", "opt/org.example/answer").

        `writable` lets the guest overwrite its bytes by DMA; its size never changes.

        Raises:
            ValueError: the name is taken, empty, not ASCII or longer than 55 characters, or
                there are too many files.
        """
        if name in self._files:
            raise ValueError(f"fw_cfg has a file {name!r} already")
        if not name.isascii() or not 0 < len(name) <= MAX_NAME or "\0" in name:
            raise ValueError(f"fw_cfg file name {name!r}: 1 to {MAX_NAME} ASCII characters")
        key = KEY_FILE_FIRST + len(self._files)
        if key > KEY_FILE_LAST:
            raise ValueError("fw_cfg has no room for another file")
        self._files[name] = key
        self._items[key] = bytes(data)
        if writable:
            self._originals[key] = self._items[key]
        entries = (
            struct.pack(">IHH56s", len(self._items[k]), k, 0, n.encode())
            for n, k in self._files.items()
        )
        self._items[KEY_FILE_DIR] = struct.pack(">I", len(self._files)) + b"".join(entries)

    def file(self, name: str) -> bytes:
        """Return a file as it is now, with what the guest has written.

        Raises:
            KeyError: there is no such file.
        """
        return self._items[self._files[name]]

    def write_SELECTOR(self, value: int) -> None:
        """Select an item and go to its start."""
        self._selector = value
        self._offset = 0

    def read_DATA(self) -> int:
        """Return the item's next byte."""
        item = self._item()
        if self._offset >= len(item):
            return 0
        self._offset += 1
        return item[self._offset - 1]

    def write_DMA_HIGH(self, value: int) -> None:
        """Keep the upper half of a request's address."""
        self._dma_high = _swap(value, 4)

    def write_DMA_LOW(self, value: int) -> None:
        """Complete a request's address and carry the request out."""
        self._request(self._dma_high << 32 | _swap(value, 4))

    def write_DMA_ADDRESS(self, value: int) -> None:
        """Take a request's address in one piece and carry the request out."""
        self._request(_swap(value, 8))

    def reset(self) -> None:
        """Select the signature, and give writable files their first contents back."""
        super().reset()
        self._selector = KEY_SIGNATURE
        self._offset = 0
        self._dma_high = 0
        self._items.update(self._originals)

    def save(self) -> FwCfgState:
        """Return where the guest is reading, and what it has written."""
        return FwCfgState(
            selector=self._selector,
            offset=self._offset,
            dma_high=self._dma_high,
            written=tuple(
                (name, self._items[key])
                for name, key in self._files.items()
                if key in self._originals
            ),
        )

    def load(self, state: State) -> None:
        """Take over a saved state.

        Raises:
            StateError: it is another device's, a field is out of range, or its writable files
                are not those of this machine.
        """
        state = require(state, FwCfgState)
        require_unsigned(state, selector=16, offset=32, dma_high=32)
        here = {
            name: len(self.file(name)) for name, k in self._files.items() if k in self._originals
        }
        try:
            saved = {name: len(data) for name, data in state.written if type(data) is bytes}
        except (TypeError, ValueError):
            raise StateError("'fw_cfg' field written: not pairs of name and contents") from None
        if saved != here:
            raise StateError("'fw_cfg' field written: not the writable files of this machine")
        self._selector = state.selector
        self._offset = state.offset
        self._dma_high = state.dma_high
        for name, data in state.written:
            self._items[self._files[name]] = data

    def _item(self) -> bytes:
        return self._items.get(self._selector & ~KEY_WRITE_MODE, b"")

    def _request(self, gpa: int) -> None:
        """Carry out the DMA request at `gpa` and report its outcome there."""
        self._dma_high = 0
        try:
            control, length, address = DMA_REQUEST.unpack(self._memory.read(gpa, DMA_REQUEST.size))
            done = self._transfer(control, length, address)
        except GuestAddressError:
            done = False
        # Where the request itself is not in memory there is nowhere to report to.
        with suppress(GuestAddressError):
            self._memory.write(gpa, struct.pack(">I", 0 if done else DMA_ERROR))

    def _transfer(self, control: int, length: int, address: int) -> bool:
        """Do what a request asks for; say whether it could be done.

        Raises:
            GuestAddressError: `address` is not memory.
        """
        if control & DMA_SELECT:
            self.write_SELECTOR(control >> 16)
        if not length:
            return True
        item = self._item()
        present = min(length, max(0, len(item) - self._offset))
        if control & DMA_READ:
            if length - present > MAX_PADDING:
                return False
            if present:
                self._memory.write(address, memoryview(item)[self._offset :][:present])
            if length > present:
                self._memory.write(address + present, bytes(length - present))
        elif control & DMA_WRITE:
            key = self._selector & ~KEY_WRITE_MODE
            if key not in self._originals or present != length:
                return False
            data = self._memory.read(address, length)
            self._items[key] = item[: self._offset] + data + item[self._offset + length :]
        elif not control & DMA_SKIP:
            return True
        self._offset += present
        return True


def _swap(value: int, size: int) -> int:
    """Reverse the bytes of a `size`-byte number: the address register is big-endian."""
    return int.from_bytes(value.to_bytes(size, "little"), "big")
