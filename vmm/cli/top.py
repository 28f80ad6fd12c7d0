"""`vmm top`: the screen of a machine that runs, or of a recording."""

from __future__ import annotations

from vmm.cli.options import Options
from vmm.errors import ExitStatus

__all__ = ["END_STATUS", "PROMPT_STATUS", "top"]

END_STATUS = 10
"""What the screen of `vmm run --tui` ends with where the guest is to be ended."""
PROMPT_STATUS = 12
"""And where a Python prompt is wanted."""


def top(options: Options) -> int:
    """Show the screen until it is left.

    Raises:
        VmmError: there is nothing to show, or no terminal.
    """
    from vmm.tui.main import open_source, show

    source = open_source(options.what, options.symbols)
    answer = show(source, owner=options.owner is not None, view=options.owner)
    return {"end": END_STATUS, "prompt": PROMPT_STATUS}.get(answer, int(ExitStatus.OK))
