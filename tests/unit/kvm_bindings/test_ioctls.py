"""Request numbers, declared here once more by hand: a mistyped one in the table fails."""

from __future__ import annotations

import ast
import ctypes
from pathlib import Path

import pytest

from kvm_bindings import constants, ioctls, structs

EVERY = {name: getattr(ioctls, name) for name in ioctls.NAMES}

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
    assert EVERY[name] == number


def test_every_request_is_a_module_attribute_of_its_name() -> None:
    assert len(EVERY) > 60
    for name, request in EVERY.items():
        assert getattr(ioctls, name) is request
        assert request.name == repr(request) == name
        assert request.as_ulong.value == request


def test_every_capability_that_a_request_names_is_known() -> None:
    named = {r.capability for r in EVERY.values() if r.capability}
    assert named <= constants.CAPABILITIES.keys()
    assert ioctls.KVM_GET_XSAVE2.capability == "KVM_CAP_XSAVE2"


def test_no_two_requests_of_one_level_share_a_number() -> None:
    seen = {(r.level, int(r)) for r in EVERY.values()}
    assert len(seen) == len(EVERY)


def test_the_size_is_that_of_the_argument() -> None:
    for request in EVERY.values():
        if request.argument is not None and request >> 30:
            assert request >> 16 & 0x3FFF == ctypes.sizeof(request.argument), request


def test_every_request_and_structure_that_the_wrappers_name_exists() -> None:
    """They are looked up when they are used: a mistyped one would be seen by its user only."""
    used = {"ioctls": set(), "structs": set()}
    for path in Path(ioctls.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.get(node.value.id, set()).add(node.attr)
    assert len(used["ioctls"]) > 60
    assert used["ioctls"] <= {*ioctls.NAMES, "Ioctl"}
    assert used["structs"] <= set(structs.__all__)


@pytest.mark.parametrize("module", [ioctls, structs])
def test_an_unknown_name_is_an_attribute_error(module) -> None:
    with pytest.raises(AttributeError, match="KVM_NONE"):
        _ = module.KVM_NONE
