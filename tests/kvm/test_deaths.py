"""Every way for a guest to die, from the command line: the status, and the sentence that counts.

What is known about a death depends on the backend: kvm_amd resets a processor at a triple fault,
so that its registers are lost; kvm_pvm runs ring 0 in KVM's emulator, which lacks instructions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vmm
from firmware.payloads import SMP_CPUS_OFFSET
from kvm_bindings import KvmError
from vmm.cpustate import CpuState
from vmm.explain import Death, explain
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


@pytest.mark.command
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
    assert "it jumped to 0xd0000000, where there is no memory" in headline(text)
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


# How each guest dies: the sentence that says what it did and why nobody took the fault, and the
# chain of faults. kvm_amd loses the registers of a triple fault. These guests write to the POST
# port right before it, and what follows an OUT can be told from the state at the OUT
# (`vmm.explain.ahead`): so the sentences are the same, and only "at" becomes "near".
DEATHS = {
    "triple_fault": (
        '"ud2" is an invalid opcode on purpose, and no IDT entry for #UD (vector 6)',
        "#UD -> #GP -> #DF",
    ),
    "fault_chain": (
        "reads 0x8000001230: not present: PML4 entry 0x1 is 0x0, and the IDT entry for #PF",
        "#PF -> #DF",
    ),
    "wild_jump": (
        "it jumped to 0x8000005550, where nothing is mapped, and the IDT entry for #PF (vector 14)",
        "#PF -> #DF",
    ),
    "nx_jump": (
        "it jumped to 0x8000000000, in a page that is not executable, and the IDT entry for #PF",
        "#PF -> #DF",
    ),
    "stack_overflow": (
        "the stack ran away: it grew down to 0x8000000ff8, where nothing is mapped, and the stack",
        "#PF -> #DF",
    ),
    "bad_selector": (
        '"mov ds, ecx" loads selector 0x1230, but the GDT ends before it (limit 0x47), and the IDT',
        "#GP -> #DF",
    ),
    "non_canonical": (
        '"mov eax, dword ptr [rbx]" reads 0x800000000000: the address is not canonical, and the',
        "#GP -> #DF",
    ),
    "divide_error": (
        '"div ecx" divides by zero, and the IDT entry for #DE (vector 0) is not present',
        "#DE -> #DF",
    ),
    "lost_tables": (
        "the page tables map neither the code nor the stack any more: they were overwritten, or",
        "#PF -> #DF",
    ),
}


@pytest.mark.parametrize("name", DEATHS)
def test_ways_to_die(boot, name):
    sentence, chain = DEATHS[name]
    result = boot(f"payload:{name}", memory="2M").run(timeout=60)
    assert result.reason == "shutdown"
    explanation = result.explanation()
    where = "near" if backend() == "kvm_amd" else "at"
    assert explanation["headline"].startswith(f"guest died: triple fault {where} ")
    assert sentence in explanation["headline"]
    assert f"the chain of faults: {chain} -> triple fault" in explanation["details"]
    assert explanation["advice"]


@pytest.mark.parametrize("name", [name for name in DEATHS if name != "triple_fault"])
def test_ways_to_die_where_the_registers_are_lost(boot, name):
    """What kvm_amd leaves, made here: the state at the exit before, and memory after the death."""
    machine = boot(f"payload:{name}", memory="2M")
    seen = None
    for event in machine.exits(timeout=60):
        if event.address == 0x80:
            vcpu = machine.vcpus[0].kvm
            seen = CpuState.from_kvm(vcpu.get_regs(), vcpu.get_sregs())
    assert machine.last_result.reason == "shutdown"
    death = Death(
        kind="shutdown", cpu=CpuState(), last_seen=seen, read=machine.memory.read,
        backend="kvm_amd",
    )  # fmt: skip
    explanation = explain(death)
    sentence, chain = DEATHS[name]
    assert sentence in explanation.headline
    assert f"the chain of faults: {chain} -> triple fault" in explanation.cause.details


HANGS = {
    "masked_irq": (
        "HLT waits for an interrupt that is masked: IRQ 0 (timer) asks, but the PIC masks it "
        "(IMR 0xef)"
    ),
    "wait_flag": (
        "it waits for memory at 0x100010, which is 0x0, to change, with interrupts disabled "
        "(RFLAGS.IF is clear): no handler can run"
    ),
    "poll_uart": (
        "it polls port 0x3fd (com1 LSR), which always reads 0x60 (THRE|TEMT): "
        "it waits for DR to be set"
    ),
    "spin": "an endless loop of one instruction: jmp 0x7c00",
}


def hang(machine: vmm.Machine, told: Callable[[dict[str, Any]], bool]) -> vmm.RunResult:
    """Run until the explanation says so; a slow host may need more than one turn."""
    for _ in range(20):
        result = machine.run(timeout=1)
        assert result.reason == "timeout"
        facts = result.explanation()
        assert facts is not None
        if told(facts):
            break
    return result


@pytest.mark.parametrize("name", HANGS)
def test_ways_to_hang(boot, name):
    result = hang(boot(f"payload:{name}", memory="2M"), lambda facts: facts["cause"] == HANGS[name])
    assert result.explanation()["cause"] == HANGS[name]


def test_waiting_for_a_key_in_the_bios(boot, tmp_path):
    image = tmp_path / "key.img"
    image.write_bytes(bytes.fromhex("b400 cd16 f4").ljust(510, b"\0") + b"\x55\xaa")
    cause = "it waits in the BIOS for a key (INT 16h, AH=00h, called at 0000:7c02)"
    result = hang(boot(str(image)), lambda facts: facts["cause"] == cause)
    assert result.explanation()["cause"] == cause


def test_what_the_other_processors_do_is_told(boot):
    machine = boot("payload:smp", memory="2M")
    machine.memory.write(0x10_0000 + SMP_CPUS_OFFSET, bytes([5]))  # it waits for one too many
    result = hang(
        machine, lambda facts: all(one["doing"] == "halts" for one in facts["other_vcpus"])
    )
    facts = result.explanation()
    assert [one["vcpu"] for one in facts["other_vcpus"]] == [1, 2, 3]
    assert {one["doing"] for one in facts["other_vcpus"]} == {"halts"}
    assert "vCPU 3 halts at " in result.report()


def test_who_called_is_told_with_the_names_of_a_list(boot, tmp_path):
    names = tmp_path / "names.map"
    names.write_text("0000000000100000 T _start\n00000000001000a5 T recurse\n")
    machine = boot("payload:stack_overflow", memory="2M", symbols=names)
    result = machine.run(timeout=60)
    facts = result.explanation()
    assert facts["symbol"].startswith("recurse+")
    assert facts["stack"][1]["symbol"] == "recurse+0x11"
    assert "<recurse>" in result.report()
    if backend() != "kvm_amd":  # there the last call but one was the last thing seen
        assert "(511 times)" in result.report()


@pytest.mark.command
def test_an_explanation_for_tools(tmp_path):
    path = tmp_path / "why.json"
    status, text = run("payload:wild_jump", "--explain-json", str(path))
    assert status == 6
    facts = json.loads(path.read_text())
    assert facts["kind"] == "shutdown"
    assert facts["headline"] == headline(text).removeprefix("vmm: ")
    assert facts["page_walks"][0]["stop"] == "not present: PML4 entry 0x1 is 0x0"
    assert facts["last_exits"][-2]["place"] == "port 0x80 (post POST)"
    assert facts["registers"]["rbx"] == 0
    if backend() != "kvm_amd":
        assert facts["rip"] == 0x80_0000_5550
    status, text = run("payload:hello16", "--explain-json", "-")
    assert (status, text) == (0, "null\n")


@pytest.mark.command
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
    assert status == 124
    assert "vmm: the run reached its limit of exits at 0000:7c0" in headline(text)
    assert "after 100 exits: it polls port 0x64 (i8042 STATUS)" in headline(text)
    assert "last exits, oldest first:" in text


def long_mode_without_paging(machine: vmm.Machine) -> None:
    machine.sregs.cr0 &= ~(1 << 31)


def unknown_cr4_bit(machine: vmm.Machine) -> None:
    machine.sregs.cr4 |= 1 << 40


def cr3_beyond_the_processor(machine: vmm.Machine) -> None:
    machine.sregs.cr3 = 1 << 60


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (long_mode_without_paging, "EFER.LMA is 1, but EFER.LME and CR0.PG say 0"),
        (unknown_cr4_bit, "CR4 has reserved bits set (0x10000000000)"),
        (cr3_beyond_the_processor, "CR3 has bits set above the physical addresses"),
    ],
)
def test_a_state_that_no_processor_can_be_in(spoil, words):
    """KVM refuses it when it is set, in one line; or the processor does at the entry. Either way
    the field that is wrong is named."""
    with vmm.Machine() as machine:
        machine.memory.write(0x1000, b"\xf4")
        machine.start_at(0x1000, mode="long")
        spoil(machine)
        try:
            result = machine.run(timeout=10)
        except KvmError as refused:
            text = str(refused)
            assert text.startswith("KVM_SET_SREGS: ")
        else:
            assert result.reason == "fail_entry"
            text = result.explanation()["headline"]
        assert words in text


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
