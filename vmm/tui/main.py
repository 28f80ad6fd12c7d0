"""Showing the screen: of a machine by its name, or of a recording by its file."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from vmm.errors import ConfigError, VmmError
from vmm.tui.source import Source

__all__ = ["ScreenFault", "open_source", "show"]

_NICE = 5
"""The guest goes first: the screen shares its processors."""


class ScreenFault(VmmError):
    """The screen itself failed. The guest does not notice."""


def open_source(what: str | None, symbols: str | None = None) -> Source:
    """Open what `vmm top` was given: a machine's name, a recording's file, or nothing.

    Args:
        what: the name or the file.
        symbols: a file with names for a machine's addresses.

    Raises:
        VmmError: there is no such thing.
    """
    if what is not None and ("/" in what or what.endswith(".vtrace") or os.path.isfile(what)):
        from vmm.symbols import Symbols
        from vmm.trace.reader import load
        from vmm.tui.recording import RecordingSource

        names = None if symbols is None else Symbols.load(symbols)
        return RecordingSource(load(what), os.path.basename(what), names)
    from vmm.control.client import Client
    from vmm.tui.live import LiveSource

    return LiveSource(Client.connect(what), symbols)


def show(source: Source, *, owner: bool = False, view: int | None = None) -> str:
    """Show the screen until it is left; returns what becomes of the guest (`app.END`, `DETACH`,
    `PROMPT`).

    Args:
        source: what is shown.
        owner: the guest was started with this screen.
        view: a descriptor of a file that keeps what was shown, for a screen that comes after this.

    Raises:
        ConfigError: there is no terminal.
        ScreenFault: it failed; the terminal is as it was before.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("the screen needs a terminal; 'vmm ps' and 'vmm trace' print")
    from vmm.tui.app import DETACH, ScreenApp

    class App(ScreenApp, inherit_bindings=True):
        fault: BaseException | None = None

        def _handle_exception(self, error: Exception) -> None:
            self.fault = error
            self._return_code = 8
            self._close_messages_no_wait()

    app = App(source, owner=owner, view={} if view is None else _read(view))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        answer = app.run()
    finally:
        source.close()
        sys.stdout.flush()
    if app.fault is not None:
        raise ScreenFault(f"the screen failed: {app.fault!r} (see --debug)") from app.fault
    if view is not None:
        os.ftruncate(view, 0)
        os.pwrite(view, json.dumps(app.left_view).encode(), 0)
    return answer or DETACH


def _read(view: int) -> dict[str, str]:
    kept = os.pread(view, os.fstat(view).st_size, 0)
    found: dict[str, str] = json.loads(kept) if kept else {}
    return found
