"""The wire: what is framed comes out whole, and what is none ends the connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.gdb.packets import LONGEST, Decoder, ProtocolError, Sign, encode, escape, from_hex


def test_a_packet_as_the_manual_has_it():
    assert encode(b"OK") == b"$OK#9a"
    assert escape(b"a#$}*b") == b"a}\x03}\x04}]}\nb"
    assert list(Decoder().feed(b"+$OK#9a-\x03")) == [Sign.ACK, b"OK", Sign.RESEND, Sign.INTERRUPT]


@given(st.lists(st.binary(max_size=64), max_size=8), st.integers(1, 7))
def test_whatever_is_escaped_arrives_however_it_is_cut(contents, size):
    stream = b"".join(encode(escape(content)) for content in contents)
    decoder, found = Decoder(), []
    for start in range(0, len(stream), size):
        found += decoder.feed(stream[start : start + size])
    assert found == contents


@given(st.lists(st.binary(max_size=32), max_size=8))
def test_anything_is_taken_apart_or_refused(pieces):
    decoder = Decoder()
    try:
        for piece in pieces:
            for item in decoder.feed(piece):
                assert isinstance(item, bytes | Sign)
    except ProtocolError:
        pass


@pytest.mark.parametrize("sum_", [b"9b", b"zz", b"9 "])
def test_a_wrong_checksum_is_told(sum_):
    assert list(Decoder().feed(b"$OK#" + sum_)) == [Sign.DAMAGED]


@pytest.mark.parametrize(
    "stream",
    [b"GET / HTTP/1.1\r\n", b"$" + b"a" * (LONGEST + 8), encode(b"a" * (LONGEST + 1)), b"$}#7d"],
)
def test_what_is_no_packet_of_gdbs_ends_it(stream):
    with pytest.raises(ProtocolError):
        list(Decoder().feed(stream))


def test_hexadecimal_digits_and_nothing_else():
    assert from_hex(b"00fF") == b"\x00\xff"
    for wrong in (b"0", b"0g", b"00 11", b"\xff\xff"):
        with pytest.raises(ValueError, match=r"."):
            from_hex(wrong)
