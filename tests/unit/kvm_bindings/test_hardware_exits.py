"""The processor's reasons, against the kernel's own headers where they are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvm_bindings.hardware_exits import (
    ISA_SVM,
    ISA_VMX,
    SVM_EXITS,
    VMX_EXITS,
    hardware_exit_name,
)

HEADERS = Path("/usr/include/x86_64-linux-gnu/asm")


def _header(name: str, prefix: str) -> dict[str, int]:
    path = HEADERS / name
    if not path.exists():
        pytest.skip(f"no <asm/{name}> (Debian: linux-libc-dev)")
    found = re.findall(rf"#define {prefix}(\w+)\s+(-?\w+)\s*$", path.read_text(), re.MULTILINE)
    return {word: int(value, 0) for word, value in found}


def _manuals_svm(word: str) -> str:
    """Where the kernel's name is not the manual's."""
    moved = re.sub(r"^(READ|WRITE)_([CD]R\d+)$", r"\2_\1", word)
    return {
        "MWAIT_COND": "MWAIT_CONDITIONAL",
        "AVIC_UNACCELERATED_ACCESS": "AVIC_NOACCEL",
        "ERR": "INVALID",
        "BUS_LOCK": "BUSLOCK",
    }.get(moved, moved)


def test_svm_exit_codes() -> None:
    header = _header("svm.h", "SVM_EXIT_")
    assert header.pop("EXCP_BASE") == 0x40
    assert header.pop("LAST_EXCP") == 0x5F
    header.pop("SW")  # not the processor's
    ours = {word: SVM_EXITS.get(value & 0xFFFF_FFFF) for word, value in header.items()}
    assert ours == {word: _manuals_svm(word) for word in header}
    assert len(header) > 90


def test_vmx_exit_reasons() -> None:
    header = _header("vmx.h", "EXIT_REASON_")
    names = {
        "VMOFF": "VMXOFF",
        "VMON": "VMXON",
        "MWAIT_INSTRUCTION": "MWAIT",
        "MONITOR_INSTRUCTION": "MONITOR",
        "PAUSE_INSTRUCTION": "PAUSE",
    }
    ours = {word: VMX_EXITS.get(value) for word, value in header.items()}
    assert ours == {word: names.get(word, word) for word in header}
    assert len(header) > 60


@pytest.mark.parametrize(
    ("isa", "reason", "name"),
    [
        (ISA_SVM, 0x7B, "IOIO"),
        (ISA_SVM, 0x78, "HLT"),
        (ISA_SVM, 0x4E, "EXCP #PF"),
        (ISA_SVM, 0x5E, "EXCP #SX"),
        (ISA_SVM, 0x400, "NPF"),
        (ISA_SVM, 0xA6, "IDLE_HLT"),
        (ISA_SVM, 0xFFFF_FFFF, "INVALID"),
        (ISA_SVM, 0x999, "exit code 0x999"),
        (ISA_VMX, 30, "IO_INSTRUCTION"),
        (ISA_VMX, 48, "EPT_VIOLATION"),
        (ISA_VMX, 75, "NOTIFY"),
        (ISA_VMX, 1 << 31 | 33, "INVALID_STATE (entry failed)"),
        (ISA_VMX, 35, "exit reason 35"),
        (9, 0x33, "exit 0x33"),
    ],
)
def test_names(isa: int, reason: int, name: str) -> None:
    assert hardware_exit_name(isa, reason) == name
