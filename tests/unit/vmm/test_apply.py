"""Plans carried out: what is in memory and in the registers then, without KVM."""

from __future__ import annotations

import struct

import pytest

from kvm_bindings.structs import kvm_sregs
from vmm.errors import BootError, MappingOverlap
from vmm.layout import MemoryLayout
from vmm.loader.apply import place_image, start_registers
from vmm.loader.plan import BootPlan, Rom, Start, Write
from vmm.memory import GuestMemory

MIB = 1 << 20
TABLES = 0x8000

# Bits of the processor, declared again (AMD64 APM vol. 2, System Resources).
PE, ET, PG, PAE, LME, LMA = 1, 1 << 4, 1 << 31, 1 << 5, 1 << 8, 1 << 10
DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")


@pytest.fixture
def memory():
    made = GuestMemory(MemoryLayout.for_size(2 * MIB))
    yield made
    made.close()


@pytest.fixture
def initial():
    """Segments and control registers as RESET leaves them, and something to be kept."""
    made = kvm_sregs(cr0=0x6000_0010, apic_base=0xFEE0_0900)
    made.cs.selector, made.cs.base, made.cs.limit = 0xF000, 0xFFFF_0000, 0xFFFF
    return made


@pytest.fixture
def start(memory, initial):
    def make(mode, entry=0x1000, **more):
        return start_registers(Start(mode, entry, **more), memory, initial)

    return make


# -- memory -----------------------------------------------------------------------------------


def test_writes_and_the_zeros_behind_them(memory):
    memory.fill(0x1000, 0x100, 0xEE)
    place_image(BootPlan("x", Start("real"), (Write(0x1000, b"code", "text", 4),)), memory)
    assert memory.read(0x1000, 9) == b"code\0\0\0\0\xee"


def test_zeros_alone(memory):
    memory.fill(0x1000, 0x10, 0xEE)
    place_image(BootPlan("x", Start("real"), (Write(0x1000, b"", ".bss", 8),)), memory)
    assert memory.read(0x1000, 9) == b"\0" * 8 + b"\xee"


def test_a_rom_is_read_only_and_outside_of_ram(memory):
    place_image(BootPlan("x", Start("reset"), roms=(Rom(0xFFFF_0000, b"\xf4" * 65536),)), memory)
    assert memory.read(0xFFFF_FFF0, 1) == b"\xf4"
    assert [region.readonly for region in memory] == [False, True]


def test_a_rom_over_ram_is_refused(memory):
    with pytest.raises(MappingOverlap):
        place_image(BootPlan("x", Start("reset"), roms=(Rom(0x1000, b"\xf4"),)), memory)


@pytest.mark.parametrize(
    ("gpa", "data", "zeros"),
    [(2 * MIB - 2, b"abc", 0), (3 * MIB, b"a", 0), (2 * MIB - 2, b"a", 2), (1 << 60, b"a", 0)],
)
def test_what_does_not_fit_is_named(memory, gpa, data, zeros):
    plan = BootPlan("x", Start("real"), (Write(gpa, data, "the text segment", zeros),))
    with pytest.raises(BootError, match=r"the text segment.*do not fit in 2048K") as caught:
        place_image(plan, memory)
    assert "\n" not in str(caught.value)


# -- registers --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["real", "protected", "long", "reset"])
def test_nothing_is_left_of_the_general_registers_before(start, mode):
    regs, _ = start(mode)
    assert (regs.rax, regs.rbp, regs.rflags) == (0, 0, 2)


@pytest.mark.parametrize("mode", ["real", "protected", "long", "reset"])
def test_the_plan_has_the_last_word_on_general_registers(start, mode):
    regs, _ = start(mode, registers={"rdx": 0x80, "rsp": 0x7C00, "rbx": (1 << 64) - 1})
    assert (regs.rdx, regs.rsp, regs.rbx) == (0x80, 0x7C00, (1 << 64) - 1)


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_what_the_processor_was_created_with_stays_as_it_was(start, initial, mode):
    before = bytes(initial)
    _, sregs = start(mode)
    assert bytes(initial) == before
    assert sregs.apic_base == 0xFEE0_0900


