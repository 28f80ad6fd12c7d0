"""The wrappers on a real /dev/kvm, with guests of a few bytes."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
from collections.abc import Iterator

import pytest

from kvm_bindings import VM, KvmError, System, Vcpu
from kvm_bindings import constants as c
from kvm_bindings.runner import runner_kind
from kvm_bindings.stats import Stats
from kvm_bindings.structs import kvm_irq_routing_entry, kvm_regs

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

MEMORY = 0x10000
CODE = 0x1000
HLT = b"\xf4"
OUT_FOREVER = b"\xee\xeb\xfd"  # 1: out dx, al; jmp 1b


@pytest.fixture
def system() -> Iterator[System]:
    with System() as opened:
        yield opened


@pytest.fixture
def vm(system: System) -> Iterator[VM]:
    with system.create_vm() as made:
        yield made


@pytest.fixture
def memory(vm: VM) -> Iterator[mmap.mmap]:
    ram = mmap.mmap(-1, MEMORY)
    vm.set_user_memory_region(0, 0, MEMORY, ctypes.addressof(ctypes.c_char.from_buffer(ram)))
    yield ram
    vm.close()
    ram.close()


def start(vm: VM, memory: mmap.mmap, code: bytes, **registers: int) -> Vcpu:
    memory[CODE : CODE + len(code)] = code
    vcpu = vm.create_vcpu(0)
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(kvm_regs(rip=CODE, rflags=2, **registers))
    return vcpu


@pytest.fixture(params=["ctypes", "compiled"])
def any_runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    else:
        monkeypatch.delenv("GLASSVM_RUNNER", raising=False)
        if runner_kind() != "compiled":
            pytest.skip("the compiled runner was not built")


def test_real_mode_guest(any_runner: None, vm: VM, memory: mmap.mmap) -> None:
    # mov al, 'A'; out dx, al; mov [0x2000], al; in al, dx; hlt
    vcpu = start(vm, memory, b"\xb0A\xee\xa2\x00\x20\xec\xf4", rdx=0x3F8)
    run = vcpu.runner().enter
    assert run() == c.KVM_EXIT_IO
    io = vcpu.run_struct.io
    assert (io.direction, io.port, io.size, io.count) == (c.KVM_EXIT_IO_OUT, 0x3F8, 1, 1)
    assert vcpu.page[io.data_offset] == ord("A")
    assert run() == c.KVM_EXIT_IO
    assert vcpu.run_struct.io.direction == c.KVM_EXIT_IO_IN
    vcpu.page[io.data_offset] = 0x5A
    assert run() == c.KVM_EXIT_HLT
    assert vcpu.get_regs().rax & 0xFF == 0x5A
    assert memory[0x2000] == ord("A")


def test_immediate_exit_does_not_enter_the_guest(
    any_runner: None, vm: VM, memory: mmap.mmap
) -> None:
    vcpu = start(vm, memory, HLT)
    vcpu.run_struct.immediate_exit = 1
    assert vcpu.runner().enter() == -errno.EINTR
    assert vcpu.get_regs().rip == CODE
    vcpu.run_struct.immediate_exit = 0
    assert vcpu.runner().enter() == c.KVM_EXIT_HLT


def test_create_and_close_leak_no_descriptors(system: System) -> None:
    def once() -> None:
        with system.create_vm() as vm:
            vcpu = vm.create_vcpu(0)
            vcpu.runner()
            assert vcpu.run_struct.exit_reason == 0

    once()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(200):
        once()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_everything_is_closed_once_in_any_order(system: System) -> None:
    vm = system.create_vm()
    vcpu = vm.create_vcpu(0)
    run = vcpu.runner().enter
    system.close()
    assert vm.check_extension(c.KVM_CAP_USER_MEMORY) > 0
    vm.close()
    assert vcpu.closed
    vcpu.close()
    vm.close()
    system.close()
    assert run() == -errno.EBADF
    with pytest.raises(KvmError, match="used after close"):
        vcpu.get_regs()
    with pytest.raises(ValueError, match="released memoryview"):
        vcpu.page[0]


def test_a_page_that_someone_still_holds_stays_mapped(vm: VM) -> None:
    vcpu = vm.create_vcpu(0)
    held, view = vcpu.run_struct, vcpu.page[:16]
    vcpu.close()
    held.immediate_exit = 1
    assert view[1] == 1


def test_the_state_of_a_vcpu_goes_out_and_in(system: System, vm: VM) -> None:
    vm.create_irqchip()
    vcpu = vm.create_vcpu(0)
    vcpu.set_cpuid2(system.supported_cpuid())
    regs = kvm_regs(*range(1, 17), 0xFFF0, 2)
    vcpu.set_regs(regs)
    assert bytes(vcpu.get_regs()) == bytes(regs)
    sregs = vcpu.get_sregs()
    sregs.cr2 = 0x1234
    vcpu.set_sregs(sregs)
    assert vcpu.get_sregs().cr2 == 0x1234
    fpu = vcpu.get_fpu()
    fpu.xmm[3][0] = 0x77
    vcpu.set_fpu(fpu)
    assert vcpu.get_fpu().xmm[3][0] == 0x77
    area = vcpu.get_xsave()
    assert len(area) >= 4096
    vcpu.set_xsave(area)
    vcpu.set_xcrs(vcpu.get_xcrs())
    debug = vcpu.get_debugregs()
    debug.db[0] = 0x4000
    vcpu.set_debugregs(debug)
    assert vcpu.get_debugregs().db[0] == 0x4000
    events = vcpu.get_vcpu_events()
    vcpu.set_vcpu_events(events)
    assert bytes(vcpu.get_vcpu_events()) == bytes(events)
    lapic = vcpu.get_lapic()
    lapic.regs[0x80] = 0x20  # the task priority
    vcpu.set_lapic(lapic)
    assert vcpu.get_lapic().regs[0x80] == 0x20
    assert vcpu.get_mp_state() == c.KVM_MP_STATE_RUNNABLE
    vcpu.set_mp_state(c.KVM_MP_STATE_HALTED)
    assert vcpu.get_mp_state() == c.KVM_MP_STATE_HALTED
    assert vcpu.get_tsc_khz() > 0


def test_msrs_that_cannot_be_read_are_left_out(system: System, vm: VM) -> None:
    vcpu = vm.create_vcpu(0)
    sysenter_eip, unknown, star = 0x176, 0x4123_4567, 0xC000_0081
    vcpu.set_msrs({sysenter_eip: 0x1000, star: 0x0023_0010_0000_0000})
    read = vcpu.get_msrs([unknown, sysenter_eip, unknown + 1, star, unknown + 2])
    assert read == {sysenter_eip: 0x1000, star: 0x0023_0010_0000_0000}
    listed = system.msr_index_list()
    assert star in listed
    assert len(vcpu.get_msrs(listed)) > 10
    with pytest.raises(KvmError, match=r"KVM_SET_MSRS: MSR 0x41234567 does not take the value 0x1"):
        vcpu.set_msrs({star: 0, unknown: 1})
    assert vcpu.get_msrs([star]) == {star: 0}


def test_cpuid_goes_out_and_in(system: System, vm: VM) -> None:
    supported = system.supported_cpuid()
    assert {entry.function for entry in supported} >= {0, 1, 0x4000_0000, 0x8000_0000}
    vcpu = vm.create_vcpu(0)
    vcpu.set_cpuid2(supported)
    read = {(e.function, e.index): e for e in vcpu.get_cpuid2()}
    assert read[0, 0] == supported[0]
    assert len(read) == len(supported)
    system.emulated_cpuid()
    assert all(0 <= index < 1 << 32 for index in system.msr_feature_index_list())


def test_statistics_count_exits(vm: VM, memory: mmap.mmap) -> None:
    if not vm.check_extension(c.KVM_CAP_BINARY_STATS_FD):
        pytest.skip("the kernel has no KVM_CAP_BINARY_STATS_FD")
    vcpu = start(vm, memory, OUT_FOREVER)
    run = vcpu.runner().enter
    with Stats(vcpu.stats_fd()) as stats, Stats(vm.stats_fd()) as of_vm:
        before = stats.read()["exits"]
        for _ in range(50):
            assert run() == c.KVM_EXIT_IO
        after = stats.read()["exits"]
        assert isinstance(before, int)
        assert isinstance(after, int)
        assert after - before >= 50
        assert stats.id.endswith("vcpu-0")
        assert len(of_vm.read()) == len(of_vm.counters) > 5


def test_batched_writes(system: System, vm: VM, memory: mmap.mmap) -> None:
    if not vm.check_extension(c.KVM_CAP_COALESCED_PIO):
        pytest.skip("the kernel has no KVM_CAP_COALESCED_PIO")
    vm.register_coalesced_mmio(0xE9, 1, pio=True)
    # mov al, 'a'; out dx, al; inc al; out dx, al; mov ax, 0x1234; mov [...]; hlt
    vcpu = start(vm, memory, b"\xb0a\xee\xfe\xc0\xee\xf4", rdx=0xE9)
    ring = vcpu.coalesced_ring(system.coalesced_mmio_page)
    assert vcpu.runner().enter() == c.KVM_EXIT_HLT
    assert ring
    assert ring.drain() == [(0xE9, 1, ord("a"), True), (0xE9, 1, ord("b"), True)]
    assert not ring
    vm.unregister_coalesced_mmio(0xE9, 1, pio=True)


def test_an_eventfd_on_a_port(vm: VM, memory: mmap.mmap) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    pio = c.KVM_IOEVENTFD_FLAG_PIO
    vm.ioeventfd(event, 0x510, 1, pio | c.KVM_IOEVENTFD_FLAG_DATAMATCH, datamatch=7)
    # mov al, 7; out dx, al; mov al, 8; out dx, al; hlt
    vcpu = start(vm, memory, b"\xb0\x07\xee\xb0\x08\xee\xf4", rdx=0x510)
    run = vcpu.runner().enter
    assert run() == c.KVM_EXIT_IO
    assert vcpu.page[vcpu.run_struct.io.data_offset] == 8
    assert os.eventfd_read(event) == 1
    vm.remove_ioeventfd(event, 0x510, 1, pio | c.KVM_IOEVENTFD_FLAG_DATAMATCH, datamatch=7)
    with pytest.raises(KvmError, match="no such eventfd"):
        vm.remove_ioeventfd(event, 0x510, 1, pio | c.KVM_IOEVENTFD_FLAG_DATAMATCH, datamatch=7)
    os.close(event)


def test_interrupt_chips_lines_and_eventfds(vm: VM) -> None:
    vm.create_irqchip()
    vm.create_pit2(c.KVM_PIT_SPEAKER_DUMMY)
    vm.irq_line(4, True)
    assert vm.get_irqchip(c.KVM_IRQCHIP_PIC_MASTER).chip.pic.irr & 1 << 4
    vm.irq_line(4, False)
    chip = vm.get_irqchip(c.KVM_IRQCHIP_IOAPIC)
    chip.chip.ioapic.redirtbl[9] = 0x1_0000 | 0x39  # masked, vector 0x39
    vm.set_irqchip(chip)
    assert vm.get_irqchip(c.KVM_IRQCHIP_IOAPIC).chip.ioapic.redirtbl[9] & 0xFF == 0x39
    pit = vm.get_pit2()
    pit.channels[0].count = 0x1234
    vm.set_pit2(pit)
    assert vm.get_pit2().channels[0].count == 0x1234
    entry = kvm_irq_routing_entry(gsi=5, type=c.KVM_IRQ_ROUTING_IRQCHIP)
    entry.u.irqchip.irqchip, entry.u.irqchip.pin = c.KVM_IRQCHIP_PIC_MASTER, 5
    vm.set_gsi_routing([entry])
    event = os.eventfd(0)
    vm.irqfd(event, 5)
    vm.irqfd(event, 5, c.KVM_IRQFD_FLAG_DEASSIGN)
    os.close(event)
    with pytest.raises(KvmError, match="already"):
        vm.create_irqchip()


def test_the_clock_runs_and_can_be_set(vm: VM) -> None:
    clock = vm.get_clock()
    clock.clock, clock.flags = 10**15, 0
    vm.set_clock(clock)
    assert vm.get_clock().clock >= 10**15


def test_the_dirty_log_names_the_page(vm: VM, memory: mmap.mmap) -> None:
    hva = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    vm.set_user_memory_region(0, 0, MEMORY, hva, c.KVM_MEM_LOG_DIRTY_PAGES)
    vcpu = start(vm, memory, b"\xa2\x00\x30\xf4")  # mov [0x3000], al; hlt
    assert vcpu.runner().enter() == c.KVM_EXIT_HLT
    bitmap = bytearray(8)
    vm.get_dirty_log(0, bitmap)
    assert bitmap[0] & 1 << 3
    vm.get_dirty_log(0, bitmap)
    assert not bitmap[0] & 1 << 3


def test_the_dirty_ring_names_the_page(vm: VM) -> None:
    if not vm.check_extension(c.KVM_CAP_DIRTY_LOG_RING):
        pytest.skip("the kernel has no KVM_CAP_DIRTY_LOG_RING")
    size = 4096 * 16
    vm.enable_cap(c.KVM_CAP_DIRTY_LOG_RING, size)
    memory = mmap.mmap(-1, MEMORY)
    hva = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    vm.set_user_memory_region(0, 0, MEMORY, hva, c.KVM_MEM_LOG_DIRTY_PAGES)
    vcpu = start(vm, memory, b"\xa2\x00\x30\xf4")
    ring = vcpu.dirty_ring(size)
    assert vcpu.runner().enter() == c.KVM_EXIT_HLT
    assert (0, 3) in ring.harvest()
    assert ring.harvest() == []
    assert vm.reset_dirty_rings() >= 1
    vm.close()
    memory.close()


def test_errors_of_the_kernel_say_what_to_do(vm: VM) -> None:
    vm.create_vcpu(0)
    with pytest.raises(KvmError, match="each its own") as raised:
        vm.create_vcpu(0)
    assert (raised.value.ioctl, raised.value.errno) == ("KVM_CREATE_VCPU", errno.EEXIST)
    with pytest.raises(KvmError, match="multiples of 4 KiB"):
        vm.set_user_memory_region(0, 1, 4096, 0)


def test_what_vt_x_needs_takes_addresses_near_4_gib(vm: VM) -> None:
    if not vm.check_extension(c.KVM_CAP_SET_TSS_ADDR):
        pytest.skip("the backend does not need it")
    vm.set_identity_map_addr(0xFFFB_C000)
    vm.set_tss_addr(0xFFFB_D000)


def test_translate_follows_the_guest(vm: VM, memory: mmap.mmap) -> None:
    vcpu = start(vm, memory, HLT)
    found = vcpu.translate(0x1234)
    assert (found.valid, found.physical_address) == (1, 0x1234)


def test_one_step_at_a_time(vm: VM, memory: mmap.mmap) -> None:
    from kvm_bindings.structs import kvm_guest_debug

    vcpu = start(vm, memory, b"\x40\x40\xf4")  # inc ax; inc ax; hlt
    vcpu.set_guest_debug(kvm_guest_debug(control=c.KVM_GUESTDBG_ENABLE | c.KVM_GUESTDBG_SINGLESTEP))
    run = vcpu.runner().enter
    for number in (1, 2):
        assert run() == c.KVM_EXIT_DEBUG
        assert vcpu.get_regs().rax == number
        assert vcpu.run_struct.debug.arch.pc == CODE + number
    vcpu.set_guest_debug(kvm_guest_debug())
    assert run() == c.KVM_EXIT_HLT


def test_registers_come_with_the_exit(vm: VM, memory: mmap.mmap) -> None:
    if not vm.check_extension(c.KVM_CAP_SYNC_REGS) & c.KVM_SYNC_X86_REGS:
        pytest.skip("the kernel has no KVM_CAP_SYNC_REGS")
    vcpu = start(vm, memory, OUT_FOREVER, rax=0x1234, rdx=0x80)
    vcpu.run_struct.kvm_valid_regs = c.KVM_SYNC_X86_REGS
    assert vcpu.runner().enter() == c.KVM_EXIT_IO
    assert vcpu.run_struct.s.regs.regs.rax == 0x1234
    vcpu.run_struct.s.regs.regs.rax = 0x42
    vcpu.run_struct.kvm_dirty_regs = c.KVM_SYNC_X86_REGS
    assert vcpu.runner().enter() == c.KVM_EXIT_IO
    assert vcpu.get_regs().rax == 0x42


def test_nested_state_is_whole_where_there_is_any(vm: VM) -> None:
    if not vm.check_extension(c.KVM_CAP_NESTED_STATE):
        pytest.skip("the backend has no KVM_CAP_NESTED_STATE")
    vcpu = vm.create_vcpu(0)
    state = vcpu.get_nested_state()
    assert len(state) >= 128
    vcpu.set_nested_state(state)
    with pytest.raises(ValueError, match="says that it has"):
        vcpu.set_nested_state(state[:4] + b"\xff\xff" + state[6:])


def test_an_irqfd_for_a_level_triggered_line(vm: VM) -> None:
    # A resampling eventfd is not readable before the guest has acknowledged anything.
    vm.create_irqchip()
    trigger, resample = os.eventfd(0), os.eventfd(0)
    vm.irqfd(trigger, 5, resample_fd=resample)
    assert select.select([resample], [], [], 0)[0] == []
    vm.irqfd(trigger, 5, c.KVM_IRQFD_FLAG_DEASSIGN)
    os.close(trigger)
    os.close(resample)
