"""Traces: what a machine's vCPUs did, exit by exit.

    trace = vmm.trace.load("run.vtrace")
    trace.where(port=0x3F8, write=True).values      # b"Hello"
    trace.where(reason="IO").percentile("handler_ns", 99)

What is listed in `__all__` is imported when it is first used: writing a trace needs no NumPy.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.trace.reader import LiveTrace, TraceFile, load
    from vmm.trace.summary import Summary

__all__ = ["LiveTrace", "Summary", "TraceFile", "load"]

_HOMES = {"Summary": "vmm.trace.summary"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vmm.trace' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "vmm.trace.reader")), name)
    globals()[name] = value
    return value
