"""The kick: a signal that brings a thread out of KVM_RUN, and a timer that sends it.

KVM_RUN returns with EINTR when a signal is pending for its thread, whatever the handler does. So
the handler does nothing. Python's own `signal.signal` will not do: it works on the main thread
only, and its handlers run there. The handler here is a function of libc that is harmless (`abs`),
installed through libc from whichever thread comes first, with SA_RESTART, so that a stray kick
disturbs no system call.

To bring a vCPU out for good, set kvm_run.immediate_exit first, then kick: a kick that comes just
before KVM_RUN would else be spent.

Spec: KVM API, KVM_RUN and "The kvm_run structure" (immediate_exit); timer_create(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["KICK_SIGNAL", "Heartbeat", "install", "kick"]

KICK_SIGNAL: int = int(getattr(signal, "SIGRTMIN", signal.SIGINT)) + 5
"""A real-time signal: such signals queue, and nothing else uses this one."""

_SIG_ERR = ctypes.c_void_p(-1).value
_SIGEV_THREAD_ID = 4
_NS = 1_000_000_000


class _sigevent(ctypes.Structure):
    _fields_ = (
        ("sigev_value", ctypes.c_void_p),
        ("sigev_signo", ctypes.c_int),
        ("sigev_notify", ctypes.c_int),
        ("sigev_notify_thread_id", ctypes.c_int),
        ("_pad", ctypes.c_char * 44),
    )


class _itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_NEVER = _itimerspec()
_RELATIVE = ctypes.c_int(0)


@cache
def install() -> None:
    """Give KICK_SIGNAL its handler, once for the process. From any thread.

    Raises:
        OSError: the signal cannot be handled on this system.
    """
    if not sys.platform.startswith("linux"):
        raise OSError("kicking a vCPU needs Linux")
    libc = _libc()
    # signal() of glibc and musl installs with SA_RESTART.
    libc.signal.restype = ctypes.c_void_p
    handler = ctypes.cast(libc.abs, ctypes.c_void_p)
    if libc.signal(ctypes.c_int(KICK_SIGNAL), handler) == _SIG_ERR:
        number = ctypes.get_errno()
        raise OSError(number, f"signal {KICK_SIGNAL}: {os.strerror(number)}")


def kick(thread_ident: int) -> None:
    """Send the kick to a thread (`threading.get_ident()`); `install` must have been called.

    The thread must not have been joined. One that has just ended is left alone.
    """
    with contextlib.suppress(ProcessLookupError):
        signal.pthread_kill(thread_ident, KICK_SIGNAL)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _timer_functions() -> Any:
    """Find the library with timer_create: libc from glibc 2.34 on, librt before."""
    libc = _libc()
    return libc if hasattr(libc, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)


class Heartbeat:
    """A timer of the kernel that kicks the thread which made it, again and again.

    It bounds the time that a thread stays in KVM_RUN without a second thread. It repeats, so that
    a tick that comes outside of KVM_RUN is made up for by the next.

    Raises:
        OSError: the system has no timer left.
    """

    def __init__(self) -> None:
        install()
        self._lib = _timer_functions()
        self._timer = ctypes.c_void_p()
        self._spec = _itimerspec()
        event = _sigevent(
            sigev_signo=KICK_SIGNAL,
            sigev_notify=_SIGEV_THREAD_ID,
            sigev_notify_thread_id=threading.get_native_id(),
        )
        self._open = False
        clock = ctypes.c_int(time.CLOCK_MONOTONIC)
        self._check(
            self._lib.timer_create(clock, ctypes.byref(event), ctypes.byref(self._timer)),
            "timer_create",
        )
        self._open = True

    def start(self, first_ns: int, interval_ns: int) -> None:
        """Kick in `first_ns` nanoseconds, then every `interval_ns`. Replaces what was set.

        Raises:
            ValueError: a time is not above 0.
        """
        if first_ns <= 0 or interval_ns <= 0:
            raise ValueError("a heartbeat needs times above 0")
        spec = self._spec
        spec.interval_s, spec.interval_ns = divmod(interval_ns, _NS)
        spec.value_s, spec.value_ns = divmod(first_ns, _NS)
        self._set(spec)

    def stop(self) -> None:
        """Send no more kicks."""
        self._set(_NEVER)

    def close(self) -> None:
        """Give the timer back. Calling it again does nothing."""
        if self._open:
            self._open = False
            self._lib.timer_delete(self._timer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()

    def _set(self, spec: _itimerspec) -> None:
        if self._open:
            done = self._lib.timer_settime(self._timer, _RELATIVE, ctypes.byref(spec), None)
            if done < 0:
                self._check(done, "timer_settime")

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
