"""Tracepoints of real guests, where they may be read; the reason in one phrase where not."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import vmm
from kvm_bindings.perf import PerfError, TraceCount, TraceRing, find_tracepoint
from vmm.kvm import backend

pytestmark = pytest.mark.kvm

REASONS = (
    "tracefs is not mounted",
    "may not be read by this user",
    "perf events are not permitted",
    "this kernel has no",
    "perf events may not lock so much memory",
)

OUT_LOOP = "b90a00 e610 e2fc f4"  # mov cx, 10; out 0x10, al; loop; hlt


def _why_not() -> str:
    try:
        find_tracepoint("kvm", "kvm_exit")
        TraceRing(find_tracepoint("kvm", "kvm_userspace_exit"), threading.get_native_id()).close()
    except PerfError as error:
        return str(error)
    return ""


def test_every_exit_to_user_space_passes_its_tracepoint(
    machine: Callable[..., vmm.Machine],
) -> None:
    """Any backend passes kvm_userspace_exit: what comes through a ring is checked by that."""
    reason = _why_not()
    if reason:
        assert any(known in reason for known in REASONS), reason
        return
    guest = machine(OUT_LOOP)
    guest.on_out(0x10)(lambda value, size: None)
    point = find_tracepoint("kvm", "kvm_userspace_exit")
    reasons: list[tuple[int, int]] = []

    def take(data: bytes, start: int) -> None:
        parts = [(start + field.offset, field.size) for field in (reason_at, errno_at)]
        code, error = (data[at : at + size] for at, size in parts)
        reasons.append((int.from_bytes(code, "little"), int.from_bytes(error, "little")))

    reason_at, errno_at = point.fields["reason"], point.fields["errno"]
    thread = threading.get_native_id()
    with TraceRing(point, thread) as ring, TraceCount(point, thread) as count:
        result = guest.run(timeout=30)
        ring.drain(take)
        # An interrupted KVM_RUN passes here too, and is no exit.
        ours = [code for code, error in reasons if not error]
        assert ours == [2] * 10 + [5]  # KVM_EXIT_IO, KVM_EXIT_HLT
        assert result.exits == len(ours)
        assert ring.passed == count.passed == len(reasons)
        assert ring.lost == 0


def test_hardware_exits_of_a_machine(machine: Callable[..., vmm.Machine]) -> None:
    guest = machine(OUT_LOOP)
    guest.on_out(0x10)(lambda value, size: None)
    reason = _why_not()
    if reason:
        with pytest.raises(vmm.NoHardwareExits) as error:
            vmm.HardwareExits.of(guest)
        assert str(error.value) == reason
        assert any(known in reason for known in REASONS)
        return
    with vmm.HardwareExits.of(guest) as hardware:
        assert guest.run(timeout=30).reason == "halt"
        hardware.poll()
        counts = hardware.counts
        assert sum(counts.values()) + hardware.lost == hardware.total
        if backend() == "kvm_amd":
            assert counts["IOIO"] >= 10
            assert counts["HLT"] == 1
        elif backend() == "kvm_intel":
            assert counts["IO_INSTRUCTION"] >= 10
            assert counts["HLT"] == 1
        else:
            return  # a backend of its own need not pass them
        assert hardware.entries >= hardware.total


def test_several_vcpus_have_no_threads_before_they_run(
    machine: Callable[..., vmm.Machine],
) -> None:
    guest = machine("f4", cpus=2, irqchip=True)
    with pytest.raises(vmm.NoHardwareExits, match="no threads before it runs"):
        vmm.HardwareExits.of(guest)
