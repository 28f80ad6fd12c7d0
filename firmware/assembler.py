"""From assembly text to the bytes of a flat image, with GNU `as` and `ld` for x86-64.

They are taken under their plain names or with the prefix of a cross toolchain. Everything is in
.text and every image is flat, so the bytes depend on the source alone.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NO_TOOLCHAIN", "AssemblyError", "Toolchain", "assemble", "find_toolchain"]

NO_TOOLCHAIN = "no GNU as and ld for x86-64 here; on Debian: apt install binutils"

_PREFIXES = ("x86_64-linux-gnu-", "")
_TIMEOUT_S = 60
# A note section, or a build ID, would become part of the image.
_AS_FLAGS = ("--64", "--fatal-warnings", "-mx86-used-note=no")
_LD_FLAGS = ("-m", "elf_x86_64", "--oformat", "binary", "--build-id=none", "-e")


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
            version = _run([assembler, "--version"])
        except AssemblyError:
            continue
        # The plain names belong to the host's own processor, or to an assembler of another make.
        if "GNU" in version and "x86_64" in version:
            return Toolchain(assembler, linker)
    return None


def assemble(
    source: Path,
    address: int,
    tools: Toolchain,
    *,
    flags: Sequence[str] = (),
    entry: str = "_start",
) -> bytes:
    """Return the image that a source makes at an address. It may include files beside it.

    Args:
        source: the file.
        address: where the image's first byte will be.
        tools: what assembles and links.
        flags: more flags for the assembler.
        entry: the symbol, or the address, that the linker is to know as the entry point.

    Raises:
        AssemblyError: the assembler or the linker refuses.
    """
    with tempfile.TemporaryDirectory() as work:
        code, image = Path(work, "code.o"), Path(work, "image.bin")
        # Run beside the source, so that complaints name it without its folder.
        here = source.parent
        _run([tools.assembler, *_AS_FLAGS, *flags, "-o", str(code), source.name], here)
        place = f"-Ttext={address:#x}"
        _run([tools.linker, *_LD_FLAGS, entry, place, "-o", str(image), str(code)], here)
        return image.read_bytes()


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=folder
    )
    if done.returncode:
        raise AssemblyError(done.stderr.strip() or f"{command[0]} failed")
    return done.stdout
