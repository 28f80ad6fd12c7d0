"""Kernels of a few instructions in the shape of Linux: they say what state they were started in."""

from __future__ import annotations

import struct

import pytest

import vmm

pytestmark = pytest.mark.kvm

LOAD = 0x100_0000
MIB = 1 << 20

# Print CS, DS and SS; then the command line and the first file of boot_params, from RSI or ESI.
SAYS_WHAT_IT_WAS_GIVEN = """
    mov ax, cs; out 0xe9, al
    mov ax, ds; out 0xe9, al
    mov ax, ss; out 0xe9, al
    mov edi, esi
    mov esi, [edi + 0x228]
1:  lodsb; out 0xe9, al; test al, al; jnz 1b
    mov esi, [edi + 0x218]
    mov ecx, [edi + 0x21c]
    jecxz 3f
2:  lodsb; out 0xe9, al; loop 2b
3:  mov esi, [edi + 0x070]
    mov ecx, 8
4:  lodsb; out 0xe9, al; loop 4b
"""
RELOADS_ITS_SEGMENTS = """
    mov eax, 0x18; mov ds, eax; mov es, eax; mov ss, eax; mov al, 'R'; out 0xe9, al
    hlt
"""


def bzimage(code32: bytes, code64: bytes) -> bytes:
    code = code32.ljust(0x200, b"\x90") + code64
    code = code.ljust(-(-len(code) // 16) * 16, b"\0")
    image = bytearray(1024)
    image[0x1F1] = 1
    struct.pack_into("<I", image, 0x1F4, len(code) // 16)
    image[0x1FE:0x208] = b"\x55\xaa\xeb\x6aHdrS\x0f\x02"
    image[0x211] = 1
    struct.pack_into("<IIBBHI", image, 0x22C, 0x7FFF_FFFF, MIB, 1, 0, 1, 2047)
    struct.pack_into("<QI", image, 0x258, LOAD, MIB)
    return bytes(image) + code


@pytest.fixture
def kernel(guest_asm):
    source = SAYS_WHAT_IT_WAS_GIVEN + RELOADS_ITS_SEGMENTS
    code32 = guest_asm(source, "flat32", address=LOAD)
    return bzimage(code32, guest_asm(source, "flat64", address=LOAD + 0x200))


@pytest.mark.parametrize(("format", "mode"), [("auto", "long"), ("linux32", "protected")])
def test_what_a_kernel_is_given(boot, kernel, tmp_path, format, mode):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"file system")
    machine = boot(kernel, format=format, append="a=b", initrd=initrd)
    assert machine.plan.start.mode == mode
    result = machine.run(timeout=20)
    assert result.reason == "halt", result.report()
    output = machine.console.output
    assert output == b"\x10\x18\x18" + b"a=b\0" + b"file system" + b"RSD PTR " + b"R"


def test_what_the_machine_says_it_is(boot, kernel, tmp_path):
    """In memory, and in the settings, so that copies say the same."""
    smbios = ["serial=S-17,uuid=12345678-9abc-def0-1122-334455667788", "type=3,asset=SHELF"]
    machine = boot(kernel, smbios=smbios)
    tables = machine.memory.read(0xF0000, 0x1000)
    assert tables.startswith(b"_SM3_")
    for text in (b"\0S-17\0", b"\0SHELF\0", bytes.fromhex("78563412bc9af0de1122334455667788")):
        assert text in tables
    assert b"S-17" not in boot(kernel).memory.read(0xF0000, 0x1000)
    file = tmp_path / "snapshot"
    machine.snapshot(str(file)).close()
    with machine.fork() as fork, vmm.restore(file) as restored:
        for copy in (fork, restored):
            assert copy.memory.read(0xF0000, 0x1000) == tables
            assert copy.settings["smbios"] == smbios
            # What firmware would be told stands in a device, which is made anew.
            fw_cfg = copy.devices["fw_cfg"]
            assert fw_cfg.file("etc/smbios/smbios-tables") in tables
            assert copy.run(timeout=20).reason == "halt"


def test_without_interrupt_controllers_there_is_no_acpi(boot, kernel):
    machine = boot(kernel, irqchip=False)
    machine.run(timeout=20)
    assert machine.console.output == (
        b"\x10\x18\x18console=ttyS0\0" + machine.memory.read(0, 8) + b"R"
    )
    assert machine.memory.read(0xE0000, 8) == bytes(8)


def test_memory_that_the_host_does_not_have(boot):
    """512 GiB cost what is touched of them."""
    machine = boot(b"\xf4", format="flat32", memory="512G")
    end = machine.memory.layout.ranges[1].end
    machine.memory.write(end - 4, b"last")
    assert machine.run(timeout=20).reason == "halt"
    assert machine.memory.read(end - 8, 8) == b"\0\0\0\0last"
    with machine.snapshot() as snapshot:
        machine.memory.write(end - 4, b"gone")
        machine.reset_to(snapshot)
        assert machine.memory.read(end - 8, 8) == b"\0\0\0\0last"


def pvh_elf(code: bytes) -> bytes:
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", LOAD)
    end = 52 + 2 * 32
    header = b"\x7fELF\1\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, LOAD, 52, 0, 0, 52, 32, 2, 40, 0, 0
    )
    load = struct.pack("<8I", 1, end, LOAD, LOAD, len(code), len(code), 7, 4096)
    notes = struct.pack("<8I", 4, end + len(code), 0, 0, len(note), len(note), 4, 4)
    return header + load + notes + code + note


def test_a_kernel_by_pvh(boot, guest_asm, tmp_path):
    code = guest_asm(
        """
        mov eax, cr0; out 0xe9, al
        mov eax, cr4; out 0xe9, al
        mov esi, [ebx + 24]
    1:  lodsb; out 0xe9, al; test al, al; jnz 1b
        mov edi, [ebx + 16]
        mov esi, [edi]
        mov ecx, [edi + 8]
    2:  lodsb; out 0xe9, al; loop 2b
        mov esi, [ebx + 32]
        mov ecx, 8
    3:  lodsb; out 0xe9, al; loop 3b
        mov al, [ebx + 48]; out 0xe9, al
        hlt
        """,
        "flat32",
        address=LOAD,
    )
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"file system")
    machine = boot(pvh_elf(code), initrd=initrd, append="a=b")
    assert machine.plan.format == "pvh"
    result = machine.run(timeout=20)
    assert result.reason == "halt", result.report()
    output = machine.console.output
    assert output[0] & ~0x10 == 1  # PE; ET is fixed
    assert output[1:] == b"\0a=b\0file systemRSD PTR " + bytes([4])
