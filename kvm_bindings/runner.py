"""KVM_RUN, as cheap as it can be: the innermost call of the run loop.

There are two runners with one behaviour. The compiled one (`kvm_bindings._fastrun`) is built
where a C compiler is found at installation; the other goes through ctypes. The environment
variable GLASSVM_RUNNER=ctypes chooses the latter.

Neither may go through `fcntl.ioctl`: from Python 3.14 it repeats a call that a signal
interrupted, so that a kick would never come back.

Spec: KVM API, KVM_RUN.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol

from kvm_bindings.calls import libc_ioctl
from kvm_bindings.ioctls import KVM_RUN

__all__ = ["Runner", "make_runner", "runner_kind"]

_EXIT_REASON_WORD = 2
"""kvm_run.exit_reason is at byte 8."""


class Runner(Protocol):
    """One vCPU's way into the guest."""

    enter: Callable[[], int]
    """Enter the guest once; return the exit reason, or a negative errno."""

    def disarm(self) -> None:
        """Make `enter` return -EBADF from now on, and let go of the mapping."""


class CtypesRunner:
    """KVM_RUN through libc's ioctl."""

    def __init__(self, fd: int, mapping: mmap.mmap) -> None:
        handle = self._handle = ctypes.c_int(fd)
        view = self._view = memoryview(mapping)
        words = self._words = view.cast("I")
        call, request, nothing = libc_ioctl, KVM_RUN.as_ulong, ctypes.c_ulong(0)
        get_errno = ctypes.get_errno

        def enter() -> int:
            if call(handle, request, nothing):
                return -get_errno()
            return words[_EXIT_REASON_WORD]

        self.enter = enter

    def disarm(self) -> None:
        """Make `enter` return -EBADF from now on, and let go of the mapping."""
        self._handle.value = -1
        self._words.release()
        self._view.release()


class CompiledRunner:
    """KVM_RUN in C: one call that makes the ioctl and reads the exit reason."""

    def __init__(self, fastrun: Any, fd: int, mapping: mmap.mmap) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self._target = fastrun.ffi.new("struct glassvm_vcpu *")
        self._target.fd = fd
        self._target.exit_reason = fastrun.ffi.cast("uint32_t *", address + 4 * _EXIT_REASON_WORD)
        self.enter: Callable[[], int] = partial(fastrun.lib.glassvm_enter, self._target)

    def disarm(self) -> None:
        """Make `enter` return -EBADF from now on."""
        self._target.fd = -1


@cache
def _import_fastrun() -> Any:
    try:
        return importlib.import_module("kvm_bindings._fastrun")
    except ImportError:
        return None


def _compiled() -> Any:
    return None if os.environ.get("GLASSVM_RUNNER") == "ctypes" else _import_fastrun()


def make_runner(fd: int, mapping: mmap.mmap) -> Runner:
    """Make the best runner there is for the vCPU `fd` with its page mapped at `mapping`."""
    fastrun = _compiled()
    return CompiledRunner(fastrun, fd, mapping) if fastrun else CtypesRunner(fd, mapping)


def runner_kind() -> str:
    """Say which runner `make_runner` makes: "compiled" or "ctypes"."""
    return "compiled" if _compiled() else "ctypes"
