"""The least that shows a working /dev/kvm: five bytes of real-mode code, with nothing but Python.

It stands apart from the project's own bindings on purpose, so that it tells a broken lab from a
broken project. Spec: KVM API, KVM_RUN; <linux/kvm.h> for the numbers and layouts.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_RUN = 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5

CODE = b"\xb0\x41\xe6\xe9\xf4"  # mov al, 'A'; out 0xe9, al; hlt


def main() -> None:
    """Run the guest; an assertion tells what is wrong."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory.write(CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("IIQQQ", 0, 0, 0, mmap.PAGESIZE, address)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE))
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    fcntl.ioctl(vcpu, KVM_SET_SREGS, sregs)
    regs = bytearray(144)
    struct.pack_into("QQ", regs, 128, 0, 2)  # rip, rflags
    fcntl.ioctl(vcpu, KVM_SET_REGS, regs)

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ioctl(vcpu, KVM_RUN, 0) == 0, os.strerror(ctypes.get_errno())
    reason, direction, size, port, count, offset = struct.unpack_from("<I20xBBHIQ", run, 8)
    assert (reason, direction, size, port, count) == (KVM_EXIT_IO, 1, 1, 0xE9, 1)
    value = chr(run[offset])
    assert libc.ioctl(vcpu, KVM_RUN, 0) == 0, os.strerror(ctypes.get_errno())
    assert struct.unpack_from("<I", run, 8)[0] == KVM_EXIT_HLT
    print(f"a real-mode guest wrote {value!r} to port {port:#x} and halted", flush=True)


if __name__ == "__main__":
    main()
