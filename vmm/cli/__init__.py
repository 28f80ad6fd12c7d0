"""The `vmm` command."""

from vmm.cli.main import main

__all__ = ["main"]
