from __future__ import annotations

import pytest

from vmm.last_words import last_words

LINUX = b"[    1.5] Kernel panic - not syncing: %s\r\n"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (b"", ""),
        (b"Kernel panic - not syncing: \r\n", ""),
        (b"before\n" + LINUX % b"Attempted to kill init!" + b"Call Trace:\n <TASK>\n",
         "Attempted to kill init!"),
        (LINUX % b"first" + LINUX % b"second", "second"),
        (LINUX % b"red \x1b[31m \xff", "red ?[31m \N{REPLACEMENT CHARACTER}"),
        (b"Kernel panic - not syncing: cut off", "cut off"),
        (LINUX % (b"x" * 1000), "x" * 200),
        (LINUX % b"long ago" + b"." * 70_000, ""),
    ],
)  # fmt: skip
def test_what_it_said(output, words):
    assert last_words(output) == words
