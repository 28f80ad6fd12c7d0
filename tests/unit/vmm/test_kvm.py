from __future__ import annotations

import errno
import platform
from types import SimpleNamespace

import pytest

from vmm.errors import ExitStatus, KvmUnavailable
from vmm.kvm import open_kvm, why_not


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOENT, "modprobe"),
        (errno.ENODEV, "modprobe"),
        (errno.ENXIO, "nested virtualization"),
        (errno.EACCES, "usermod -aG kvm"),
        (errno.EPERM, "usermod -aG kvm"),
        (errno.EBUSY, "another hypervisor"),
        (errno.EMFILE, "/dev/kvm"),
    ],
)
def test_each_failure_names_its_fix_in_one_line(number, fix):
    message = why_not("/dev/kvm", OSError(number, "x"))
    assert fix in message
    assert "/dev/kvm" in message
    assert "\n" not in message


def test_no_such_node(tmp_path):
    with pytest.raises(KvmUnavailable, match=r"nothing-here is not usable \(ENOENT\)") as caught:
        open_kvm(str(tmp_path / "nothing-here"))
    assert caught.value.status == ExitStatus.NO_KVM


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("vmm.kvm.kvm_bindings.System", refuse)
    with pytest.raises(KvmUnavailable, match=r"permission denied.*usermod"):
        open_kvm()


def test_a_file_that_is_not_kvm(tmp_path):
    if platform.machine() != "x86_64":
        pytest.skip("guests are x86-64")
    with pytest.raises(KvmUnavailable, match="/dev/null") as caught:
        open_kvm("/dev/null")
    assert "\n" not in str(caught.value)


def test_another_processor_says_so(monkeypatch):
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(KvmUnavailable, match="this is aarch64"):
        open_kvm()
