"""All tables of a machine in one block of memory, the root pointer in front.

+0x00   RSDP
+0x40   FACS, which wants a multiple of 64
+0x80   DSDT, then FADT, MADT, SRAT, RSDT and XSDT, each on a multiple of 16
"""

from __future__ import annotations

from firmware.acpi.board import Board
from firmware.acpi.dsdt import dsdt
from firmware.acpi.tables import FACS_SIZE, RSDP_SIZE, facs, fadt, madt, rsdp, rsdt, srat, xsdt

__all__ = ["acpi_tables"]

_ALIGN = 16
_FACS = 0x40
_FIRST_TABLE = 0x80
_HIGHEST = 1 << 31
"""Far enough below 4 GiB that all tables have 32-bit addresses."""

assert RSDP_SIZE <= _FACS
assert _FACS + FACS_SIZE <= _FIRST_TABLE


def acpi_tables(board: Board, gpa: int) -> bytes:
    """Make the block that lies at guest-physical address `gpa`.

    Raises:
        ValueError: the address is not a multiple of 64 below 2 GiB, or the board cannot be
            described (see `firmware.acpi.dsdt.dsdt`).
    """
    if gpa % FACS_SIZE or not 0 <= gpa < _HIGHEST:
        raise ValueError(f"ACPI tables at {gpa:#x}: not a multiple of {FACS_SIZE} below 2 GiB")
    block = bytearray(_FIRST_TABLE)

    def put(table: bytes) -> int:
        """Put a table behind the others; returns its address."""
        where = gpa + len(block)
        block.extend(table.ljust(-len(table) % _ALIGN + len(table), b"\0"))
        return where

    described = put(dsdt(board))
    tables = [put(fadt(board, gpa + _FACS, described)), put(madt(board)), put(srat(board))]
    root = rsdp(put(rsdt(tables)), put(xsdt(tables)))
    block[: len(root)] = root
    block[_FACS : _FACS + FACS_SIZE] = facs()
    return bytes(block)
