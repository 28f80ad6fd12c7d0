"""CPUID tables as the kernel passes them: a header and entries of 40 bytes."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections import namedtuple
from collections.abc import Iterable

from kvm_bindings.calls import ioctl, pointer_to
from kvm_bindings.errors import KvmError
from kvm_bindings.ioctls import Ioctl

__all__ = ["CpuidEntry", "pack_table"]

_HEADER = struct.Struct("=II")
_ENTRY = struct.Struct("=7I12x")


class CpuidEntry(
    namedtuple("CpuidEntry", "function index flags eax ebx ecx edx", defaults=(0, 0, 0, 0, 0, 0))
):
    """What CPUID answers in four 32-bit registers for one leaf (`function`).

    `index` is the subleaf; it counts only where `flags` has KVM_CPUID_FLAG_SIGNIFCANT_INDEX.

    Spec: KVM API, KVM_SET_CPUID2.
    """

    __slots__ = ()


def read_table(fd: int, request: Ioctl) -> list[CpuidEntry]:
    """Read a CPUID table with `request`, whatever its length.

    Raises:
        KvmError: the kernel refused.
    """
    room = 128
    while True:
        buffer = bytearray(_HEADER.size + room * _ENTRY.size)
        _HEADER.pack_into(buffer, 0, room, 0)
        try:
            ioctl(fd, request, pointer_to(buffer))
        except KvmError as error:
            if error.errno != errno.E2BIG or room > 4096:
                raise
            room *= 2
            continue
        count = _HEADER.unpack_from(buffer)[0]
        end = _HEADER.size + count * _ENTRY.size
        entries = memoryview(buffer)[_HEADER.size : end]
        return [CpuidEntry._make(fields) for fields in _ENTRY.iter_unpack(entries)]


def pack_table(entries: Iterable[CpuidEntry]) -> ctypes.Array[ctypes.c_char]:
    """Lay out `entries` as a kvm_cpuid2, to be passed to `Vcpu.set_cpuid2` or `ioctl`."""
    packed = [_ENTRY.pack(*entry) for entry in entries]
    data = _HEADER.pack(len(packed), 0) + b"".join(packed)
    return ctypes.create_string_buffer(data, len(data))
