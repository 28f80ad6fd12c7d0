"""Every way for a guest to die, from the command line: the status, and the sentence that counts.

What is known about a death depends on the backend: kvm_amd resets a processor at a triple fault,
so that its registers are lost; kvm_pvm runs ring 0 in KVM's emulator, which lacks instructions.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from kvm_bindings import KvmError
from vmm.kvm import backend

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str]:
    """Run `vmm run`; return the status and its standard error, lines joined."""
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "run", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        check=False,
    )
    text = done.stderr.decode()
    assert "Traceback" not in text
    return done.returncode, text


def headline(text: str) -> str:
    """The first sentence of a report, on one line."""
    return " ".join(re.split(r"\n\s*(?:why|try):|\n\n", text)[0].split())


def test_a_triple_fault():
    status, text = run("payload:triple_fault")
    assert status == 6
    assert headline(text).startswith("vmm: guest died: triple fault")
    assert "the guest was started at 0x100000 in long mode" in text
    assert "last exits, oldest first:\n  SHUTDOWN" in text
    if backend() == "kvm_pvm":
        assert "no IDT entry for #UD (vector 6): the IDT's limit 0x0 is below 0x6f" in headline(
            text
        )
        assert "-> 0000000000100008  0f 0b" in text
    assert "try:" in text


def test_a_jump_to_where_there_is_no_memory():
    status, text = run("payload:bad_jump")
    assert status == 6
    assert headline(text).startswith("vmm: guest died:")
    assert "0xd0000000" in text
    assert "the guest was started at 0x100000 in protected mode" in text


def test_an_instruction_that_the_emulator_does_not_know():
    status, text = run("payload:cmpxchg16b")
    if backend() != "kvm_pvm":
        assert (status, text) == (1, "")
        return
    assert status == 6
    assert "guest died: KVM internal error at 0000000000100013" in headline(text)
    assert "KVM's instruction emulator does not know lock cmpxchg16b" in headline(text)
    assert "--cpu -cx16" in text


def test_an_endless_loop():
    status, text = run("payload:spin", "--timeout", "1")
    assert status == 124
    assert "vmm: guest timed out at 0000:7c00 (real mode)" in headline(text)
    assert "an endless loop of one instruction: jmp 0x7c00" in headline(text)
    assert "-> 0000:7c00  eb fe" in text


def test_a_loop_that_was_given_a_number_of_exits(tmp_path):
    path = tmp_path / "poll.bin"
    path.write_bytes(bytes.fromhex("e464 ebfc"))  # in al, 0x64; jmp back
    status, text = run(str(path), "--format", "flat16", "--max-exits", "100")
    assert (status, text) == (
        124,
        "vmm: the run reached its limit of exits after 100 exits\n",
    )


def long_mode_without_paging(machine: vmm.Machine) -> None:
    machine.sregs.cr0 &= ~(1 << 31)


def unknown_cr4_bit(machine: vmm.Machine) -> None:
    machine.sregs.cr4 |= 1 << 40


def cr3_beyond_the_processor(machine: vmm.Machine) -> None:
    machine.sregs.cr3 = 1 << 60


@pytest.mark.parametrize(
    "spoil", [long_mode_without_paging, unknown_cr4_bit, cr3_beyond_the_processor]
)
def test_a_state_that_no_processor_can_be_in(spoil):
    """KVM refuses it when it is set, in one line; or the processor does at the entry."""
    with vmm.Machine() as machine:
        machine.memory.write(0x1000, b"\xf4")
        machine.start_at(0x1000, mode="long")
        spoil(machine)
        try:
            result = machine.run(timeout=10)
        except KvmError as refused:
            text = str(refused)
        else:
            assert result.reason == "fail_entry"
            text = result.report()
    words = "KVM_SET_SREGS: control registers, EFER and segments contradict each other"
    assert text.startswith((words, "guest died: the processor refused"))


def test_a_jump_out_of_the_address_space():
    with vmm.Machine() as machine:
        machine.start_at(0x1000, mode="long")
        machine.regs.rip = 1 << 63
        result = machine.run(timeout=10)
        assert result.died
        assert result.status == 6
        if backend() == "kvm_pvm":
            assert "the address is not canonical" in " ".join(result.report().split())


def test_a_device_that_fails_is_no_death_of_the_guest():
    with vmm.Machine() as machine:
        machine.memory.write(0x1000, bytes.fromhex("e610 f4"))

        @machine.on_out(0x10)
        def broken(value: int, size: int) -> None:
            raise RuntimeError("a bug of mine")

        machine.start_at(0x1000)
        with pytest.raises(vmm.DeviceFault, match=r"function at 0x10.*RuntimeError: a bug of mine"):
            machine.run(timeout=10)
        assert machine.phase.value == "failed"


def test_a_missing_bios_service_is_named(tmp_path):
    path = tmp_path / "boot.img"
    path.write_bytes(bytes.fromhex("b8ff99 cd15 f4").ljust(510, b"\0") + b"\x55\xaa")
    status, text = run(str(path))
    assert status == 0
    assert re.search(r"^vmm: BIOS: .*INT 15h.*99", text, re.MULTILINE), text
