"""fw_cfg as SeaBIOS, OVMF and the Linux driver use it, and as a hostile guest does.

Keys and control bits are written down again here, from QEMU's docs/specs/fw_cfg.rst.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import GuestAddressError, StateError
from devices.fw_cfg import PORTS, FwCfg

SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0, 1, 4, 8
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16

REQUEST = 0x100
BUFFER = 0x800


class Memory:
    """16 KiB of guest memory at `base`, noting the largest piece moved."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.bytes = bytearray(b"\xcc" * 0x4000)
        self.largest = 0

    def read(self, gpa: int, size: int) -> bytes:
        start = self._start(gpa, size)
        return bytes(self.bytes[start : start + size])

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        self.largest = max(self.largest, len(data))
        start = self._start(gpa, len(data))
        self.bytes[start : start + len(data)] = data

    def _start(self, gpa: int, size: int) -> int:
        if not self.base <= gpa <= self.base + len(self.bytes) - size:
            raise GuestAddressError(f"{gpa:#x}")
        return gpa - self.base


class Firmware:
    """The guest's side of the device."""

    def __init__(self, **options) -> None:
        self.memory = options.pop("memory", None) or Memory()
        self.device = FwCfg(memory=self.memory, **options)

    def item(self, key: int, size: int) -> bytes:
        self.device.write(SELECTOR, 2, key)
        return bytes(self.device.read(DATA, 1) for _ in range(size))

    def directory(self) -> dict[str, tuple[int, int]]:
        (count,) = struct.unpack(">I", self.item(0x19, 4))
        entries = {}
        for _ in range(count):
            raw = bytes(self.device.read(DATA, 1) for _ in range(64))
            size, key, reserved, name = struct.unpack(">IHH56s", raw)
            assert reserved == 0
            assert name.endswith(b"\0")
            entries[name.rstrip(b"\0").decode()] = (key, size)
        return entries

    def dma(self, control: int, length: int = 0, address: int = BUFFER, at: int = REQUEST) -> int:
        """Carry out a request; return the control word that it leaves behind."""
        self.memory.write(at, struct.pack(">IIQ", control, length, address))
        if at >> 32:
            self.device.write(DMA_HIGH, 4, swapped(at >> 32))
        self.device.write(DMA_LOW, 4, swapped(at & 0xFFFF_FFFF))
        return struct.unpack(">I", self.memory.read(at, 4))[0]


def swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")


def test_ports():
    assert (PORTS.start, PORTS.stop) == (0x510, 0x51C)


class TestItems:
    def test_signature_and_features(self):
        firmware = Firmware()
        assert firmware.item(0x00, 4) == b"QEMU"
        assert firmware.item(0x01, 4) == b"\x03\0\0\0", "traditional and DMA"

    def test_the_machine(self):
        firmware = Firmware(cpus=3, max_cpus=8, ram_size=5 << 30, uuid=bytes(range(16)))
        assert firmware.item(0x02, 16) == bytes(range(16))
        assert struct.unpack("<Q", firmware.item(0x03, 8)) == (5 << 30,)
        assert struct.unpack("<H", firmware.item(0x05, 2)) == (3,)
        assert struct.unpack("<H", firmware.item(0x0F, 2)) == (8,)
        assert struct.unpack("<H", firmware.item(0x0E, 2)) == (0,)
        assert struct.unpack("<I", firmware.item(0x8002, 4)) == (0,)

    def test_switches(self):
        firmware = Firmware(boot_menu=True, irq0_override=True)
        assert struct.unpack("<H", firmware.item(0x0E, 2)) == (1,)
        assert struct.unpack("<I", firmware.item(0x8002, 4)) == (1,)

    def test_max_cpus_follows_cpus(self):
        assert struct.unpack("<H", Firmware(cpus=4).item(0x0F, 2)) == (4,)

    def test_behind_the_end_there_are_zeros(self):
        assert Firmware().item(0x00, 8) == b"QEMU\0\0\0\0"

    def test_an_item_that_is_not_there_is_zeros(self):
        assert Firmware().item(0x0D, 8) == bytes(8)
        assert Firmware().item(0xFFFF, 2) == bytes(2)

    def test_selecting_again_starts_over(self):
        firmware = Firmware()
        firmware.item(0x00, 2)
        assert firmware.item(0x00, 4) == b"QEMU"

    def test_write_mode_selects_the_same_item(self):
        assert Firmware().item(0x4000, 4) == b"QEMU"

    def test_a_uuid_of_another_size(self):
        with pytest.raises(ValueError, match="16 bytes"):
            FwCfg(uuid=b"123")


