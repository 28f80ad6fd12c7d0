"""The one way into the kernel: libc's ioctl through ctypes.

Not `fcntl.ioctl`, for three reasons. It takes integers of 32 bits only; it holds the interpreter
lock while it passes more than 1,024 bytes (up to Python 3.13), so that reading the XSAVE area of
a running vCPU would stop every thread; and from Python 3.14 it repeats an interrupted call by
itself, which KVM_RUN must never do.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from kvm_bindings.errors import KvmError
from kvm_bindings.ioctls import Ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Closable", "Prepared", "ioctl", "libc_ioctl", "pointer_to"]

_NOTHING = ctypes.c_ulong(0)


def _load() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).ioctl
    except (OSError, TypeError, AttributeError):  # no libc with an ioctl: not a Unix

        def missing(*_: object) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

        return missing


libc_ioctl: Any = _load()
"""libc's ioctl without `argtypes`, which would double the cost of a call. Every argument is a
ctypes object: a bare int would be cut to 32 bits."""


def pointer_to(buffer: bytearray) -> Any:
    """Return a ctypes array that shares the memory of `buffer`, to be passed to `ioctl`."""
    return (ctypes.c_char * len(buffer)).from_buffer(buffer)


class Prepared:
    """Requests to one file descriptor, put together once and made again and again: each costs half
    of what `ioctl` does.

    Args:
        fd: where to.
        requests: each with a structure or an array, whose contents count when it is made.
    """

    def __init__(self, fd: int, requests: Iterable[tuple[Ioctl, Any]]) -> None:
        self._plain = list(requests)
        self._fd = fd
        where = ctypes.c_int(fd)
        self._ready = [(where, r.as_ulong, ctypes.byref(argument)) for r, argument in self._plain]

    def __call__(self) -> None:
        """Make the requests, in their order.

        Raises:
            KvmError: the kernel refused one; those before it are made.
        """
        call = libc_ioctl
        for number, (where, request, argument) in enumerate(self._ready):
            if call(where, request, argument) < 0:
                for again, structure in self._plain[number:]:
                    ioctl(self._fd, again, structure)


def ioctl(fd: int, request: Ioctl, argument: Any = None) -> int:
    """Make a request other than KVM_RUN and return its result (0 or above).

    `argument` is a structure, an array, an integer of up to 64 bits, or None. A call that a
    signal interrupts is repeated: KVM_CREATE_VM, for one, gives up on any signal.

    Raises:
        KvmError: the kernel refused.
    """
    if argument is None:
        passed: Any = _NOTHING
    elif isinstance(argument, int):
        passed = ctypes.c_ulong(argument)
    else:
        passed = ctypes.byref(argument)
    handle = ctypes.c_int(fd)
    while True:
        result: int = libc_ioctl(handle, request.as_ulong, passed)
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise KvmError(request.name, number)


class Closable:
    """Something that owns a file descriptor: closed once, by `close()` or at the end of `with`.

    `fd` is -1 after that, so that a late call fails with EBADF and cannot reach a descriptor
    that has been given to someone else.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self.fd < 0

    def close(self) -> None:
        """Close the descriptor. Calling it again does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A net below those who forget; anything that counts on it closes too late.
        if getattr(self, "fd", -1) >= 0:
            self.close()
