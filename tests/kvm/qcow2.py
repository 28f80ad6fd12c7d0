"""An image that is not raw, without a program that makes one."""

from __future__ import annotations

import struct
from pathlib import Path

CLUSTER = 1 << 16
SECTORS = 2048


def write_qcow2(path: Path, sectors: int = SECTORS) -> Path:
    """An empty image: header, refcount table, one block of refcounts, L1 table; a cluster each.

    Spec: QEMU, docs/interop/qcow2.rst, version 2.
    """
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 2, 0, 0, 16, sectors * 512, 0),
        *(1, 3 * CLUSTER),  # L1 table: entries, offset
        *(CLUSTER, 1, 0, 0),  # refcount table: offset, clusters; no snapshots
    )
    counts = struct.pack(">4H", 1, 1, 1, 1)
    parts = (header, struct.pack(">Q", 2 * CLUSTER), counts, b"")
    path.write_bytes(b"".join(part.ljust(CLUSTER, b"\0") for part in parts))
    return path