class TestPorts:
    def test_the_selector_takes_words_only(self):
        firmware = Firmware()
        firmware.device.write(SELECTOR, 2, 0x00)
        firmware.device.write(SELECTOR, 1, 0x19)
        firmware.device.write(SELECTOR, 4, 0x0019)
        assert firmware.device.read(DATA, 1) == ord("Q")

    def test_the_data_port_takes_no_writes(self):
        firmware = Firmware(files={"opt/a": b"abc"})
        firmware.device.write(SELECTOR, 2, 0x20)
        firmware.device.write(DATA, 1, 0x58)
        assert firmware.item(0x20, 3) == b"abc"

    def test_the_selector_cannot_be_read(self):
        assert Firmware().device.read(SELECTOR, 1) == 0xFF

    def test_the_dma_register_tells_that_it_is_there(self):
        device = FwCfg()
        assert device.read(DMA_HIGH, 8).to_bytes(8, "little") == b"QEMU CFG"
        assert device.read(DMA_HIGH, 4).to_bytes(4, "little") == b"QEMU"
        assert device.read(DMA_LOW + 2, 2).to_bytes(2, "little") == b"FG"


class TestFiles:
    def test_the_directory(self):
        firmware = Firmware(files={"etc/a": b"12345", "opt/b": b""})
        assert firmware.directory() == {"etc/a": (0x20, 5), "opt/b": (0x21, 0)}
        firmware.device.add_file("etc/c", b"xyz")
        key, size = firmware.directory()["etc/c"]
        assert firmware.item(key, size) == b"xyz"
        assert firmware.device.file("etc/c") == b"xyz"

    def test_an_empty_directory(self):
        assert Firmware().directory() == {}

    @pytest.mark.parametrize("name", ["", "x" * 56, "naïve", "a\0b"])
    def test_names_that_do_not_fit(self, name):
        with pytest.raises(ValueError, match="ASCII"):
            FwCfg().add_file(name, b"")

    def test_the_longest_name(self):
        name = "n" * 55
        assert list(Firmware(files={name: b"1"}).directory()) == [name]

    def test_a_name_is_taken_once(self):
        device = FwCfg(files={"opt/a": b""})
        with pytest.raises(ValueError, match="already"):
            device.add_file("opt/a", b"")

    def test_the_device_keeps_its_own_copy(self):
        data = bytearray(b"before")
        device = FwCfg()
        device.add_file("opt/a", data)
        data[:] = b"after!"
        assert device.file("opt/a") == b"before"


