"""The journal's encoding: values and entries, whole and damaged."""

from __future__ import annotations

import enum
import struct
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.trace.journal import JournalError, Memory, Opaque, Wire, decode, encode, entries

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary() | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back(value: object) -> None:
    data = encode(value)
    assert decode(memoryview(data)) == (value, len(data))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"N"),
        (True, b"T"),
        (False, b"F"),
        (-2, b"i" + struct.pack("<q", -2)),
        (1 << 63, b"I\x09" + bytes(7) + b"\x80\x00"),
        (b"ab", b"b\x02\0\0\0ab"),
        ("é", b"s\x02\0\0\0\xc3\xa9"),
        ((1 == 1, None), b"t\x02\0TN"),
        ({"a": b""}, b"d\x01\0s\x01\0\0\0ab\0\0\0\0"),
        (Wire(0x102), b"f\x02\x01"),
        (Memory(3), b"m\x03\0"),
    ],
)
def test_the_bytes_of_a_value(value: object, data: bytes) -> None:
    assert encode(value) == data
    assert decode(memoryview(data)) == (value, len(data))


def test_relatives_of_what_can_be_kept() -> None:
    number = enum.IntEnum("number", {"TWO": 2}).TWO
    assert encode(number) == encode(2)
    assert encode(memoryview(b"ab")) == encode(bytearray(b"ab")) == encode(b"ab")
    assert encode(MappingProxyType({"a": 1})) == encode({"a": 1})
    assert encode([1]) == encode((1,))


@pytest.mark.parametrize("value", [object(), {1, 2}, 1 << 4000, (0,) * 70_000, 1.5])
def test_what_cannot_be_kept_is_named(value: object) -> None:
    assert decode(memoryview(encode(value)))[0] == Opaque(type(value).__name__)


@given(VALUES, st.data())
def test_a_value_that_is_cut_off(value: object, data: st.DataObject) -> None:
    whole = encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(JournalError):
        decode(memoryview(whole[:cut]))


@given(st.binary())
def test_bytes_that_are_no_value(data: bytes) -> None:
    try:
        _, end = decode(memoryview(data))
    except JournalError:
        return
    assert 0 < end <= len(data)


def test_values_that_lie_too_deep() -> None:
    with pytest.raises(JournalError, match="no value"):
        decode(memoryview(b"t\x01\0" * 100 + b"N"))
    with pytest.raises(JournalError, match="no text"):
        decode(memoryview(b"d\x01\0NN"))


def test_entries_one_after_the_other() -> None:
    chunk = bytes.fromhex("05 01 0200 02000000 4e54  07 00 0000 00000000")
    first, second = entries(chunk)
    assert (first.kind, first.flags, first.who, bytes(first.payload)) == (5, 1, 2, b"NT")
    assert (second.kind, len(second.payload)) == (7, 0)


@pytest.mark.parametrize(
    ("chunk", "what"),
    [
        ("05 01 0200", "cut off after 4 bytes"),
        ("05 01 0200 02000000 4e", "2 bytes at byte 8 of an entry of 9"),
        ("08 00 0000 00000000", "no entry is of kind 8"),
    ],
)
def test_damaged_entries(chunk: str, what: str) -> None:
    with pytest.raises(JournalError, match=what):
        list(entries(bytes.fromhex(chunk)))
