"""What `vmm run` has a guest watched by: tracers from files, stops, a filter, RIP in records."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from vmm.cli.messages import report
from vmm.cli.options import Options
from vmm.errors import ConfigError
from vmm.trace.trace import Trace
from vmm.usercode import load_class, refused

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["watch"]

_FORM = "FILE.py:CLASS[,NAME=VALUE...]"


def watch(machine: Machine, options: Options) -> None:
    """Attach what the options ask for.

    Raises:
        ConfigError: a tracer cannot be made, or a condition read, or a device or register that
            they name is not there.
    """
    trace = machine.trace
    assert trace is not None
    trace.report = _say_in_any_mode
    trace.rip = options.rip
    for text in options.stop_at:
        trace.stop_at(text)
    if options.trace_only is not None:
        if trace.path is None:
            raise ConfigError("--trace-only: no file gets the exits; add --trace FILE")
        trace.keep_only(options.trace_only)
    for text in options.tracer:
        _attach(trace, machine, text)


def _attach(trace: Trace, machine: Machine, text: str) -> None:
    what, *pairs = text.split(",")
    path, colon, name = what.rpartition(":")
    if not (colon and path and name.isidentifier()):
        raise ConfigError(f"--tracer {text}: give {_FORM}")
    cls = load_class(path, name, "--tracer")
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--tracer {text}: {pair!r}: give NAME=VALUE")
        given[key] = _value(value)
    try:
        parameters = inspect.signature(cls).parameters
        if "machine" in parameters:
            given.setdefault("machine", machine)
        inspect.signature(cls).bind(**given)
    except TypeError as error:
        takes = ", ".join(name for name in parameters if name != "machine") or "no arguments"
        raise ConfigError(f"--tracer {text}: {error}; {name} takes {takes}") from None
    except ValueError:  # a class that does not say what it takes
        pass
    try:
        made = cls(**given)
    except Exception as error:
        raise refused(os.path.abspath(path), error, f"{name}()") from error
    trace.attach(made)


def _value(text: str) -> int | str:
    """An argument: a number where it looks like one."""
    try:
        return int(text, 0)
    except ValueError:
        return text


def _say_in_any_mode(text: str) -> None:
    """Say something while the guest runs: a terminal in raw mode needs the carriage returns."""
    margin = "\r" if os.isatty(2) else ""
    report(f"{margin}vmm: {text}{margin}")
