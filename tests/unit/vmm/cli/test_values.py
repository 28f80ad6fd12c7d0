"""Reading the values of options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.cli.values import address, close_to, count, one_of, seconds
from vmm.errors import ConfigError

READERS = [count("-x"), seconds("-x"), address("-x"), one_of("-x", ("on", "off"))]


@pytest.mark.parametrize("read", READERS)
@given(text=st.text())
def test_any_text_gives_a_value_or_our_own_error(read, text):
    try:
        read(text)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.startswith("-x ")


@given(st.integers(1, 1 << 64))
def test_counts_are_above_zero(number):
    assert count("-x")(str(number)) == number


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("255", 255), ("0xFF", 255), ("0b11", 3), ("-1", -1), ("1_0", 10)]
)
def test_addresses_are_written_as_in_c(text, value):
    assert address("-x")(text) == value


def test_seconds_have_fractions():
    assert seconds("-x")("0.25") == 0.25


def test_a_near_miss_is_named():
    assert close_to("serail", ("serial", "keyboard")) == "did you mean serial?"
    assert close_to("xyz", ("serial", "keyboard")) == ""
