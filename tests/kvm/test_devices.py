"""What a guest meets at ports and addresses: devices, functions, and nobody."""

from __future__ import annotations

import pytest

import vmm
from devices.registers import Register, RegisterDevice, RegisterTable, bits
from vmm.errors import ExitStatus

pytestmark = pytest.mark.kvm


class Cells:
    """A device of bytes that keeps what it is given."""

    def __init__(self, name="cells", size=0x100):
        self.name = name
        self.bytes = bytearray(size)
        self.log = []

    def read(self, offset, size):
        self.log.append(("r", offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset, size, value):
        self.log.append(("w", offset, size))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self):
        self.bytes[:] = bytes(len(self.bytes))


# -- ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("b02a e6f4 f4", 0x2A),
        ("b83412 e7f4 f4", 0x1234),
        ("66b878563412 66e7f4 f4", 0x12345678),
    ],
    ids=["1", "2", "4"],
)
def test_debug_exit(machine, code, value):
    result = machine(code).run(timeout=10)
    assert (result.reason, result.value, result.exits) == ("debug_exit", value, 1)
    assert result.status == (value << 1 | 1) & 0xFF


def test_debug_exit_gives_way_to_the_users_own(machine):
    m = machine("b02a e6f4 f4")
    written = []
    m.on_out(0xF4)(lambda value, size: written.append((value, size)))
    assert m.run(timeout=10).reason == "halt"
    assert written == [(0x2A, 1)]


def test_debug_exit_can_be_elsewhere_or_nowhere(machine):
    assert machine("e610 f4", debug_exit=0x10).run(timeout=10).reason == "debug_exit"
    assert machine("e6f4 f4", debug_exit=None).run(timeout=10).reason == "halt"


def test_functions_on_one_port(machine):
    m = machine("e410 40 e610 e511 f4")  # in; inc; out; in ax, 0x11; hlt
    written, asked = [], []
    m.on_in(0x10)(lambda size: asked.append(size) or 0x41)
    m.on_out(0x10)(lambda value, size: written.append((value, size)))
    m.on_in(0x11)(lambda: 0xBEEF)
    m.run(timeout=10)
    assert (asked, written, m.regs.rax) == ([1], [(0x42, 1)], 0xBEEF)


def test_a_port_that_nobody_claims_reads_as_ones(machine):
    m = machine("66e599 e699 f4")  # in eax, 0x99; out 0x99, al; hlt
    assert m.run(timeout=10).reason == "halt"
    assert m.regs.rax == 0xFFFF_FFFF
    assert m.pio.unclaimed == {(0x99, False): 1, (0x99, True): 1}


@pytest.mark.parametrize(
    ("code", "mode", "words"),
    [
        ("e499 f4", "real", "read from port 0x99"),
        ("e699 f4", "real", "wrote to port 0x99"),
        ("f36e f4", "real", "wrote to port 0x0"),  # rep outsb
        ("a1000000d0 f4", "protected", "read from MMIO 0xd0000000"),
        ("a3000000d0 f4", "protected", "wrote to MMIO 0xd0000000"),
    ],
)
def test_strict(machine, code, mode, words):
    m = machine(code, mode, strict=True)
    m.regs.rcx = 3
    result = m.run(timeout=10)
    assert result.reason == "internal_error"
    assert result.status == ExitStatus.GUEST_DIED
    assert words in result.detail
    assert words in " ".join(result.report().split())


def test_overlapping_devices_are_refused_and_both_named(machine):
    m = machine()
    m.add_device(Cells("first"), pio=range(0x100, 0x110))
    with pytest.raises(vmm.MappingOverlap, match=r"second.*overlaps first"):
        m.add_device(Cells("second"), pio=range(0x10F, 0x120))
    with pytest.raises(vmm.MappingOverlap, match=r"0x105.*first"):
        m.on_out(0x105)(print)
    assert "second" not in m.devices


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"pio": range(0x10, 0x20), "mmio": range(0xD000_0000, 0xD000_1000)},
        {"pio": range(0xFFF0, 0x10001)},
        {"pio": range(0x10, 0x10)},
        {"pio": range(0x10, 0x20, 2)},
        {"mmio": range(-1, 0x10)},
        {"mmio": range(1 << 60, (1 << 60) + 1)},
    ],
)
def test_impossible_places_for_a_device(machine, where):
    with pytest.raises(vmm.ConfigError, match="cells"):
        machine().add_device(Cells(), **where)


@pytest.mark.parametrize("port", [-1, 0x10000])
def test_impossible_ports_for_a_function(machine, port):
    with pytest.raises(vmm.ConfigError):
        machine().on_out(port)(print)


# -- MMIO -------------------------------------------------------------------------------------


class Counter(RegisterDevice):
    """A user's device: COUNT goes up with every write of 1 to STEP; STATUS clears by ones."""

    name = "counter"
    registers = RegisterTable(
        Register("STEP", 0, 4, access="w", fields=bits(UP=0)),
        Register("COUNT", 4, 4, access="r"),
        Register("STATUS", 8, 2, w1c=0xFFFF, reset=0x8001),
    )

    def write_STEP(self, value: int) -> None:
        self.values["COUNT"] += value & 1


def test_a_device_of_the_users_own_with_a_register_table(machine):
    m = machine(
        "bb000000d0"  # mov ebx, 0xD0000000
        "c70301000000 c70301000000 c70300000000"  # mov dword [ebx], 1, 1, 0
        "66c743080100"  # mov word [ebx+8], 1
        "8b4304 668b5308"  # mov eax, [ebx+4]; mov dx, [ebx+8]
        "8a4b09"  # mov cl, [ebx+9]
        "f4",
        "protected",
    )
    device = Counter()
    m.add_device(device, mmio=range(0xD000_0000, 0xD000_0010))
    result = m.run(timeout=10)
    assert result.reason == "halt", result.report()
    assert (m.regs.rax, m.regs.rdx, m.regs.rcx) == (2, 0x8000, 0x80)
    assert device.values["COUNT"] == 2
    assert m.devices["counter"] is device


def test_mmio_over_memory_is_refused(machine):
    m = machine()
    for where in (range(0x1000, 0x2000), range(0x1F_F000, 0x20_1000), range(1 << 30)):
        with pytest.raises(vmm.MappingOverlap, match=r"cells.*RAM"):
            m.add_device(Cells(), mmio=where)
    m.add_device(Cells(), mmio=range(0x20_0000, 0x20_1000))


def test_a_load_over_the_end_of_a_device(machine):
    m = machine("a1fe0000d0 f4", "protected")  # mov eax, [0xD00000FE]
    cells = Cells()
    cells.bytes[0xFE:] = b"\x11\x22"
    m.add_device(cells, mmio=range(0xD000_0000, 0xD000_0100))
    m.run(timeout=10)
    assert m.regs.rax == 0xFFFF2211
