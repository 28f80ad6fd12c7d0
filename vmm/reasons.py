"""Why a run ends: `RunResult.reason`, for type checkers.

A module of its own, because a start does without `typing`.
"""

from typing import Literal

__all__ = ["Reason"]

Reason = Literal[
    "halt",
    "shutdown",
    "debug_exit",
    "poweroff",
    "reset",
    "timeout",
    "max_exits",
    "stopped",
    "internal_error",
    "fail_entry",
    "panic",
]
"""halt: HLT with nothing that could wake the processor. shutdown: a triple fault. debug_exit:
the guest wrote to the debug-exit port. poweroff, reset: the guest asked for it. timeout,
max_exits: the bound given to `run`. stopped: `Machine.stop()`. internal_error, fail_entry: KVM
could not go on, or could not enter the guest. panic: the guest's kernel said that it panicked."""
