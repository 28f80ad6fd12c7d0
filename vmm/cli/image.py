"""`vmm image debian FILE`: make a disk that boots, of Debian's packages."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from vmm.cli.messages import report
from vmm.cli.options import Options
from vmm.cli.progress import Progress
from vmm.errors import ConfigError, VmmError
from vmm.image.debian import Looks, Made, Source, build
from vmm.lab.tools import LabError
from vmm.layout import parse_size

__all__ = ["image"]

_LEAST = 16 << 20


def image(options: Options) -> int:
    """Make the disk and what is beside it.

    Raises:
        VmmError: a package or a program is missing, or a file cannot be written.
    """
    path = Path(options.file)
    size = parse_size(options.size, what="--size")
    if size < _LEAST or size % 4096:
        raise ConfigError(f"--size {options.size}: give 16M or more, a multiple of 4K")
    if path.suffix in (".vmlinuz", ".initrd", ".toml") or path.is_dir():
        raise ConfigError(f"{path}: the disk's file; its kernel and others get names like it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", options.hostname):
        raise ConfigError(f"--hostname {options.hostname}: use letters, digits and dashes")
    if not re.fullmatch(r"[a-z0-9.-]*", options.release):
        raise ConfigError(f"--release {options.release}: a name like trixie is wanted")
    began = time.monotonic()
    with Progress(f"building {path.name}") as progress:
        try:
            made = build(
                path,
                size=size,
                extra=options.package,
                source=Source(options.release, options.mirror),
                looks=Looks(options.hostname, options.password),
                told=progress.say,
            )
        except LabError as error:
            raise VmmError(str(error)) from None
    if options.json:
        print(json.dumps(_facts(made, size), indent=2))
    else:
        print(f"vmm run --config {made.config}")
        if progress.shown:
            took = f"{time.monotonic() - began:.0f} s"
            report(f"vmm: {made.image}: {len(made.packages)} packages in {took}; boot it as above")
    return 0


def _facts(made: Made, size: int) -> dict[str, object]:
    return {
        "image": str(made.image),
        "kernel": str(made.kernel),
        "initrd": str(made.initrd),
        "config": str(made.config),
        "size": size,
        "allocated": made.image.stat().st_blocks * 512,
        "packages": made.packages,
    }
