"""The vmlinux inside of a bzImage, unpacked as its own unpacker would.

    python tests/guest/unpack.py VMLINUZ OUT

Spec: Linux, The Linux/x86 Boot Protocol (payload_offset).
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from firmware.linux_boot import read_setup_header

__all__ = ["missing_tool", "unpack"]

PROGRAMS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
"""What Python cannot unpack, by its magic number."""


def payload(image: bytes) -> bytes:
    """The packed kernel, without the four bytes at its end that say how long it is unpacked."""
    header = read_setup_header(image)
    start = ((header["setup_sects"] or 4) + 1) * 512 + header["payload_offset"]
    return image[start : start + header["payload_length"] - 4]


def missing_tool(image: bytes) -> str:
    """The program that is needed to unpack this kernel and is not here, or ""."""
    program = PROGRAMS.get(payload(image)[:4], "")
    return "" if not program or shutil.which(program) else program


def unpack(image: bytes) -> bytes:
    """The ELF file that is packed in a bzImage."""
    packed = payload(image)
    if program := PROGRAMS.get(packed[:4]):
        found = subprocess.run(
            [program, "-dc"], input=packed, capture_output=True, check=False
        ).stdout
    elif packed[:2] == b"\x1f\x8b":
        found = zlib.decompressobj(31).decompress(packed)
    elif packed[:3] == b"BZh":
        found = bz2.decompress(packed)
    else:
        found = lzma.LZMADecompressor().decompress(packed)
    if found[:4] != b"\x7fELF":
        raise ValueError(f"a kernel packed in a way that is not known: {packed[:6].hex()}")
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(unpack(Path(sys.argv[1]).read_bytes()))
