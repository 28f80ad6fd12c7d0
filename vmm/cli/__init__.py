"""The `vmm` command."""

from vmm.cli.main import command, main

__all__ = ["command", "main"]
