from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from devices import StateError
from devices.states import require, require_bytes, require_flags, require_unsigned


@dataclass(frozen=True)
class ThisState:
    kind: ClassVar[str] = "this"
    version: ClassVar[int] = 2
    level: int = 0


class LaterState(ThisState):
    version = 3


@dataclass(frozen=True)
class OtherState:
    kind: ClassVar[str] = "other"
    version: ClassVar[int] = 2


def test_a_fitting_state_passes():
    state = ThisState()
    assert require(state, ThisState) is state


def test_another_kind_is_named():
    with pytest.raises(StateError, match=r"'other'.*'this'"):
        require(OtherState(), ThisState)


def test_another_version_is_named():
    with pytest.raises(StateError, match=r"version 3 .*version 2"):
        require(LaterState(), ThisState)


def test_something_else_entirely():
    with pytest.raises(StateError, match="'str'"):
        require("this", ThisState)


@pytest.mark.parametrize("value", [-1, 256, "1", 1.0, True, None])
def test_a_field_that_does_not_fit(value):
    with pytest.raises(StateError, match="level"):
        require_unsigned(ThisState(level=value), level=8)


@pytest.mark.parametrize("value", [0, 255])
def test_a_field_that_fits(value):
    require_unsigned(ThisState(level=value), level=8)


@pytest.mark.parametrize("value", [0, 1, None, "True"])
def test_a_flag_that_is_no_bool(value):
    with pytest.raises(StateError, match="level"):
        require_flags(ThisState(level=value), "level")


@pytest.mark.parametrize("value", [b"", b"abc", "ab", [1], None])
def test_bytes_that_do_not_fit(value):
    with pytest.raises(StateError, match="level: not 1 to 2 bytes"):
        require_bytes(ThisState(level=value), level=range(1, 3))


def test_flags_and_bytes_that_fit():
    require_flags(ThisState(level=True), "level")
    require_bytes(ThisState(level=b"ab"), level=range(1, 3))
