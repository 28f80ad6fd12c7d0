"""`KvmError`: which request failed, and what its errno means there.

An errno of KVM is rarely what its name says: EINVAL from KVM_RUN is about guest state, EEXIST
from KVM_CREATE_IRQCHIP about order. The table below has what the kernel means by it and what to
do; where it has nothing, a general text stands in.

Spec: KVM API, "API description".
"""

from __future__ import annotations

import errno
import os

__all__ = ["KvmError", "explain"]

_EXPLAINED: dict[tuple[str, int], str] = {
    ("open /dev/kvm", errno.ENOENT): "there is no /dev/kvm; load kvm_amd or kvm_intel, enable "
    "virtualization in the firmware, or nested virtualization in the host of this machine",
    ("open /dev/kvm", errno.ENODEV): "the kernel has no KVM backend; load kvm_amd or kvm_intel",
    ("open /dev/kvm", errno.ENXIO): "the kernel has no KVM backend; load kvm_amd or kvm_intel",
    ("open /dev/kvm", errno.EACCES): "not allowed to open it; join the group kvm "
    "(sudo usermod -aG kvm $USER, then log in again)",
    ("open /dev/kvm", errno.EPERM): "forbidden by a security policy or a container; let the "
    "device /dev/kvm through",
    ("open /dev/kvm", errno.EBUSY): "the processor's virtualization is in use by another "
    "hypervisor; stop it",
    ("KVM_GET_API_VERSION", errno.EPROTO): "the kernel speaks another version of the KVM API "
    "than 12, which is older than Linux 2.6.22",
    ("KVM_GET_API_VERSION", errno.ENOTTY): "the file is not a KVM device",
    ("KVM_CREATE_VM", errno.EINVAL): "the kernel does not know this type of VM; use type 0",
    ("KVM_CREATE_VM", errno.EBUSY): "another hypervisor uses the processor's virtualization; "
    "stop it",
    ("KVM_CREATE_VM", errno.EIO): "the processor's virtualization could not be switched on; "
    "see the kernel log",
    ("KVM_CREATE_VCPU", errno.EINVAL): "the index is above what the kernel allows "
    "(KVM_CAP_MAX_VCPU_ID), or the VM has its maximum of vCPUs (KVM_CAP_MAX_VCPUS)",
    ("KVM_CREATE_VCPU", errno.EEXIST): "the VM has a vCPU of this index; give each its own",
    ("KVM_SET_USER_MEMORY_REGION", errno.EINVAL): "addresses and sizes must be multiples of "
    "4 KiB, the size of a slot is fixed until it is removed, and flags must be known",
    ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST): "the guest-physical addresses overlap "
    "another slot; remove that one first",
    ("KVM_SET_USER_MEMORY_REGION", errno.EFAULT): "the memory behind the slot is not mapped in "
    "this process",
    ("KVM_SET_TSS_ADDR", errno.EINVAL): "the three pages must lie below 4 GiB",
    ("KVM_SET_IDENTITY_MAP_ADDR", errno.EINVAL): "it must be set before the first vCPU is made",
    ("KVM_SET_BOOT_CPU_ID", errno.EBUSY): "it must be set before the first vCPU is made",
    ("KVM_CREATE_IRQCHIP", errno.EEXIST): "the VM has interrupt chips already",
    ("KVM_CREATE_IRQCHIP", errno.EINVAL): "interrupt chips must be made before the first vCPU",
    ("KVM_CREATE_PIT2", errno.EEXIST): "the VM has a PIT already",
    ("KVM_CREATE_PIT2", errno.ENOENT): "the PIT needs the interrupt chips; KVM_CREATE_IRQCHIP "
    "comes first",
    ("KVM_IRQ_LINE", errno.ENXIO): "the VM has no interrupt chips in the kernel; "
    "KVM_CREATE_IRQCHIP comes first",
    ("KVM_IRQ_LINE", errno.EINVAL): "no interrupt chip takes this gsi",
    ("KVM_GET_IRQCHIP", errno.ENXIO): "the VM has no interrupt chips in the kernel",
    ("KVM_SET_IRQCHIP", errno.ENXIO): "the VM has no interrupt chips in the kernel",
    ("KVM_GET_PIT2", errno.ENXIO): "the VM has no PIT in the kernel",
    ("KVM_SET_PIT2", errno.ENXIO): "the VM has no PIT in the kernel",
    ("KVM_IRQFD", errno.EINVAL): "irqfds need the interrupt chips in the kernel, a known gsi "
    "and known flags",
    ("KVM_IRQFD", errno.EBUSY): "the eventfd is tied to an interrupt already",
    ("KVM_IOEVENTFD", errno.EEXIST): "another eventfd is tied to this address, length and value",
    ("KVM_IOEVENTFD", errno.ENOENT): "no such eventfd was tied to this address",
    ("KVM_IOEVENTFD", errno.EINVAL): "the length must be 0, 1, 2, 4 or 8 bytes and the flags known",
    ("KVM_IOEVENTFD", errno.ENOSPC): "the VM has its maximum of kernel devices (1,000)",
    ("KVM_REGISTER_COALESCED_MMIO", errno.EINVAL): "the kernel cannot batch this kind of "
    "address, or the field pio is neither 0 nor 1",
    ("KVM_REGISTER_COALESCED_MMIO", errno.ENOSPC): "the VM has its maximum of kernel devices "
    "(1,000)",
    ("KVM_GET_DIRTY_LOG", errno.ENOENT): "the slot does not log dirty pages; set "
    "KVM_MEM_LOG_DIRTY_PAGES on it",
    ("KVM_GET_DIRTY_LOG", errno.ENXIO): "the VM uses dirty rings instead of the log",
    ("KVM_CREATE_DEVICE", errno.ENODEV): "the kernel has no device of this type",
    ("KVM_ENABLE_CAP", errno.EINVAL): "the kernel does not have the capability, refuses its "
    "arguments, or it comes too late (several must come before the first vCPU)",
    ("KVM_RUN", errno.EINVAL): "the guest's state is not valid, or the vCPU was not set up",
    ("KVM_RUN", errno.EFAULT): "the memory behind a slot is not mapped in this process",
    ("KVM_RUN", errno.ENOMEM): "the kernel has no memory for the guest's page tables",
    ("KVM_RUN", errno.EIO): "KVM refuses to go on with this VM after an error of its own; see "
    "the kernel log",
    ("KVM_SET_SREGS", errno.EINVAL): "control registers, EFER and segments contradict each "
    "other (CR0.PG needs CR0.PE, EFER.LMA needs EFER.LME, CR4.PAE and CR0.PG), or a bit is "
    "set that the guest's CPUID does not have",
    ("KVM_SET_SREGS2", errno.EINVAL): "control registers, EFER and segments contradict each "
    "other, or a bit is set that the guest's CPUID does not have",
    ("KVM_SET_CPUID2", errno.E2BIG): "more entries than the kernel takes",
    ("KVM_SET_CPUID2", errno.EINVAL): "CPUID cannot change after the vCPU has run, and the "
    "address width must be 0, 48 or 57 bits",
    ("KVM_SET_XSAVE", errno.EINVAL): "the area has components that the guest's CPUID lacks",
    ("KVM_SET_XCRS", errno.EINVAL): "XCR0 has bits that the guest's CPUID lacks, or not bit 0",
    ("KVM_GET_LAPIC", errno.EINVAL): "the VM has no local APIC in the kernel; "
    "KVM_CREATE_IRQCHIP comes first",
    ("KVM_SET_LAPIC", errno.EINVAL): "the VM has no local APIC in the kernel; "
    "KVM_CREATE_IRQCHIP comes first",
    ("KVM_SET_MP_STATE", errno.EINVAL): "the state needs the local APIC in the kernel; only "
    "RUNNABLE is allowed without",
    ("KVM_INTERRUPT", errno.EEXIST): "an interrupt is queued already",
    ("KVM_INTERRUPT", errno.EINVAL): "the vector must be 0 to 255",
    ("KVM_INTERRUPT", errno.ENXIO): "the interrupt chips are in the kernel; use KVM_IRQ_LINE",
    ("KVM_SET_GUEST_DEBUG", errno.EBUSY): "an exception is waiting to be delivered, so that "
    "none can be injected",
    ("KVM_GET_NESTED_STATE", errno.EINVAL): "this backend has no nested virtualization",
    ("KVM_SET_NESTED_STATE", errno.EINVAL): "the state does not fit this processor or CPUID",
    ("KVM_KVMCLOCK_CTRL", errno.EINVAL): "the guest does not use kvmclock",
}

