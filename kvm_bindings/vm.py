"""A VM: memory slots, interrupt chips, eventfds, clock, and the vCPUs made from it.

Spec: KVM API, "API description", the requests of type "vm ioctl".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from kvm_bindings import ioctls, structs
from kvm_bindings.calls import Closable, ioctl, pointer_to
from kvm_bindings.constants import KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE
from kvm_bindings.device import KvmDevice
from kvm_bindings.vcpu import Vcpu

__all__ = ["VM"]

_NO_FD = 0xFFFF_FFFF


class VM(Closable):
    """A virtual machine of the kernel. Every method raises KvmError when the kernel refuses.

    `close()` closes the vCPUs and devices made from it first. Memory given to a slot must stay
    mapped until then.
    """

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = vcpu_mmap_size
        self._children: list[Closable] = []

    def close(self) -> None:
        """Close the vCPUs and devices made from this VM, then the VM itself."""
        while self._children:
            self._children.pop().close()
        super().close()

    def check_extension(self, capability: int) -> int:
        """Ask for a capability (KVM_CAP_*) of this VM: 0, 1 or a limit."""
        return ioctl(self.fd, ioctls.KVM_CHECK_EXTENSION, capability)

    def enable_cap(self, capability: int, *args: int, flags: int = 0) -> None:
        """Switch a capability on, with up to four arguments of 64 bits."""
        asked = structs.kvm_enable_cap(cap=capability, flags=flags)
        for position, value in enumerate(args):
            asked.args[position] = value
        ioctl(self.fd, ioctls.KVM_ENABLE_CAP, asked)

    # vCPUs and devices

    def create_vcpu(self, index: int) -> Vcpu:
        """Make vCPU `index`, which is its APIC id too."""
        fd = ioctl(self.fd, ioctls.KVM_CREATE_VCPU, index)
        made = Vcpu(fd, index, self._vcpu_mmap_size, self.check_extension)
        self._children.append(made)
        return made

    def set_boot_cpu_id(self, index: int) -> None:
        """Choose the vCPU that starts by itself. Before the first vCPU is made."""
        ioctl(self.fd, ioctls.KVM_SET_BOOT_CPU_ID, index)

    def create_device(self, device_type: int, flags: int = 0) -> KvmDevice:
        """Make a device of the kernel (KVM_DEV_TYPE_*)."""
        asked = structs.kvm_create_device(type=device_type, flags=flags)
        ioctl(self.fd, ioctls.KVM_CREATE_DEVICE, asked)
        made = KvmDevice(asked.fd)
        self._children.append(made)
        return made

    # Memory

    def set_user_memory_region(
        self, slot: int, gpa: int, size: int, hva: int, flags: int = 0
    ) -> None:
        """Put `size` bytes of this process's memory from `hva` at guest-physical `gpa`.

        Addresses and size are multiples of 4 KiB; a size of 0 removes the slot. `flags` are
        KVM_MEM_READONLY and KVM_MEM_LOG_DIRTY_PAGES.
        """
        region = structs.kvm_userspace_memory_region(slot, flags, gpa, size, hva)
        ioctl(self.fd, ioctls.KVM_SET_USER_MEMORY_REGION, region)

    def get_dirty_log(self, slot: int, bitmap: bytearray) -> None:
        """Fill `bitmap` with one bit for each page of `slot` written since the last call.

        `bitmap` holds a whole number of 64-bit words. What it shows is cleared in the kernel,
        unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on.
        """
        array = pointer_to(bitmap)
        ioctl(
            self.fd,
            ioctls.KVM_GET_DIRTY_LOG,
            structs.kvm_dirty_log(slot, 0, ctypes.addressof(array)),
        )

    def clear_dirty_log(
        self, slot: int, bitmap: bytearray, first_page: int, num_pages: int
    ) -> None:
        """Clear the pages of `slot` whose bits are set; bit 0 is `first_page`."""
        array = pointer_to(bitmap)
        asked = structs.kvm_clear_dirty_log(slot, num_pages, first_page, ctypes.addressof(array))
        ioctl(self.fd, ioctls.KVM_CLEAR_DIRTY_LOG, asked)

    def reset_dirty_rings(self) -> int:
        """Take back the harvested entries of all dirty rings; return how many they were."""
        return ioctl(self.fd, ioctls.KVM_RESET_DIRTY_RINGS)

    def set_tss_addr(self, gpa: int) -> None:
        """Give VT-x three pages below 4 GiB for real mode. Before the first vCPU is made."""
        ioctl(self.fd, ioctls.KVM_SET_TSS_ADDR, gpa)

    def set_identity_map_addr(self, gpa: int) -> None:
        """Give VT-x one page below 4 GiB for real mode. Before the first vCPU is made."""
        ioctl(self.fd, ioctls.KVM_SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(gpa))

    # Interrupts

    def create_irqchip(self) -> None:
        """Make two 8259A, an IOAPIC and a local APIC for each vCPU that is made later."""
        ioctl(self.fd, ioctls.KVM_CREATE_IRQCHIP)

    def create_pit2(self, flags: int = 0) -> None:
        """Make an 8254; KVM_PIT_SPEAKER_DUMMY answers port 0x61 too."""
        ioctl(self.fd, ioctls.KVM_CREATE_PIT2, structs.kvm_pit_config(flags=flags))

    def irq_line(self, gsi: int, level: bool) -> None:
        """Set the level of an interrupt line: 0 to 15 reach the 8259A, 0 to 23 the IOAPIC."""
        ioctl(self.fd, ioctls.KVM_IRQ_LINE, structs.kvm_irq_level(gsi, level))

    def irqfd(self, fd: int, gsi: int, flags: int = 0, resample_fd: int = -1) -> None:
        """Let an eventfd raise `gsi`; KVM_IRQFD_FLAG_DEASSIGN unties it.

        With `resample_fd` the line is level-triggered: that eventfd fires when the guest
        acknowledges the interrupt.
        """
        if resample_fd >= 0:
            flags |= KVM_IRQFD_FLAG_RESAMPLE
        asked = structs.kvm_irqfd(fd & _NO_FD, gsi, flags, resample_fd & _NO_FD)
        ioctl(self.fd, ioctls.KVM_IRQFD, asked)

    def ioeventfd(self, fd: int, addr: int, size: int, flags: int = 0, datamatch: int = 0) -> None:
        """Let a guest's write of `size` bytes at `addr` signal an eventfd, without an exit.

        `flags` are KVM_IOEVENTFD_FLAG_*: PIO for a port, DATAMATCH for one value only, DEASSIGN
        to untie. `size` 0 takes any.
        """
        ioctl(
            self.fd, ioctls.KVM_IOEVENTFD, structs.kvm_ioeventfd(datamatch, addr, size, fd, flags)
        )

    def remove_ioeventfd(
        self, fd: int, addr: int, size: int, flags: int = 0, datamatch: int = 0
    ) -> None:
        """Undo `ioeventfd` with the same arguments."""
        self.ioeventfd(fd, addr, size, flags | KVM_IOEVENTFD_FLAG_DEASSIGN, datamatch)

    def set_gsi_routing(self, entries: Iterable[structs.kvm_irq_routing_entry]) -> None:
        """Replace the table that says where each gsi goes."""
        listed = list(entries)
        table = bytearray(structs.kvm_irq_routing(len(listed), 0))
        table += b"".join(bytes(entry) for entry in listed)
        ioctl(self.fd, ioctls.KVM_SET_GSI_ROUTING, pointer_to(table))

    def signal_msi(self, msi: structs.kvm_msi) -> bool:
        """Inject a message-signalled interrupt; say whether it was delivered."""
        return ioctl(self.fd, ioctls.KVM_SIGNAL_MSI, msi) > 0

    def get_irqchip(self, chip_id: int) -> structs.kvm_irqchip:
        """Read one interrupt chip (KVM_IRQCHIP_*)."""
        chip = structs.kvm_irqchip(chip_id=chip_id)
        ioctl(self.fd, ioctls.KVM_GET_IRQCHIP, chip)
        return chip

    def set_irqchip(self, chip: structs.kvm_irqchip) -> None:
        """Set the interrupt chip that `chip.chip_id` names."""
        ioctl(self.fd, ioctls.KVM_SET_IRQCHIP, chip)

    def get_pit2(self) -> structs.kvm_pit_state2:
        """Read the 8254."""
        state = structs.kvm_pit_state2()
        ioctl(self.fd, ioctls.KVM_GET_PIT2, state)
        return state

    def set_pit2(self, state: structs.kvm_pit_state2) -> None:
        """Set the 8254."""
        ioctl(self.fd, ioctls.KVM_SET_PIT2, state)

    def set_pit_reinject(self, reinject: bool) -> None:
        """Say whether timer interrupts that the guest missed are made up for."""
        ioctl(
            self.fd,
            ioctls.KVM_REINJECT_CONTROL,
            structs.kvm_reinject_control(pit_reinject=reinject),
        )

    # Batched writes

    def register_coalesced_mmio(self, addr: int, size: int, pio: bool = False) -> None:
        """Batch the guest's writes to `size` bytes from `addr` in a ring (Vcpu.coalesced_ring)."""
        ioctl(
            self.fd,
            ioctls.KVM_REGISTER_COALESCED_MMIO,
            structs.kvm_coalesced_mmio_zone(addr, size, pio),
        )

    def unregister_coalesced_mmio(self, addr: int, size: int, pio: bool = False) -> None:
        """Undo `register_coalesced_mmio` for every zone inside of these addresses."""
        ioctl(
            self.fd,
            ioctls.KVM_UNREGISTER_COALESCED_MMIO,
            structs.kvm_coalesced_mmio_zone(addr, size, pio),
        )

    # Clock, MSRs, statistics

    def get_clock(self) -> structs.kvm_clock_data:
        """Read the VM's clock, in nanoseconds."""
        data = structs.kvm_clock_data()
        ioctl(self.fd, ioctls.KVM_GET_CLOCK, data)
        return data

    def set_clock(self, data: structs.kvm_clock_data) -> None:
        """Set the VM's clock. Of the flags only KVM_CLOCK_REALTIME may be set."""
        ioctl(self.fd, ioctls.KVM_SET_CLOCK, data)

    def set_msr_filter(self, msr_filter: structs.kvm_msr_filter) -> None:
        """Choose the MSR accesses that the kernel does not answer itself."""
        ioctl(self.fd, ioctls.KVM_X86_SET_MSR_FILTER, msr_filter)

    def stats_fd(self) -> int:
        """Open the VM's statistics (see `kvm_bindings.stats`); the caller closes it."""
        return ioctl(self.fd, ioctls.KVM_GET_STATS_FD)
