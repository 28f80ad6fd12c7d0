"""`vmm ps`, `pause`, `resume`, `stop`, `kill`: the machines of this user that run."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.cli.progress import Progress
from vmm.control.client import Client
from vmm.control.protocol import ControlError, GoneError
from vmm.control.registry import names

__all__ = ["kill", "pause", "ps", "resume", "snapshot", "stop"]

_HEADINGS = ("NAME", "PID", "PHASE", "IMAGE", "VCPUS", "MEMORY", "UPTIME", "EXITS", "EXITS/S")
_RIGHT = frozenset({"PID", "VCPUS", "MEMORY", "UPTIME", "EXITS", "EXITS/S"})
_LOOK_S = 0.25
"""How long exits are counted for their rate."""
_STOP_PATIENCE_S = 10.0
_SNAPSHOT_PATIENCE_S = 600.0
_LOOK_AGAIN_S = 0.02


def ps(options: Options) -> int:
    """List the machines that run."""
    first, began = _look(), time.monotonic()
    if first:
        time.sleep(_LOOK_S)
    second, took_s = _look(), time.monotonic() - began
    for name, info in second.items():
        before = first.get(name, info)
        same = before["pid"] == info["pid"]
        info["exits_per_s"] = (info["exits"] - before["exits"]) / took_s if same else 0.0
    if options.json:
        print(json.dumps(list(second.values()), indent=2))
    else:
        _print_table([_row(info) for info in second.values()])
    return 0


def pause(options: Options) -> int:
    """Hold a machine, at once or where a condition is met.

    Raises:
        ControlError: it is no condition, or the run ended before it was met.
    """
    with Client.connect(options.name) as client:
        if options.at is None:
            client.call("pause")
        else:
            print(_pause_at(client, options.at))
    return 0


def snapshot(options: Options) -> int:
    """Save the whole state of a machine, which runs on.

    Raises:
        ControlError: a device of it cannot be saved, or the file cannot be written.
    """
    with Client.connect(options.name) as client:
        base = None if options.base is None else os.path.abspath(options.base)
        path = os.path.abspath(options.file)
        client.call("snapshot", path=path, base=base, timeout_s=_SNAPSHOT_PATIENCE_S)
    return 0


def resume(options: Options) -> int:
    """Let a machine that is held go on."""
    with Client.connect(options.name) as client:
        client.call("resume")
    return 0


def stop(options: Options) -> int:
    """Have a guest shut itself down, or end its run, and wait until it has ended.

    Raises:
        ControlError: it did not end.
    """
    with Client.connect(options.name) as client:
        # A guest that is held cannot do anything, and whoever holds it has a reason.
        if client.call("info")["phase"] == "paused":
            say(f"{client.name}: the guest is held and cannot shut itself down; it is ended")
        elif not client.call("press_power_button")["listens"]:
            say(f"{client.name}: the guest does not listen to its power button; it is ended")
        else:
            with Progress(client.name) as progress:
                progress.say("the power button is pressed; the guest shuts itself down")
                if _has_ended(client, options.timeout):
                    return 0
            say(
                f"{client.name}: the guest has not shut itself down within {options.timeout:g} s "
                "of its power button being pressed; it is ended"
            )
        return _end(client)


def kill(options: Options) -> int:
    """End a machine's run at once, and wait until it has ended.

    Raises:
        ControlError: it did not end.
    """
    with Client.connect(options.name) as client:
        return _end(client)


def _end(client: Client) -> int:
    with contextlib.suppress(ControlError):  # it has ended meanwhile
        client.call("stop")
    if not _has_ended(client, _STOP_PATIENCE_S):
        raise ControlError(
            f"{client.name} has not ended within {_STOP_PATIENCE_S:g} s: its process is "
            f"{client.pid}"
        )
    return 0


def _has_ended(client: Client, patience_s: float) -> bool:
    """Wait until the run has ended or the time is up."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if client.call("explanation"):
                return True
        except GoneError:
            return True
        except ControlError:
            pass  # it is busy, or about to go
        time.sleep(_LOOK_AGAIN_S)
    return False


def _pause_at(client: Client, condition: str) -> str:
    """Let a machine run until a condition is met; returns how it was."""
    held = client.call("info")["phase"] == "paused"
    number = client.call("stop_at", condition=condition)["number"]
    try:
        if held:
            client.call("resume")
        while not _has_stopped(client, number):
            time.sleep(_LOOK_AGAIN_S)
        return str(client.call("info")["held_by"])
    finally:
        with contextlib.suppress(ControlError):
            client.call("remove_stop", number=number)


def _has_stopped(client: Client, number: int) -> bool:
    ended = client.call("explanation")
    if ended:
        raise ControlError(f"{client.name}: the run ended before: {ended['reason']}")
    stopped = any(s["stopped"] for s in client.call("stops")["stops"] if s["number"] == number)
    return stopped and client.call("info")["phase"] == "paused"


def _look() -> dict[str, dict[str, Any]]:
    found = {}
    for name in names():
        try:
            with Client.connect(name) as client:
                found[name] = client.call("info")
        except ControlError:
            continue  # it has just ended
    return found


def _row(info: dict[str, Any]) -> list[str]:
    return [
        info["name"],
        str(info["pid"]),
        info["phase"],
        info["image"],
        str(info["vcpus"]),
        f"{info['memory'] >> 20}M" if info["memory"] >= 1 << 20 else f"{info['memory'] >> 10}K",
        _span(info["uptime_s"]),
        f"{info['exits']:,}",
        f"{info['exits_per_s']:,.0f}",
    ]


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[n]) for row in [list(_HEADINGS), *rows]) for n in range(len(_HEADINGS))]
    for row in [list(_HEADINGS), *rows]:
        cells = zip(_HEADINGS, row, widths, strict=True)
        print(
            "  ".join(
                text.rjust(width) if heading in _RIGHT else text.ljust(width)
                for heading, text, width in cells
            ).rstrip()
        )
