"""What KVM holds of a machine: the VM, its memory slots, its vCPUs, its interrupt lines.

Built in the order that both vendors' processors take: VM; the pages that VT-x wants; interrupt
controllers; memory; vCPUs with their CPUID.
"""

from __future__ import annotations

import threading

import kvm_bindings
from devices.wiring import IrqLine, no_irq
from kvm_bindings import constants as c
from vmm.bus import Bus
from vmm.coalesced import CoalescedWrites
from vmm.cpuid import parse_features
from vmm.errors import ConfigError
from vmm.guest_cpuid import set_guest_cpuid
from vmm.kvm import backend, open_kvm
from vmm.layout import MemoryLayout
from vmm.loader.apply import start_registers
from vmm.loader.plan import Start
from vmm.memory import GuestMemory, Region
from vmm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvm_bindings import CpuidEntry
    from kvm_bindings.stats import Stats
    from vmm.cpustate import CpuState
    from vmm.last_seen import LastSeen
    from vmm.trace.trace import Trace
    from vmm.vcpu import Control

__all__ = ["Hardware"]

# Four pages below 4 GiB, out of the way of RAM and firmware, that KVM uses on VT-x.
# Spec: KVM API, KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR.
_IDENTITY_MAP = 0xFEFF_C000
_TSS = 0xFEFF_D000

_capabilities: dict[int, int] = {}
"""What VMs of this host's KVM can; that does not change while a process lives."""


