"""Names in the explanation of a kernel that brings its own symbols. The ELF file is made here."""

from __future__ import annotations

import struct

import pytest

import vmm
from vmm.kvm import backend

pytestmark = pytest.mark.kvm

LINKED = 0x10_0000
# _start: call main; hlt. main: call leaf; ret. leaf: out 0x80, al; mov [0x123456789000], rax.
CODE = bytes.fromhex("e801000000 f4 e801000000 c3 e680 48a30090785634120000 f4")
FUNCTIONS = {"_start": (0, 6), "main": (6, 6), "leaf": (12, 13)}


def kernel(kind: int) -> bytes:
    """A 64-bit ELF of type `kind` (2: executable, 3: position-independent) with three functions."""
    base = 0 if kind == 3 else LINKED
    names, table = b"\0", bytes(24)
    for name, (offset, size) in FUNCTIONS.items():
        table += struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, base + offset, size)
        names += name.encode() + b"\0"
    symbols, sections = 0x1000 + len(CODE), 0x1000 + len(CODE) + len(table) + len(names)
    section = struct.Struct("<IIQQQQIIQQ")
    return (
        (
            b"\x7fELF\2\1\1" + bytes(9)
            + struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, base, 64, sections, 0, 64, 56, 1, 64, 4, 0)
            + struct.pack("<IIQQQQQQ", 1, 7, 0x1000, base, base, len(CODE), len(CODE), 0x1000)
        ).ljust(0x1000, b"\0")
        + CODE + table + names
        + section.pack(*[0] * 10)
        + section.pack(0, 1, 6, base, 0x1000, len(CODE), 0, 0, 1, 0)
        + section.pack(0, 2, 0, 0, symbols, len(table), 3, 1, 8, 24)
        + section.pack(0, 3, 0, 0, symbols + len(table), len(names), 0, 0, 1, 0)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "base"),
    [(2, {}, LINKED), (3, {}, LINKED), (3, {"load_addr": 0x20_0000}, 0x20_0000)],
    ids=["linked", "position-independent", "moved"],
)
def test_code_and_stack_have_the_names_of_the_image(boot, tmp_path, kind, options, base):
    path = tmp_path / "kernel.elf"
    path.write_bytes(kernel(kind))
    machine = boot(str(path), memory="8M", **options)
    result = machine.run(timeout=60)
    assert result.reason == "shutdown"
    facts = result.explanation()
    assert "writes 0x123456789000: not present" in facts["headline"]
    if backend() == "kvm_amd":  # what was seen last is the OUT before
        assert f" near {base + 12:016x} leaf (long 64-bit mode)" in facts["headline"]
    else:
        assert f" at {base + 14:016x} leaf+0x2 (long 64-bit mode)" in facts["headline"]
    named = [(frame["address"], frame["symbol"]) for frame in facts["stack"][1:]]
    assert named == [(base + 11, "main+0x5"), (base + 5, "_start+0x5")]
    assert f"call {base + 12:#x} <leaf>" in result.report()
    assert machine.symbols.find("main") == base + 6


def test_a_kernel_that_was_stripped_has_no_names(boot, tmp_path):
    path = tmp_path / "kernel.elf"
    path.write_bytes(kernel(2)[: 0x1000 + len(CODE)])  # its section headers are cut off
    machine = boot(str(path), memory="8M")
    assert machine.symbols is None
    assert machine.run(timeout=60).explanation()["symbol"] is None


def test_a_file_without_names_is_refused_before_the_guest_runs(boot, tmp_path):
    path = tmp_path / "names"
    path.write_text("nothing here\n")
    with pytest.raises(vmm.ConfigError, match="names: neither an ELF file nor lines of"):
        boot("payload:hello16", symbols=path)
