from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from kvm_bindings import KvmError, calls
from kvm_bindings.ioctls import KVM_GET_API_VERSION, KVM_SET_TSS_ADDR


def test_an_interrupted_call_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [-1, -1, 7]
    monkeypatch.setattr(calls, "libc_ioctl", lambda *_: answers.pop(0))
    monkeypatch.setattr(calls.ctypes, "get_errno", lambda: errno.EINTR)
    assert calls.ioctl(3, KVM_GET_API_VERSION) == 7
    assert answers == []


def test_integers_are_passed_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(calls, "libc_ioctl", lambda *arguments: seen.append(arguments) or 0)
    calls.ioctl(3, KVM_SET_TSS_ADDR, 0xFFFB_D000)
    fd, request, argument = seen[0]
    assert (fd.value, request.value, argument.value) == (3, 0xAE47, 0xFFFB_D000)


def test_a_closed_object_fails_with_ebadf() -> None:
    readable, writable = os.pipe()
    os.close(writable)
    with calls.Closable(readable) as thing:
        assert not thing.closed
    assert thing.closed
    thing.close()
    with pytest.raises(KvmError, match="used after close") as raised:
        calls.ioctl(thing.fd, KVM_GET_API_VERSION)
    assert raised.value.errno == errno.EBADF


def test_a_forgotten_object_is_closed_in_the_end() -> None:
    readable, writable = os.pipe()
    os.close(writable)
    calls.Closable(readable)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(readable)


def test_importing_needs_no_kvm_and_no_x86() -> None:
    script = (
        "import platform, os; platform.machine = lambda: 'aarch64'\n"
        "real = os.open\n"
        "def refuse(path, *rest):\n"
        "    assert 'kvm' not in str(path), path\n"
        "    return real(path, *rest)\n"
        "os.open = refuse\n"
        "import kvm_bindings, kvm_bindings.signals, kvm_bindings.stats\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
