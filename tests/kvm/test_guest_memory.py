"""Memory as guest and host see it: RAM on both sides of the hole, ROM, huge pages."""

from __future__ import annotations

import pytest

import vmm
from vmm.loader.plan import BootPlan, Rom, Start, Write

pytestmark = pytest.mark.kvm


# -- memory -----------------------------------------------------------------------------------


def test_the_guest_and_the_host_see_the_same_memory(machine):
    m = machine("a00005 fec0 a20105 f4")  # mov al, [0x500]; inc al; mov [0x501], al; hlt
    view = m.memory.view(0x500, 2)
    view[0] = 0x41
    m.run(timeout=10)
    assert bytes(view) == b"AB"
    assert m.memory.read(0x500, 2) == b"AB"


def test_a_write_to_rom_is_ignored(machine):
    m = machine()
    code = bytes.fromhex(
        "bb0000f0ff c60341 8a03 f4"  # mov ebx, 0xFFF00000; mov byte [ebx], 'A'; mov al, [ebx]
    )
    m.boot(
        BootPlan(
            "test",
            Start("protected", 0x2000),
            (Write(0x2000, code),),
            (Rom(0xFFF0_0000, b"Z" * 0x1000),),
        )
    )
    result = m.run(timeout=10)
    assert result.reason == "halt", result.report()
    assert m.regs.rax == ord("Z")
    assert m.memory.read(0xFFF0_0000, 2) == b"ZZ"
    assert m.mmio.unclaimed[0xFFF0_0000, True] == 1


def test_memory_above_4_gib(machine):
    """Sparse: the host spends only the pages that are touched."""
    m = machine("f4", "long", memory="5G")
    m.memory.write((4 << 30) + 0x10_0000, b"high")
    assert m.memory.read((5 << 30) - 2, 2) == b"\0\0"
    # The identity map ends at 4 GiB: map one more large page, as a guest would.
    pdpt = int.from_bytes(m.memory.read(m.sregs.cr3, 8), "little") & ~0xFFF
    m.memory.write(pdpt + 4 * 8, (0x3000 | 3).to_bytes(8, "little"))
    m.memory.write(0x3000, ((4 << 30) | 0x83).to_bytes(8, "little"))
    code = "48b8 0000100001000000 8b18 c70048454c4c f4"  # rax = 4 GiB + 1 MiB; load; store
    m.memory.write(0x1000, bytes.fromhex(code))
    result = m.run(timeout=10)
    assert result.reason == "halt", result.report()
    assert m.regs.rbx == int.from_bytes(b"high", "little")
    assert m.memory.read((4 << 30) + 0x10_0000, 4) == b"HELL"
    with pytest.raises(vmm.GuestMemoryError):
        m.memory.read((5 << 30) + (1 << 30), 1)


def test_the_hole_below_4_gib_is_no_memory(machine):
    m = machine(memory="4G")
    with pytest.raises(vmm.GuestMemoryError):
        m.memory.write(0xC000_0000, b"x")
    m.memory.write((4 << 30) + (1 << 30) - 1, b"x")


def test_huge_pages(machine):
    with open("/proc/meminfo", encoding="ascii") as file:
        info = dict(line.split(":") for line in file)
    free = int(info.get("HugePages_Free", "0"))
    if free and info["Hugepagesize"].strip() == "2048 kB":
        m = machine("b001 e6f4 f4", huge_pages=True, memory="2M")
        assert m.run(timeout=10).value == 1
    else:
        with pytest.raises(vmm.ConfigError, match=r"sysctl vm.nr_hugepages=1") as caught:
            machine(huge_pages=True, memory="2M")
        assert "\n" not in str(caught.value)


def test_huge_pages_want_whole_pages(machine):
    with pytest.raises(vmm.ConfigError, match="multiple of 2M"):
        machine(huge_pages=True, memory="3M")