@pytest.mark.parametrize(
    ("entry", "segment", "expected"),
    [
        (0x7C00, None, (0, 0x7C00)),
        (0xFFFF, None, (0, 0xFFFF)),
        (0x1_0000, None, (0x1000, 0)),
        (0x2_0004, None, (0x2000, 4)),
        (0xF_FFFF, None, (0xFFFF, 0xF)),
        (0x7C00, 0x07C0, (0x07C0, 0)),
    ],
)
def test_real_mode(start, entry, segment, expected):
    regs, sregs = start("real", entry, segment=segment)
    assert (sregs.cs.selector, regs.rip) == expected
    assert sregs.cs.base + regs.rip == entry
    assert (sregs.cr0 & (PE | PG), sregs.efer) == (0, 0)
    assert (sregs.idt.base, sregs.idt.limit) == (0, 0x3FF)
    for name in ("cs", *DATA_SEGMENTS):
        register = getattr(sregs, name)
        assert (register.base, register.limit) == (expected[0] << 4, 0xFFFF)
        assert (register.selector, register.present, register.s) == (expected[0], 1, 1)


@pytest.mark.parametrize("entry", [0x10_0000, 1 << 32])
def test_real_mode_reaches_one_mib(start, entry):
    with pytest.raises(BootError, match="real mode"):
        start("real", entry)


def test_real_mode_has_no_privilege_levels(start):
    with pytest.raises(BootError, match="privilege"):
        start("real", cpl=3)


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_an_entry_below_zero_is_refused(start, mode):
    with pytest.raises(BootError):
        start(mode, -1)


def test_protected_mode(start):
    regs, sregs = start("protected", 0x10_0000)
    assert regs.rip == 0x10_0000
    assert (sregs.cr0 & (PE | PG), sregs.cr4, sregs.efer) == (PE, 0, 0)
    assert (sregs.cs.db, sregs.cs.l, sregs.cs.dpl, sregs.cs.type & 8) == (1, 0, 0, 8)
    for name in ("cs", *DATA_SEGMENTS):
        register = getattr(sregs, name)
        assert (register.base, register.limit, register.g) == (0, 0xFFFF_FFFF, 1)
    assert (sregs.tr.type, sregs.tr.present, sregs.tr.s) == (0xB, 1, 0)
    assert sregs.ldt.unusable == 1
    assert sregs.idt.limit == 0


def test_long_mode(start, memory):
    _, sregs = start("long", 0x10_0000)
    assert sregs.cr0 & (PE | PG) == PE | PG
    assert sregs.cr4 & PAE
    assert sregs.efer == LME | LMA
    assert (sregs.cs.l, sregs.cs.db) == (1, 0)
    assert sregs.cr3 == 2 * MIB - TABLES
    # The first GiB is mapped to itself: walk to 2 MiB * 3 by hand.
    pml4 = struct.unpack("<Q", memory.read(sregs.cr3, 8))[0]
    pdpt = struct.unpack("<Q", memory.read(pml4 & ~0xFFF, 8))[0]
    page = struct.unpack("<Q", memory.read((pdpt & ~0xFFF) + 8 * 3, 8))[0]
    assert page & ~0xFFF == 3 * 2 * MIB
    assert page & 0x83 == 0x83  # present, writable, large


