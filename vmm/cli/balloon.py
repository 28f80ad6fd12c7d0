"""`vmm balloon`: how much memory a machine's guest has given back, and how much it is asked for."""

from __future__ import annotations

import json
import time
from typing import Any

from vmm.cli.options import Options
from vmm.control.client import Client
from vmm.layout import parse_size

__all__ = ["balloon"]

_PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.05
_MIB = 1 << 20


def balloon(options: Options) -> int:
    """Show a balloon, or have it resized and wait for the guest.

    Raises:
        ConfigError: the size is none.
        ControlError: the machine has no balloon.
    """
    size = None if options.size is None else parse_size(options.size, what="balloon")
    with Client.connect(options.name) as client:
        told = client.call("balloon", size=size)
        end = time.monotonic() + _PATIENCE_S
        while _is_under_way(told, size) and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN_S)
            told = client.call("balloon")
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        print(_in_words(told))
    return 0


def _is_under_way(told: dict[str, Any], size: int | None) -> bool:
    """Statistics were asked for and are to come, or the guest has not done what it is to do."""
    if size is None:
        return not told["statistics"] and bool(told["ready"])
    return bool(told["target"] != told["actual"])


def _in_words(told: dict[str, Any]) -> str:
    text = f"the guest has given back {told['actual'] / _MIB:,.0f}M"
    if told["target"] != told["actual"]:
        text += f" of {told['target'] / _MIB:,.0f}M that it is asked for"
    if not told["ready"]:
        text += "; it has no driver for the balloon (yet)"
    if told["reported"]:
        text += f", and reported {told['reported'] / _MIB:,.0f}M as free"
    memory = {name: value for name, value in told["statistics"].items() if value}
    if "total" in memory:
        total, free = memory["total"] / _MIB, memory.get("free", 0) / _MIB
        text += f"\nof its {total:,.0f}M it has {free:,.0f}M free"
        if "available" in memory:
            text += f", {memory['available'] / _MIB:,.0f}M available"
    return text
