"""Assemble the payloads: `python -m firmware.payloads.build` writes every NAME.bin anew.

It takes GNU `as` and `ld` for x86-64, under their plain names or with the prefix of a cross
toolchain. Everything is in .text and every image is flat, so the bytes depend on the source alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from firmware.payloads import PAYLOADS, Payload

__all__ = ["AssemblyError", "Toolchain", "assemble", "find_toolchain", "main"]

_PREFIXES = ("x86_64-linux-gnu-", "")
_TIMEOUT_S = 60
# A note section, or a build ID, would become part of the image.
_AS_FLAGS = ("--64", "--fatal-warnings", "-mx86-used-note=no")
_LD_FLAGS = ("-m", "elf_x86_64", "--oformat", "binary", "--build-id=none", "-e", "_start")


class AssemblyError(Exception):
    """A source does not assemble; the text is what the tool said."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Paths of an assembler and a linker that make x86-64 code."""

    assembler: str
    linker: str


def find_toolchain() -> Toolchain | None:
    """Find GNU `as` and `ld` for x86-64, or return None."""
    for prefix in _PREFIXES:
        assembler, linker = shutil.which(f"{prefix}as"), shutil.which(f"{prefix}ld")
        if assembler is None or linker is None:
            continue
        try:
            version = _run(assembler, "--version")
        except AssemblyError:
            continue
        # The plain names belong to the host's own processor, or to an assembler of another make.
        if "GNU" in version and "x86_64" in version:
            return Toolchain(assembler, linker)
    return None


def assemble(payload: Payload, tools: Toolchain) -> bytes:
    """Return the image that `payload`'s source makes.

    Raises:
        AssemblyError: the assembler or the linker refuses.
    """
    source = payload.source_path
    with tempfile.TemporaryDirectory() as work:
        code, image = Path(work, "code.o"), Path(work, "image.bin")
        _run(tools.assembler, *_AS_FLAGS, "-I", source.parent, "-o", code, source)
        _run(tools.linker, *_LD_FLAGS, f"-Ttext={payload.load_addr:#x}", "-o", image, code)
        return image.read_bytes()


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise AssemblyError(done.stderr.strip() or f"{command[0]} failed")
    return done.stdout


def main() -> int:
    """Rebuild every image and say which ones changed; return the exit status."""
    tools = find_toolchain()
    if tools is None:
        print("no GNU as and ld for x86-64 here; on Debian: apt install binutils", file=sys.stderr)
        return 1
    for payload in PAYLOADS.values():
        try:
            image = assemble(payload, tools)
        except AssemblyError as error:
            print(error, file=sys.stderr)
            return 1
        if not payload.image_path.exists() or payload.image() != image:
            payload.image_path.write_bytes(image)
            print(f"{payload.image_path.name}: {len(image)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