_GENERAL: dict[int, str] = {
    errno.EACCES: "not allowed; check the permissions of /dev/kvm",
    errno.EBADF: "the file descriptor is closed; the object was used after close()",
    errno.EBUSY: "in use",
    errno.E2BIG: "the list does not fit",
    errno.EEXIST: "it exists already",
    errno.EFAULT: "an address given to the kernel is not mapped in this process",
    errno.EINTR: "interrupted by a signal",
    errno.EINVAL: "the kernel refuses these values",
    errno.EIO: "KVM refuses to go on with this VM after an error; see the kernel log",
    errno.EMFILE: "this process has too many open files; raise ulimit -n",
    errno.ENFILE: "the system has too many open files",
    errno.ENODEV: "there is no such device",
    errno.ENOENT: "there is no such thing",
    errno.ENOMEM: "the kernel has no memory for it",
    errno.ENOSPC: "a limit of the kernel is reached",
    errno.ENOSYS: "this system has no KVM",
    errno.ENOTTY: "the kernel does not have this request; ask KVM_CHECK_EXTENSION first",
    errno.ENXIO: "what it works on is not there",
    errno.EOPNOTSUPP: "not supported by this processor or backend",
    errno.EPERM: "forbidden",
}


def explain(ioctl: str, number: int) -> str:
    """Say what errno `number` means for the request `ioctl`, and what to do."""
    return _EXPLAINED.get((ioctl, number)) or _GENERAL.get(number) or os.strerror(number)


class KvmError(OSError):
    """A request to KVM failed. `ioctl` is the request's name, `errno` as the kernel set it."""

    def __init__(self, ioctl: str, number: int, explanation: str | None = None) -> None:
        super().__init__(number, explanation or explain(ioctl, number))
        self.ioctl = ioctl

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.ioctl}: {self.strerror} ({name})"

    def __reduce__(self) -> tuple[type[KvmError], tuple[str, int, str]]:
        return type(self), (self.ioctl, self.errno or 0, self.strerror or "")
