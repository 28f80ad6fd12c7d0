"""/dev/kvm: what this host can do, and the place where VMs are made.

Spec: KVM API, "API description", the requests of type "system ioctl".
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cached_property

from kvm_bindings import ioctls
from kvm_bindings.calls import Closable, ioctl
from kvm_bindings.constants import KVM_API_VERSION, KVM_CAP_COALESCED_MMIO
from kvm_bindings.cpuid import CpuidEntry, read_table
from kvm_bindings.errors import KvmError
from kvm_bindings.ioctls import Ioctl
from kvm_bindings.vm import VM

__all__ = ["System"]


class System(Closable):
    """An open /dev/kvm. VMs made from it live on when it is closed.

    Raises:
        KvmError: it cannot be opened (`errno` says why), is not KVM, or speaks another version
            of the API than 12.
    """

    def __init__(self, path: str = "/dev/kvm") -> None:
        try:
            super().__init__(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            number = error.errno or 0
            message = None if path == "/dev/kvm" else f"{path}: {error.strerror}"
            raise KvmError("open /dev/kvm", number, message) from None
        try:
            if ioctl(self.fd, ioctls.KVM_GET_API_VERSION) != KVM_API_VERSION:
                raise KvmError("KVM_GET_API_VERSION", errno.EPROTO)
        except KvmError:
            self.close()
            raise

    def check_extension(self, capability: int) -> int:
        """Ask for a capability (KVM_CAP_*): 0 if it is missing, 1 or a limit if it is there."""
        return ioctl(self.fd, ioctls.KVM_CHECK_EXTENSION, capability)

    @cached_property
    def vcpu_mmap_size(self) -> int:
        """How many bytes of a vCPU are to be mapped: kvm_run and what follows it."""
        return ioctl(self.fd, ioctls.KVM_GET_VCPU_MMAP_SIZE)

    @cached_property
    def coalesced_mmio_page(self) -> int:
        """The page of a vCPU's mapping with the ring of batched writes; 0 if there is none."""
        return self.check_extension(KVM_CAP_COALESCED_MMIO)

    def create_vm(self, vm_type: int = 0) -> VM:
        """Make a VM without memory and vCPUs.

        Raises:
            KvmError: the kernel refused.
        """
        return VM(ioctl(self.fd, ioctls.KVM_CREATE_VM, vm_type), self.vcpu_mmap_size)

    def supported_cpuid(self) -> list[CpuidEntry]:
        """What CPUID can show to a guest with this processor and this KVM.

        Spec: KVM API, ioctls.KVM_GET_SUPPORTED_CPUID.
        """
        return read_table(self.fd, ioctls.KVM_GET_SUPPORTED_CPUID)

    def emulated_cpuid(self) -> list[CpuidEntry]:
        """The features that KVM emulates in software; slow, and not part of the supported.

        Spec: KVM API, ioctls.KVM_GET_EMULATED_CPUID.
        """
        return read_table(self.fd, ioctls.KVM_GET_EMULATED_CPUID)

    def msr_index_list(self) -> list[int]:
        """The MSRs that hold guest state: what a snapshot has to keep."""
        return self._msr_list(ioctls.KVM_GET_MSR_INDEX_LIST)

    def msr_feature_index_list(self) -> list[int]:
        """The MSRs that tell features of the host."""
        return self._msr_list(ioctls.KVM_GET_MSR_FEATURE_INDEX_LIST)

    def _msr_list(self, request: Ioctl) -> list[int]:
        room = 0
        while True:
            array = (ctypes.c_uint32 * (1 + room))(room)
            try:
                ioctl(self.fd, request, array)
            except KvmError as error:
                # The kernel says how many there are when they do not fit.
                if error.errno != errno.E2BIG or array[0] <= room:
                    raise
                room = array[0]
                continue
            return list(array[1 : 1 + array[0]])