class TestDma:
    def test_select_and_read(self):
        firmware = Firmware(files={"opt/a": b"hello world"})
        assert firmware.dma(0x20 << 16 | SELECT | READ, 11) == 0
        assert firmware.memory.read(BUFFER, 12) == b"hello world\xcc"

    def test_reads_go_on_where_the_last_ended(self):
        firmware = Firmware(files={"opt/a": b"hello world"})
        assert firmware.dma(0x20 << 16 | SELECT) == 0
        assert firmware.dma(READ, 6) == 0
        assert firmware.dma(READ, 5) == 0
        assert firmware.memory.read(BUFFER, 6) == b"world "
        firmware.device.write(SELECTOR, 2, 0x20)
        assert firmware.dma(READ, 2) == 0
        assert firmware.device.read(DATA, 1) == ord("l"), "both interfaces share the offset"

    def test_skip(self):
        firmware = Firmware(files={"opt/a": b"hello world"})
        assert firmware.dma(0x20 << 16 | SELECT | SKIP, 6) == 0
        assert firmware.dma(READ, 5) == 0
        assert firmware.memory.read(BUFFER, 5) == b"world"

    def test_behind_the_end_there_are_zeros(self):
        firmware = Firmware()
        assert firmware.dma(SELECT | READ, 8) == 0
        assert firmware.memory.read(BUFFER, 9) == b"QEMU\0\0\0\0\xcc"
        assert firmware.dma(0x0D << 16 | SELECT | READ, 8) == 0
        assert firmware.memory.read(BUFFER, 9) == bytes(8) + b"\xcc"

    def test_read_wins_over_write_and_skip(self):
        firmware = Firmware()
        assert firmware.dma(SELECT | READ | WRITE | SKIP, 4) == 0
        assert firmware.memory.read(BUFFER, 4) == b"QEMU"

    def test_a_request_above_4_gib(self):
        memory = Memory(base=1 << 33)
        firmware = Firmware(memory=memory)
        where = (1 << 33) + BUFFER
        assert firmware.dma(SELECT | READ, 4, where, at=(1 << 33) + REQUEST) == 0
        assert memory.read(where, 4) == b"QEMU"

    def test_the_upper_half_lasts_for_one_request(self):
        firmware = Firmware()
        firmware.device.write(DMA_HIGH, 4, swapped(1))
        firmware.device.write(DMA_LOW, 4, 0)  # no memory there, and nothing to report to
        assert firmware.dma(SELECT | READ, 4) == 0

    def test_the_whole_address_in_one_write(self):
        firmware = Firmware()
        firmware.memory.write(REQUEST, struct.pack(">IIQ", SELECT | READ, 4, BUFFER))
        firmware.device.write(DMA_HIGH, 8, int.from_bytes(REQUEST.to_bytes(8, "big"), "little"))
        assert firmware.memory.read(BUFFER, 4) == b"QEMU"

    def test_narrow_writes_start_nothing(self):
        firmware = Firmware()
        firmware.memory.write(REQUEST, struct.pack(">IIQ", SELECT | READ, 4, BUFFER))
        firmware.device.write(DMA_LOW + 2, 2, 0x0001)
        firmware.device.write(DMA_LOW, 1, 0)
        assert firmware.memory.read(BUFFER, 1) == b"\xcc"


class TestDmaWrite:
    def test_a_writable_file(self):
        firmware = Firmware()
        firmware.device.add_file("etc/w", b"--------", writable=True)
        firmware.memory.write(BUFFER, b"new")
        assert firmware.dma(0x20 << 16 | SELECT | SKIP, 2) == 0
        assert firmware.dma(WRITE, 3) == 0
        assert firmware.device.file("etc/w") == b"--new---"
        assert firmware.dma(READ, 3) == 0
        assert firmware.memory.read(BUFFER, 3) == b"---"

    def test_its_size_never_changes(self):
        firmware = Firmware()
        firmware.device.add_file("etc/w", b"1234", writable=True)
        assert firmware.dma(0x20 << 16 | SELECT | WRITE, 5) == ERROR
        assert firmware.device.file("etc/w") == b"1234"

    def test_other_items_are_read_only(self):
        firmware = Firmware(files={"opt/a": b"1234"})
        assert firmware.dma(0x20 << 16 | SELECT | WRITE, 4) == ERROR
        assert firmware.dma(0x00 << 16 | SELECT | WRITE, 1) == ERROR
        assert firmware.dma(0x7777 << 16 | SELECT | WRITE, 1) == ERROR
        assert firmware.device.file("opt/a") == b"1234"

    def test_no_bytes_are_no_error(self):
        assert Firmware().dma(SELECT | WRITE, 0, address=1 << 60) == 0

    def test_power_on_undoes_it(self):
        firmware = Firmware()
        firmware.device.add_file("etc/w", b"1234", writable=True)
        assert firmware.dma(0x20 << 16 | SELECT | WRITE, 4) == 0
        assert firmware.device.file("etc/w") == b"\xcc" * 4
        firmware.device.reset()
        assert firmware.device.file("etc/w") == b"1234"