@pytest.mark.parametrize("mode", ["protected", "long"])
def test_the_table_says_what_the_registers_hold(start, memory, mode):
    for cpl in (0, 3):
        _, sregs = start(mode, cpl=cpl)
        for name in ("cs", *DATA_SEGMENTS):
            register = getattr(sregs, name)
            assert register.selector & 3 == register.dpl == cpl
            at = sregs.gdt.base + (register.selector & ~7)
            entry = struct.unpack("<Q", memory.read(at, 8))[0]
            assert entry >> 40 & 0xF == register.type
            assert entry >> 45 & 3 == cpl
            assert (entry >> 53 & 1, entry >> 54 & 1) == (register.l, register.db)
            assert at + 7 <= sregs.gdt.base + sregs.gdt.limit


@pytest.mark.parametrize("mode", ["protected", "long"])
def test_ring_3_may_use_ports(start, mode):
    regs, _ = start(mode, cpl=3)
    assert regs.rflags == 2 | 3 << 12


@pytest.mark.parametrize("cpl", [1, 2, 4, -1])
def test_other_rings_are_refused(start, cpl):
    with pytest.raises(BootError, match="0 or 3"):
        start("long", cpl=cpl)


def test_the_stack_is_below_the_code(start):
    for mode in ("protected", "long"):
        regs, _ = start(mode, 0x10_0000)
        assert regs.rsp == 0x10_0000


def test_the_reset_vector(start):
    regs, sregs = start("reset", 0)
    assert (sregs.cs.base, sregs.cs.selector, regs.rip) == (0xFFFF_0000, 0xF000, 0xFFF0)


@pytest.mark.parametrize("mode", ["protected", "long"])
def test_memory_too_small_for_the_tables(initial, mode):
    memory = GuestMemory(MemoryLayout.for_size(TABLES - 0x1000))
    with pytest.raises(BootError, match=r"28K.*32K"):
        start_registers(Start(mode, 0), memory, initial)
    memory.close()


def test_the_tables_lie_below_the_hole(initial):
    """With memory behind 4 GiB they are still in what a 32-bit register reaches."""
    memory = GuestMemory(MemoryLayout.for_size(5 << 30))
    _, sregs = start_registers(Start("long", 0x1000), memory, initial)
    assert sregs.cr3 == 0xC000_0000 - TABLES
    memory.close()


# -- what boot protocols want -------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "code"), [("protected", 0xCF9B), ("long", 0xAF9B)])
def test_linux_has_segments_of_its_own(start, memory, mode, code):
    """Linux, The Linux/x86 Boot Protocol: CS 0x10, data 0x18, flat, and in the GDT."""
    _, sregs = start(mode, 0x10_0000, protocol="linux")
    assert sregs.cs.selector == 0x10
    assert (sregs.cs.l, sregs.cs.db) == ((1, 0) if mode == "long" else (0, 1))
    for name in DATA_SEGMENTS:
        segment = getattr(sregs, name)
        assert (segment.selector, segment.base, segment.limit) == (0x18, 0, 0xFFFF_FFFF)
        assert (segment.type, segment.present, segment.dpl, segment.db) == (3, 1, 0, 1)
    gdt = struct.unpack("<QQQQ", memory.read(sregs.gdt.base, 32))
    assert [f"{entry:016x}" for entry in gdt[2:]] == [
        f"00{code >> 8:02x}{code & 0xFF:02x}000000ffff",
        "00cf93000000ffff",
    ]
    assert sregs.gdt.limit >= 0x1F


def test_pvh_wants_a_bare_protected_mode(start):
    """Xen, x86/HVM direct boot ABI: of CR0 PE alone, CR4 clear, a TSS at 0 of 0x68 bytes."""
    regs, sregs = start("protected", 0x10_0000, protocol="pvh", registers={"rbx": 0x10000})
    assert sregs.cr0 & ~ET == PE
    assert (sregs.cr4, sregs.efer) == (0, 0)
    assert (sregs.tr.base, sregs.tr.limit, sregs.tr.type) == (0, 0x67, 0xB)
    assert (sregs.cs.base, sregs.cs.limit, sregs.cs.db) == (0, 0xFFFF_FFFF, 1)
    assert (regs.rbx, regs.rflags & ~2) == (0x10000, 0)
