from __future__ import annotations

from typing import Any

import pytest

from vmm.cpuid import find_feature
from vmm.explain.disassembly import decode
from vmm.explain.internal_error import (
    FEATURES_BY_GROUP,
    FEATURES_BY_NAME,
    emulation_bytes,
    feature_of,
    internal_error_cause,
)

pytest.importorskip("capstone")

EMULATION, SIMULTANEOUS, DELIVERY, UNEXPECTED = 1, 2, 3, 4


def sent(code: str) -> tuple[int, ...]:
    """kvm_run.internal.data as the kernel fills it: flags, a length byte, 15 bytes."""
    data = bytes.fromhex(code)
    packed = bytes([len(data)]) + data.ljust(15, b"\0")
    return (1, int.from_bytes(packed[:8], "little"), int.from_bytes(packed[8:], "little"), 0)


@pytest.mark.parametrize(
    ("code", "feature"),
    [
        ("48 0f c7 0f", "cx16"),
        ("f0 48 0f c7 0f", "cx16"),
        ("0f ae 2f", "xsave"),
        ("48 0f c7 1f", "xsave"),  # xrstors64
        ("0f 01 d0", "xsave"),  # xgetbv
        ("c5 f8 77", "avx"),
        ("0f c7 f0", "rdrand"),
        ("f2 0f 38 f0 c0", "sse4_2"),
        ("0f 01 ca", "smap"),
        ("90", ""),
    ],
)
def test_which_feature_offers_an_instruction(code: str, feature: str) -> None:
    assert feature_of(decode(bytes.fromhex(code), 0, 64)) == feature


def test_the_features_are_ones_that_can_be_hidden() -> None:
    for name in {*FEATURES_BY_GROUP.values(), *FEATURES_BY_NAME.values()}:
        assert find_feature(name)


def test_the_bytes_that_the_kernel_sends() -> None:
    assert emulation_bytes(sent("48 0f c7 0f")).hex() == "480fc70f"
    assert emulation_bytes((0, 0x0F04, 0)) == b""
    assert emulation_bytes((1,)) == b""
    assert len(emulation_bytes((1, 0xFF, 0))) == 15  # a length that cannot be is cut


def test_an_emulation_failure_on_pvm_names_the_instruction_and_the_switch(guest: Any) -> None:
    guest.code("48 0f c7 0f")
    cause = internal_error_cause(
        EMULATION, sent("48 0f c7 0f"), guest.long(), guest.read, "kvm_pvm"
    )
    assert cause.sentence == "KVM's instruction emulator does not know cmpxchg16b"
    assert "the instruction: cmpxchg16b xmmword ptr [rdi]" in cause.details
    assert "kvm_pvm runs all of ring 0 through KVM's emulator" in cause.details
    assert any("--cpu -cx16" in advice for advice in cause.advice)
    assert any("lab" in advice for advice in cause.advice)


def test_bytes_from_the_kernel_count_where_rip_cannot_be_read(guest: Any) -> None:
    state = guest.long(rip=0x4000_0000)
    cause = internal_error_cause(EMULATION, sent("0f ae 2f"), state, guest.read, "kvm_pvm")
    assert "xrstor" in cause.sentence
    assert "KVM saw the bytes 0f ae 2f" in cause.details


def test_an_emulation_failure_elsewhere_is_about_device_memory(guest: Any) -> None:
    guest.code("0f 28 07")
    cause = internal_error_cause(EMULATION, (), guest.protected(), guest.read, "kvm_amd")
    assert "outside of RAM" in cause.details[1]
    assert "MOV" in cause.advice[0]
    cause = internal_error_cause(EMULATION, (), guest.real(), guest.read, "kvm_intel")
    assert "unrestricted guest" in cause.details[1]


def test_an_emulation_failure_where_no_code_is(guest: Any) -> None:
    state = guest.protected(rip=0xF000_0000)
    cause = internal_error_cause(EMULATION, (), state, guest.read, "kvm_amd")
    assert "it jumped to 0xf0000000, where there is no memory" in cause.sentence


def test_without_registers(guest: Any) -> None:
    cause = internal_error_cause(EMULATION, sent("cc"), None, guest.read, "")
    assert cause.sentence == "KVM could not emulate the instruction cc"


def test_the_other_suberrors(guest: Any) -> None:
    state = guest.protected()
    data = (0x8000_0B0E, 48, 0, 0xFEE0_0000)
    cause = internal_error_cause(DELIVERY, data, state, guest.read, "kvm_intel")
    assert "could not deliver" in cause.sentence
    assert cause.details == (
        "while delivering exception #PF (vector 14)",
        "the processor left the guest for reason 48",
        "guest-physical address 0xfee00000",
    )
    cause = internal_error_cause(SIMULTANEOUS, (0x8000_0021,), state, guest.read, "")
    assert cause.details == ("while delivering interrupt vector 33",)
    cause = internal_error_cause(UNEXPECTED, (0x77,), state, guest.read, "")
    assert "(0x77)" in cause.sentence
    assert "99" in internal_error_cause(99, (), state, guest.read, "").sentence
    for suberror in (SIMULTANEOUS, DELIVERY, UNEXPECTED):
        assert internal_error_cause(suberror, (), None, guest.read, "").sentence