class TestHostile:
    @pytest.mark.parametrize("address", [0x4000, 0x3FFE, 1 << 40, (1 << 64) - 2])
    @pytest.mark.parametrize("operation", [READ, WRITE])
    def test_a_buffer_outside_of_memory(self, operation, address):
        firmware = Firmware()
        firmware.device.add_file("etc/w", b"1234", writable=True)
        assert firmware.dma(0x20 << 16 | SELECT | operation, 4, address) == ERROR
        assert firmware.device.file("etc/w") == b"1234"

    @pytest.mark.parametrize("length", [(1 << 20) + 5, 1 << 31, 0xFFFF_FFFF])
    def test_a_huge_read_moves_nothing(self, length):
        firmware = Firmware()
        assert firmware.dma(SELECT | READ, length) == ERROR
        assert firmware.memory.largest <= 16
        assert firmware.memory.read(BUFFER, 4) == b"\xcc" * 4

    def test_a_huge_skip_ends_at_the_end(self):
        firmware = Firmware(files={"opt/a": b"abc"})
        assert firmware.dma(0x20 << 16 | SELECT | SKIP, 0xFFFF_FFFF) == 0
        assert firmware.device.save().offset == 3
        assert firmware.device.read(DATA, 1) == 0

    @pytest.mark.parametrize("at", [0x3FFC, 0x4000, 0xFFFF_FFFC])
    def test_a_request_outside_of_memory(self, at):
        firmware = Firmware()
        firmware.device.write(DMA_LOW, 4, swapped(at))
        if at == 0x3FFC:
            assert firmware.memory.read(at, 4) == b"\0\0\0\1", "there is room for the error bit"

    def test_a_request_that_reads_over_itself(self):
        firmware = Firmware()
        assert firmware.dma(SELECT | READ, 4, address=REQUEST) == 0

    def test_a_device_outside_of_a_machine(self):
        FwCfg().write(DMA_LOW, 4, 0)

    @settings(max_examples=200, deadline=None)
    @given(
        requests=st.lists(
            st.tuples(
                st.integers(0, 0x1F) | st.integers(0, 2**32 - 1),
                st.sampled_from([0, 0x19, 0x20, 0x21, 0x8002]) | st.integers(0, 0xFFFF),
                st.integers(0, 64) | st.integers(0, 2**32 - 1),
                st.integers(0, 0x4100) | st.integers(0, 2**64 - 1),
            ),
            max_size=8,
        )
    )
    def test_any_request_succeeds_or_sets_the_error_bit(self, requests):
        firmware = Firmware(files={"opt/a": b"abc"})
        firmware.device.add_file("etc/w", b"12345678", writable=True)
        for flags, key, length, address in requests:
            assert firmware.dma((flags & 0xFFFF) | key << 16, length, address) in (0, ERROR)
        assert firmware.memory.largest <= 1 << 20
        assert firmware.device.file("opt/a") == b"abc"
        assert len(firmware.device.file("etc/w")) == 8


class TestState:
    def test_reading_goes_on(self):
        firmware, other = Firmware(files={"opt/a": b"abc"}), Firmware(files={"opt/a": b"abc"})
        firmware.item(0x20, 1)
        other.device.load(firmware.device.save())
        assert [other.device.read(DATA, 1) for _ in range(3)] == [ord("b"), ord("c"), 0]

    def test_another_machines_files_are_refused(self):
        firmware, other = Firmware(), Firmware()
        firmware.device.add_file("etc/w", b"1234", writable=True)
        other.device.add_file("etc/w", b"12345", writable=True)
        with pytest.raises(StateError, match="writable files"):
            other.device.load(firmware.device.save())
        assert other.device.file("etc/w") == b"12345"
