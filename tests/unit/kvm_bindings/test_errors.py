from __future__ import annotations

import errno
import os
import pickle

import pytest

from kvm_bindings import KvmError, System, ioctls
from kvm_bindings.errors import _EXPLAINED, explain


def test_it_names_the_request_and_says_what_to_do() -> None:
    error = KvmError("KVM_CREATE_IRQCHIP", errno.EINVAL)
    assert isinstance(error, OSError)
    assert error.ioctl == "KVM_CREATE_IRQCHIP"
    assert error.errno == errno.EINVAL
    assert str(error) == (
        "KVM_CREATE_IRQCHIP: interrupt chips must be made before the first vCPU (EINVAL)"
    )


def test_the_same_errno_means_different_things() -> None:
    assert explain("KVM_RUN", errno.EINVAL) != explain("KVM_SET_SREGS", errno.EINVAL)


def test_what_the_table_lacks_gets_a_general_text() -> None:
    assert "KVM_CHECK_EXTENSION" in explain("KVM_GET_REGS", errno.ENOTTY)
    assert explain("KVM_GET_REGS", errno.EXDEV) == os.strerror(errno.EXDEV)


def test_an_unknown_errno_is_shown_as_a_number() -> None:
    assert str(KvmError("KVM_RUN", 4095)).endswith("(4095)")


def test_it_survives_pickling() -> None:
    error = KvmError("KVM_SET_MSRS", errno.EINVAL, "MSR 0x10 does not take the value 0x1")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.ioctl, copy.errno) == (str(error), error.ioctl, error.errno)


def test_every_explanation_belongs_to_a_request_and_is_one_line() -> None:
    for (name, number), text in _EXPLAINED.items():
        assert name in ioctls.NAMES or name == "open /dev/kvm"
        assert number in errno.errorcode
        assert "\n" not in text
        assert not text.endswith(".")


def test_opening_what_is_not_there_keeps_the_errno() -> None:
    with pytest.raises(KvmError, match=r"^open /dev/kvm: /nowhere/kvm: .*\(ENOENT\)$") as raised:
        System("/nowhere/kvm")
    assert raised.value.errno == errno.ENOENT


def test_opening_what_is_not_kvm_fails_and_leaks_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KvmError, match="not a KVM device") as raised:
        System("/dev/null")
    assert raised.value.ioctl == "KVM_GET_API_VERSION"
    assert len(os.listdir("/proc/self/fd")) == before
