"""The doctor and the explanations on the KVM that is there."""

from __future__ import annotations

from typing import Any

import pytest

from kvm_bindings import constants
from vmm.cpustate import CpuState
from vmm.doctor import diagnose
from vmm.explain import Death, Explanation, explain
from vmm.kvm import backend
from vmm.machine import Machine
from vmm.probes import measure

pytestmark = pytest.mark.kvm


def test_guests_can_run_where_these_tests_run() -> None:
    diagnosis = diagnose(probe=False)
    assert diagnosis.usable, diagnosis.lines()
    assert diagnosis.status == 0
    names = {finding.name for finding in diagnosis.findings}
    assert {"backend", "/dev/kvm", "capabilities", "CPU features", "memory slots"} <= names


def test_the_probes_finish() -> None:
    speed = measure()
    assert speed.errors == ()
    # Rates are for reading; that there are any is all that can be asserted.
    assert speed.ring0 is not None
    assert speed.ring3 is not None
    assert speed.exits is not None
    assert min(speed.ring0, speed.ring3, speed.exits) > 0


def die(code: str, mode: Any) -> tuple[str, Death, Explanation]:
    """Run `code` until it dies; return how, what is known about it, and the explanation."""
    with Machine(memory="2M") as machine:
        return _die(machine, code, mode)


def _die(machine: Machine, code: str, mode: Any) -> tuple[str, Death, Explanation]:
    machine.memory.write(0x1000, bytes.fromhex(code))
    machine.start_at(0x1000, mode=mode)
    result = machine.run(timeout=5.0, max_exits=100)
    kind: Any = {"shutdown": "shutdown", "internal_error": "internal_error"}[result.reason]
    vcpu = machine.vcpus[0].kvm
    internal = vcpu.run_struct.internal
    death = Death(
        kind=kind,
        cpu=CpuState.from_kvm(vcpu.get_regs(), vcpu.get_sregs()),
        read=machine.memory.read,
        exits=result.exits,
        backend=backend(),
        suberror=internal.suberror,
        data=tuple(internal.data[: min(internal.ndata, 16)]),
    )
    return result.reason, death, explain(death)


@pytest.mark.parametrize("mode", ["protected", "long"])
def test_a_triple_fault_is_explained(mode: str) -> None:
    # lidt [0x1100] (limit 0), then ud2
    lidt = "0f 01 1c 25 00 11 00 00" if mode == "long" else "0f 01 1d 00 11 00 00"
    reason, death, explanation = die(f"{lidt} 0f 0b", mode)
    assert reason == "shutdown"
    assert explanation.headline.startswith("guest died: triple fault")
    if death.state_was_reset:
        assert "lost" in explanation.cause.details[0]
    else:
        assert f"({death.cpu.mode if death.cpu else ''} mode)" in explanation.headline
        assert "no IDT entry for #UD (vector 6)" in explanation.headline


@pytest.mark.skipif(backend() != "kvm_pvm", reason="only kvm_pvm emulates ring 0")
def test_an_emulation_failure_is_explained() -> None:
    # mov edi, 0x8000; cmpxchg16b [rdi]
    reason, death, explanation = die("bf 00 80 00 00 48 0f c7 0f f4", "long")
    assert reason == "internal_error"
    assert death.suberror == constants.KVM_INTERNAL_ERROR_EMULATION
    assert "does not know cmpxchg16b" in explanation.headline
    assert any("--cpu -cx16" in advice for advice in explanation.cause.advice)
