"""`python -m vmm` is the `vmm` command."""

from vmm.cli import command

if __name__ == "__main__":
    command()
