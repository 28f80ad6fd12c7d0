"""Why a guest's kernel panicked, in its own words: they are on its console."""

from __future__ import annotations

import re

__all__ = ["last_words"]

_LINUX = re.compile(rb"Kernel panic - not syncing: ([^\r\n]{1,200})")
_LOOKED_AT = 1 << 16
"""A call trace is behind the words, and what other processors had to say."""


def last_words(output: bytes) -> str:
    """What Linux gave as its reason, last of all that is on the console; "" where it gave none.

    What a terminal should not be shown is replaced: the guest wrote it.
    """
    found = _LINUX.findall(output[-_LOOKED_AT:])
    text = found[-1].decode("utf-8", "replace").strip() if found else ""
    return "".join(c if c.isprintable() else "?" for c in text)