class Hardware:
    """One VM with its memory and vCPUs.

    Args:
        kvm: the device node.
        layout: where RAM lies.
        cpus: how many vCPUs.
        irqchip: let KVM emulate the interrupt controllers and the PIT.
        features: what the guest sees of the processor (`vmm.cpuid.parse_features`).
        huge_pages: back RAM with 2 MiB pages.
        pio, mmio: the buses that the vCPUs use.
        lock: held while a device is called.
        control: asked when a vCPU is interrupted.
        trace: where exits and interrupts are noted; None: nowhere.

    Raises:
        ConfigError: such a machine cannot be.
        KvmUnavailable: KVM cannot be used.
    """

    def __init__(
        self,
        kvm: str,
        layout: MemoryLayout,
        *,
        cpus: int,
        irqchip: bool,
        features: str,
        huge_pages: bool,
        pio: Bus,
        mmio: Bus,
        lock: threading.RLock,
        control: Control,
        trace: Trace | None,
    ) -> None:
        self.irqchip = irqchip
        self._trace = trace
        self.vcpus: list[Vcpu] = []
        self._pio, self._mmio, self._lock, self._control = pio, mmio, lock, control
        self.lines: dict[int, bool] = {}
        """The level at which devices hold each interrupt line, by gsi."""
        self.saved_msrs: tuple[int, ...] = ()
        """The MSRs that snapshots have, once one was taken."""
        self.cpuid: list[tuple[CpuidEntry, ...]] = []
        """What each vCPU was told to show. (KVM_GET_CPUID2 has the host's on kvm_pvm.)"""
        self._slots: list[Region] = []
        self._coalesced: CoalescedWrites | None = None
        self._last_seen: dict[int, LastSeen] = {}
        self._vm: kvm_bindings.VM | None = None
        self._stats: dict[str, Stats] | None = None
        self.kvm = open_kvm(kvm)
        self.memory = GuestMemory(layout, huge_pages=huge_pages)
        try:
            self._vm = self.kvm.create_vm()
            self._build(cpus, features)
        except BaseException:
            self.close()
            raise

    @property
    def vm(self) -> kvm_bindings.VM:
        """KVM's file descriptor for the machine."""
        assert self._vm is not None
        return self._vm

    def has(self, capability: int) -> int:
        """Ask for a capability (KVM_CAP_*) of this VM: 0, 1 or a limit."""
        found = _capabilities.get(capability)
        if found is None:
            found = _capabilities[capability] = self.vm.check_extension(capability)
        return found

    def map_new_regions(self) -> None:
        """Give KVM the regions of memory that it does not have yet."""
        for region in self.memory:
            if not any(slot is region for slot in self._slots):
                flags = c.KVM_MEM_READONLY if region.readonly else 0
                number = len(self._slots)
                self.vm.set_user_memory_region(number, region.gpa, region.size, region.hva, flags)
                self._slots.append(region)

    def log_dirty_pages(self, on: bool) -> list[tuple[int, Region]]:
        """Have KVM log which pages of RAM the guest writes to, or no more; returns the slots of
        RAM by number."""
        flags = c.KVM_MEM_LOG_DIRTY_PAGES if on else 0
        ram = [(n, region) for n, region in enumerate(self._slots) if region.kind == "ram"]
        for number, region in ram:
            self.vm.set_user_memory_region(number, region.gpa, region.size, region.hva, flags)
        return ram

    def start(self, start: Start) -> None:
        """Set the first vCPU to start.

        Raises:
            BootError: the mode cannot start there.
        """
        vcpu = self.vcpus[0]
        vcpu.settle()
        regs, sregs = start_registers(start, self.memory, self._initial_sregs)
        vcpu.kvm.set_sregs(sregs)
        vcpu.kvm.set_regs(regs)
        if self.irqchip:
            vcpu.kvm.set_mp_state(c.KVM_MP_STATE_RUNNABLE)  # it may have halted before
        if vcpu.index in self._last_seen:
            self._last_seen[vcpu.index].start(regs, sregs)
        vcpu.regs.forget()
        vcpu.sregs.forget()

    def registers_were_set(self) -> None:
        """Registers of vCPUs were set from outside: whoever keeps copies takes new ones."""
        for index, kept in self._last_seen.items():
            kvm = self.vcpus[index].kvm
            kept.start(kvm.get_regs(), kvm.get_sregs())

    def irq(self, gsi: int) -> IrqLine:
        """The interrupt line `gsi`; not connected where there is no interrupt controller."""
        if not self.irqchip:
            return no_irq
        vm, levels, trace = self.vm, self.lines, self._trace

        def drive(level: bool) -> None:
            # KVM is told of changes only: an ioctl costs as much as an exit.
            if levels.get(gsi, False) is not level:
                levels[gsi] = level
                if trace is not None:
                    trace.note_irq(gsi, level)
                vm.irq_line(gsi, level)

        return drive

    def coalesce(self, start: int, size: int, *, pio: bool) -> None:
        """Let KVM collect writes to a zone, where it can; otherwise each exits on its own."""
        page = self.kvm.coalesced_mmio_page
        if not page or (pio and not self.kvm.check_extension(c.KVM_CAP_COALESCED_PIO)):
            return
        if self._coalesced is None:
            ring = self.vcpus[0].kvm.coalesced_ring(page)
            self._coalesced = CoalescedWrites(ring, self._pio, self._mmio, self._lock)
            for vcpu in self.vcpus:
                vcpu.call_before(self._coalesced.drain)
        self.vm.register_coalesced_mmio(start, size, pio=pio)

    def carry_out_coalesced(self) -> None:
        """Give devices the writes that KVM has collected; the vCPUs stand still."""
        if self._coalesced is not None:
            self._coalesced.drain()

    def stats(self) -> dict[str, Stats]:
        """The kernel's counters: "vm", "vcpu0" and so on; empty where it has none."""
        if self._stats is None:
            self._stats = {}
            if self.kvm.check_extension(c.KVM_CAP_BINARY_STATS_FD):
                from kvm_bindings.stats import Stats

                self._stats["vm"] = Stats(self.vm.stats_fd())
                for vcpu in self.vcpus:
                    self._stats[f"vcpu{vcpu.index}"] = Stats(vcpu.kvm.stats_fd())
        return self._stats

    def deliver_rip(self, wanted: bool) -> None:
        """Have RIP in the records of exits, or no more.

        Raises:
            ConfigError: this KVM cannot deliver registers.
        """
        if wanted and not self.kvm.check_extension(c.KVM_CAP_SYNC_REGS) & c.KVM_SYNC_X86_REGS:
            raise ConfigError("RIP: this KVM delivers no registers with exits (KVM_CAP_SYNC_REGS)")
        for vcpu in self.vcpus:
            vcpu.deliver_rip(wanted)

    def last_seen(self, index: int) -> CpuState | None:
        """A vCPU's registers before its last exit, where the last ones are lost at a death."""
        kept = self._last_seen.get(index)
        return None if kept is None else kept.state

    def close(self) -> None:
        """Give everything back, vCPUs first and memory last."""
        for stats in (self._stats or {}).values():
            stats.close()
        for kept in self._last_seen.values():
            kept.close()
        for vcpu in self.vcpus:
            vcpu.close()
        if self._vm is not None:
            self._vm.close()
        self.memory.close()
        self.kvm.close()

    def _build(self, cpus: int, features: str) -> None:
        kvm, vm = self.kvm, self.vm
        mask = parse_features(features)
        if cpus > 1:
            most = kvm.check_extension(c.KVM_CAP_MAX_VCPUS) or 4
            if cpus > most:
                raise ConfigError(f"{cpus} vCPUs: KVM here takes {most} at most")
        if kvm.check_extension(c.KVM_CAP_SET_TSS_ADDR):
            vm.set_tss_addr(_TSS)
        if kvm.check_extension(c.KVM_CAP_SET_IDENTITY_MAP_ADDR):
            vm.set_identity_map_addr(_IDENTITY_MAP)
        if self.irqchip:
            vm.create_irqchip()
            # With the dummy speaker port, 0x61 reads the PIT's channel 2, in the kernel.
            vm.create_pit2(c.KVM_PIT_SPEAKER_DUMMY)
        self.map_new_regions()
        loses_registers = backend() == "kvm_amd" and kvm.check_extension(c.KVM_CAP_SYNC_REGS)
        for index in range(cpus):
            vcpu = Vcpu(
                vm.create_vcpu(index),
                pio=self._pio,
                mmio=self._mmio,
                lock=self._lock,
                control=self._control,
                irqchip=self.irqchip,
                ring=None if self._trace is None else self._trace.ring(index),
            )
            self.vcpus.append(vcpu)
            if self._trace is not None:
                self._trace.watch(vcpu)
                self._trace.deliver_rip = self.deliver_rip
            if loses_registers:
                from vmm.last_seen import LastSeen

                kept = self._last_seen[index] = LastSeen(vcpu.kvm)
                vcpu.call_before(kept.note)
            table = set_guest_cpuid(kvm, vcpu.kvm, mask, cpus=cpus, lapic=self.irqchip)
            self.cpuid.append(table)
        self._initial_sregs = self.vcpus[0].kvm.get_sregs()
