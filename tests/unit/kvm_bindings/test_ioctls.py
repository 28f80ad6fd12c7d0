"""Request numbers, declared here once more by hand: a mistyped one in the table fails."""

from __future__ import annotations

import ctypes

import pytest

from kvm_bindings import constants, ioctls

# As strace prints them and as other programs have them in their binaries.
BY_HAND = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_GET_SUPPORTED_CPUID": 0xC008AE05,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_CREATE_IRQCHIP": 0xAE60,
    "KVM_IRQ_LINE": 0x4008AE61,
    "KVM_IRQFD": 0x4020AE76,
    "KVM_IOEVENTFD": 0x4040AE79,
    "KVM_RUN": 0xAE80,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_SET_CPUID2": 0x4008AE90,
    "KVM_GET_XSAVE": 0x9000AEA4,
    "KVM_GET_STATS_FD": 0xAECE,
}


@pytest.mark.parametrize(("name", "number"), BY_HAND.items())
def test_number(name: str, number: int) -> None:
    assert ioctls.IOCTLS[name] == number


def test_every_request_is_a_module_attribute_of_its_name() -> None:
    assert len(ioctls.IOCTLS) > 60
    for name, request in ioctls.IOCTLS.items():
        assert getattr(ioctls, name) is request
        assert request.name == repr(request) == name
        assert request.as_ulong.value == request


def test_every_capability_that_a_request_names_is_known() -> None:
    named = {r.capability for r in ioctls.IOCTLS.values() if r.capability}
    assert named <= constants.CAPABILITIES.keys()
    assert ioctls.KVM_GET_XSAVE2.capability == "KVM_CAP_XSAVE2"


def test_no_two_requests_of_one_level_share_a_number() -> None:
    seen = {(r.level, int(r)) for r in ioctls.IOCTLS.values()}
    assert len(seen) == len(ioctls.IOCTLS)


def test_the_size_is_that_of_the_argument() -> None:
    for request in ioctls.IOCTLS.values():
        if request.argument is not None and request >> 30:
            assert request >> 16 & 0x3FFF == ctypes.sizeof(request.argument), request
