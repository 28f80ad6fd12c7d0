"""What the command line said, as attributes."""

from __future__ import annotations

from types import SimpleNamespace

__all__ = ["Options"]


class Options(SimpleNamespace):
    """The options of one command, each under its name: `--max-exits` is `max_exits`."""
