"""The grammar of conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import ConfigError
from vmm.trace.conditions import Condition, Masked, Register, Span, parse_condition


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("port=0x3f8", {"port": Span(0x3F8, 0x3F8)}),
        ("port=0x3f8-0x3ff", {"port": Span(0x3F8, 0x3FF)}),
        ("port=16+8", {"port": Span(16, 23)}),
        ("mmio=0xfee00000+0x1000", {"mmio": Span(0xFEE0_0000, 0xFEE0_0FFF)}),
        ("device=com1", {"device": "com1"}),
        ("reg=com1.LSR", {"register": Register("com1", "LSR", None)}),
        ("reg=com1.IER=1", {"register": Register("com1", "IER", Masked(-1, 1))}),
        ("reg=com1.LSR&1", {"register": Register("com1", "LSR", Masked(1, None))}),
        ("reg=com1.LSR&0x60=0x20", {"register": Register("com1", "LSR", Masked(0x60, 0x20))}),
        ("reason=hlt", {"reason": 5}),
        ("reason=KVM_EXIT_MMIO", {"reason": 6}),
        ("rip=0x7c00", {"rip": Span(0x7C00, 0x7C00)}),
        ("rip=0x7c00-0x7dff", {"rip": Span(0x7C00, 0x7DFF)}),
        ("rip=main", {"symbol": ("main", 0)}),
        ("rip=_start.part.0+0x10", {"symbol": ("_start.part.0", 0x10)}),
        ("exits=1000", {"exits": 1000}),
        ("slower=100us", {"slower_ns": 100_000}),
        ("slower=1.5ms", {"slower_ns": 1_500_000}),
        ("value=0x41", {"value": Masked(-1, 0x41)}),
        ("value&0x80", {"value": Masked(0x80, None)}),
        ("write", {"write": True}),
        ("read", {"write": False}),
        (
            "port=0x3f8, write,value=65",
            {"port": Span(0x3F8, 0x3F8), "write": True, "value": Masked(-1, 65)},
        ),
    ],
)
def test_terms(text, terms):
    assert parse_condition(text) == Condition(text=text, **terms)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no term; there are port, mmio"),
        ("prot=1", "'prot=1' is no term"),
        ("port", "port: give port=0x3f8"),
        ("port=", "give port=0x3f8"),
        ("port=x", "'x' is not a number; write 16 or 0x10"),
        ("port=-1", "'' is not a number"),
        ("port=2-1", "the range is empty"),
        ("port=2+0", "the range is empty"),
        ("port=1,port=2", "port is given twice"),
        ("rip=1,rip=2", "rip is given twice"),
        ("read,write", "write is given twice, and both have to hold"),
        ("reg=com1", "give reg=DEVICE.REGISTER"),
        ("reg=com1.LSR&", "'' is not a number"),
        ("reason=XYZ", "no exit reason of this name"),
        ("exits=0", "count from 1"),
        ("slower=100", "give a time with its unit"),
        ("value", "give value=0x41"),
        ("write=1", "this term stands alone"),
        ("rip=+3", "give rip=0x7c00, rip=main"),
    ],
)
def test_what_is_no_condition(text, words):
    with pytest.raises(ConfigError) as refused:
        parse_condition(text)
    assert words in str(refused.value)
    assert str(refused.value).startswith("condition ")


@given(st.text(alphabet="port=mmiode,reg.&+-0x1 slwus", max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        condition = parse_condition(text)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert condition != Condition(text=text)


@pytest.mark.parametrize(
    ("span", "address", "size", "touches"),
    [
        (Span(4, 7), 3, 1, False), (Span(4, 7), 3, 2, True), (Span(4, 7), 7, 4, True),
        (Span(4, 7), 8, 1, False), (Span(4, 4), 0, 8, True),
    ],
)  # fmt: skip
def test_an_access_touches_a_range_with_any_byte(span, address, size, touches):
    assert span.touches(address, size) is touches


@pytest.mark.parametrize(
    ("masked", "values"),
    [
        (Masked(-1, 1), [1]),
        (Masked(3, None), [1, 2, 3]),
        (Masked(3, 1), [1]),
        (Masked(1, 0), [0, 2]),
    ],
)
def test_values(masked, values):
    assert [value for value in range(4) if masked.holds(value)] == values
