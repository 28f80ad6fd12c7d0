"""AML byte by byte, as the specification's grammar has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.acpi import aml
from firmware.acpi.resources import interrupt, io, irq, memory32, template


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x1_0000, "0c00000100"),
        (0xFFFF_FFFF, "0cffffffff"),
        (0x1_0000_0000, "0e0000000001000000"),
        ((1 << 64) - 1, "0effffffffffffffff"),
    ],
)
def test_an_integer_takes_its_shortest_form(value, encoded):
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ValueError, match="64 bits"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("PNP0501", "0c41d00501"), ("PNP0C02", "0c41d00c02"), ("PNP0F13", "0c41d00f13")],
)
def test_an_eisa_id_is_compressed(text, encoded):
    assert aml.eisa_id(text).hex() == encoded


@pytest.mark.parametrize("text", ["PNP050", "pnp0501", "PN_0501", "PNP05011", "PNP05G1"])
def test_what_is_no_eisa_id_is_refused(text):
    with pytest.raises(ValueError, match=r"EISA id|invalid literal"):
        aml.eisa_id(text)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("_HID", b"_HID"),
        ("\\_SB", b"\\_SB_"),
        ("\\", b"\\\0"),
        ("^A", b"^A___"),
        ("\\_SB.GED", b"\\\x2e_SB_GED_"),
        ("A.B.C1", b"\x2f\x03A___B___C1__"),
    ],
)
def test_names(path, encoded):
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["lower", "TOOLONG", "1ABC", "A..B", "A.", "\\\\A", "^\\A", "Ä"])
def test_what_is_no_name_is_refused(path):
    with pytest.raises(ValueError, match="AML name"):
        aml.name_string(path)


def length_of(term: bytes, at: int) -> tuple[int, int]:
    """Decode a package length; returns it and the offset behind it."""
    lead = term[at]
    more = lead >> 6
    if not more:
        return lead, at + 1
    assert lead & 0x30 == 0
    value = lead & 0xF
    for n in range(more):
        value |= term[at + 1 + n] << 4 + 8 * n
    return value, at + 1 + more


@pytest.mark.parametrize(
    "size", [0, 1, 57, 58, 59, 60, 61, 62, 4088, 4089, 4090, 4091, 4092, 1 << 16, (1 << 20) + 5]
)
def test_a_package_length_counts_itself(size):
    term = aml.scope("\\", bytes(size))
    value, behind = length_of(term, 1)
    assert value == len(term) - 1
    assert term[behind:] == b"\\\0" + bytes(size)


@given(st.integers(0, 5000))
def test_a_buffer_says_its_size(size):
    term = aml.buffer(bytes(size))
    value, behind = length_of(term, 1)
    assert term[0] == 0x11
    assert value == len(term) - 1
    assert term[behind:] == aml.integer(size) + bytes(size)


def test_terms():
    assert aml.name("_UID", 1) == b"\x08_UID\x01"
    assert aml.name("_HID", "AB0") == b"\x08_HID\x0dAB0\0"
    assert aml.package(0, "A", aml.integer(2)) == b"\x12\x08\x03\x00\x0dA\0\x0a\x02"
    assert aml.device("GED", aml.name("_UID", 0)) == b"\x5b\x82\x0bGED_\x08_UID\0"
    assert aml.method("_EVT", 1, serialized=True) == b"\x14\x06_EVT\x09"
    assert aml.method("_STA", 0, aml.returns(15)) == b"\x14\x09_STA\x00\xa4\x0a\x0f"
    assert aml.when(aml.equal(aml.argument(6), 3)) == b"\xa0\x05\x93\x6e\x0a\x03"
    assert aml.notify("GED", 0x80) == b"\x86GED_\x0a\x80"
    region = aml.operation_region("R", aml.SYSTEM_IO, 0x600, 4)
    assert region == b"\x5b\x80R___\x01\x0b\x00\x06\x0a\x04"
    field = aml.field("R", aml.DWORD_ACCESS, ("A", 1), ("", 63), ("B", 64))
    assert field == b"\x5b\x81\x13R___\x03A___\x01\x00\x3fB___\x40\x04"


def test_bounds():
    with pytest.raises(ValueError, match="255"):
        aml.package(*range(256))
    with pytest.raises(ValueError, match="7 at most"):
        aml.method("M", 8)
    with pytest.raises(ValueError, match="0 to 6"):
        aml.argument(7)
    with pytest.raises(ValueError, match="ASCII"):
        aml.string("é")
    with pytest.raises(ValueError, match="28 bits"):
        aml.field("R", aml.BYTE_ACCESS, ("A", 1 << 28))


def test_resources():
    assert io(0x3F8, 8).hex() == "4701f803f8030108"
    assert irq(4).hex() == "221000"
    assert irq(12).hex() == "220010"
    assert interrupt(16).hex() == "8906000301" + "10000000"
    assert interrupt(9, level=True).hex() == "8906000101" + "09000000"
    assert memory32(0xD000_0000, 0x1000).hex() == "86090001" + "000000d0" + "00100000"
    assert template(irq(4)) == aml.buffer(bytes.fromhex("221000" + "7900"))


@pytest.mark.parametrize(
    "wrong", [lambda: io(0xFFF9, 8), lambda: io(0, 256), lambda: irq(16), lambda: memory32(1, -1)]
)
def test_what_no_resource_can_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"ports|IRQ|bytes"):
        wrong()
