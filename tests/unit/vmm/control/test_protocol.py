from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.control.protocol import LONGEST_LINE, ControlError, Lines, from_text, pack, to_text


@given(st.binary(max_size=100))
def test_bytes_come_back(data: bytes) -> None:
    assert from_text(to_text(data)) == data


@pytest.mark.parametrize("text", ["%", "abc", "ä", 5, None])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ControlError, match="not base64"):
        from_text(text)


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9))),
    st.integers(1, 40),
)
def test_messages_come_whole_however_the_stream_is_cut(
    messages: list[dict[str, int | str]], size: int
) -> None:
    stream = b"".join(pack(message) for message in messages)
    lines, found = Lines(), []
    for start in range(0, len(stream), size):
        found += lines.feed(stream[start : start + size])
    assert found == messages


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waits_for_its_end(data: bytes) -> None:
    try:
        found = Lines().feed(data)
    except ControlError:
        return
    assert all(isinstance(message, dict) for message in found)
    assert found == [json.loads(line) for line in data.split(b"\n")[:-1] if line.strip()]


def test_a_message_without_an_end_is_refused() -> None:
    lines = Lines()
    assert lines.feed(b"x" * LONGEST_LINE) == []
    with pytest.raises(ControlError, match="without an end"):
        lines.feed(b"x")


def test_deep_nesting_is_garbage() -> None:
    with pytest.raises(ControlError, match="no message"):
        Lines().feed(b"[" * 100_000 + b"\n")
