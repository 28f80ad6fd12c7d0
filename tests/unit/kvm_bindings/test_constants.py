from __future__ import annotations

from kvm_bindings import constants as c


def test_every_exit_reason_has_one_name() -> None:
    assert c.EXIT_REASONS[2] == "KVM_EXIT_IO"
    assert c.EXIT_REASONS[5] == "KVM_EXIT_HLT"
    assert c.EXIT_REASONS[6] == "KVM_EXIT_MMIO"
    assert c.EXIT_REASONS[8] == "KVM_EXIT_SHUTDOWN"
    assert c.EXIT_REASONS[17] == "KVM_EXIT_INTERNAL_ERROR"
    assert c.EXIT_REASONS[39] == "KVM_EXIT_MEMORY_FAULT"
    assert sorted(c.EXIT_REASONS) == list(range(43))


def test_capabilities_and_internal_errors() -> None:
    assert c.CAPABILITIES["KVM_CAP_SYNC_REGS"] == 74
    assert c.CAPABILITIES["KVM_CAP_BINARY_STATS_FD"] == 203
    assert c.INTERNAL_ERRORS == {
        1: "KVM_INTERNAL_ERROR_EMULATION",
        2: "KVM_INTERNAL_ERROR_SIMUL_EX",
        3: "KVM_INTERNAL_ERROR_DELIVERY_EV",
        4: "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON",
    }
