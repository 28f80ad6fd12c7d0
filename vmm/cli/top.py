"""`vmm top`: the screen of a machine that runs, or of a recording."""

from __future__ import annotations

from vmm.cli.options import Options
from vmm.errors import ExitStatus

__all__ = ["END_STATUS", "top"]

END_STATUS = 10
"""What the screen of `vmm run --tui` ends with where the guest is to be ended."""


def top(options: Options) -> int:
    """Show the screen until it is left.

    Raises:
        VmmError: there is nothing to show, or no terminal.
    """
    from vmm.tui.main import open_source, show

    answer = show(open_source(options.what, options.symbols), owner=options.owner)
    return END_STATUS if answer == "end" else int(ExitStatus.OK)
