"""Linux's boot parameters against the compiler's view of <asm/bootparam.h>, and byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware import linux_boot
from firmware.linux_boot import (
    BOOT_PARAMS,
    SETUP_HEADER,
    boot_params,
    highest_setup_type,
    read_setup_header,
    setup_data,
    setup_header_bytes,
)

CValues = Callable[[Sequence[str], Sequence[tuple[str, str]]], list[int | None]]


def header_of(length: int = 0x6A, **fields: int) -> bytearray:
    """The first KiB of a kernel image, with a header of a length as the jump has it."""
    image = bytearray(1024)
    fields = {"boot_flag": 0xAA55, "header": 0x53726448, "jump": length << 8 | 0xEB} | fields
    for name, value in fields.items():
        offset, width = SETUP_HEADER[name]
        struct.pack_into(f"<{width}", image, offset, value)
    return image


def test_layouts_are_those_of_the_header(c_values: CValues) -> None:
    ours = {"sizeof(struct boot_params)": 4096}
    for name, (offset, width) in BOOT_PARAMS.items():
        path = f"hdr.{name}" if name in SETUP_HEADER else name
        ours[f"offsetof(struct boot_params, {path})"] = offset
        ours[f"sizeof(((struct boot_params *)0)->{path})"] = struct.calcsize(width)
    ours |= {
        "sizeof(struct setup_header)": 0x268 + 4 - 0x1F1,
        "sizeof(struct boot_e820_entry)": 20,
        "sizeof(struct setup_data)": 16,
        "E820_MAX_ENTRIES_ZEROPAGE": linux_boot.E820_MAX_ENTRIES,
        "LOADED_HIGH": linux_boot.Loadflags.LOADED_HIGH,
        "XLF_KERNEL_64": linux_boot.Xloadflags.KERNEL_64,
    }
    theirs = c_values(("asm/bootparam.h",), [(expression, "") for expression in ours])
    assert dict(zip(ours, theirs, strict=True)) == ours
    names = ("SETUP_RNG_SEED",)
    (seed,) = c_values(("asm/bootparam.h",), [(name, name) for name in names])
    assert seed in (None, linux_boot.SetupData.RNG_SEED)


def test_every_field_of_the_header_is_there() -> None:
    """Without a gap: each begins where the one before it ends."""
    end = 0x1F1
    for offset, width in SETUP_HEADER.values():
        assert offset == end
        end = offset + struct.calcsize(width)
    assert end == 0x26C


def test_reading_a_header() -> None:
    found = read_setup_header(bytes(header_of(version=0x020F, init_size=0x123456, jump=0x6AEB)))
    assert (found["version"], found["init_size"]) == (0x020F, 0x123456)
    assert found.keys() == SETUP_HEADER.keys()


def test_fields_behind_the_end_of_an_old_header_are_zero() -> None:
    image = bytes(header_of(length=0x22, cmdline_size=255, kernel_alignment=0x1000000))
    found = read_setup_header(image)
    assert found["cmdline_size"] == found["kernel_alignment"] == 0
    assert len(setup_header_bytes(image)) == 0x224 - 0x1F1


def test_a_field_that_is_cut_is_not_there() -> None:
    found = read_setup_header(bytes(header_of(length=0x38, cmdline_size=0x01010101)))
    assert found["cmdline_size"] == 0


def test_a_header_never_reaches_beyond_its_room() -> None:
    assert len(setup_header_bytes(header_of(length=0xFF))) == 0x290 - 0x1F1


@pytest.mark.parametrize(
    "image",
    [b"", bytes(0x201), bytes(1024), bytes(header_of(header=1)), bytes(header_of(boot_flag=0))],
)
def test_no_header(image: bytes) -> None:
    with pytest.raises(ValueError, match="no setup header"):
        read_setup_header(image)


@given(st.binary(max_size=0x300), st.booleans())
def test_any_bytes_are_a_header_or_none(data: bytes, signed: bool) -> None:
    image = bytearray(data)
    if signed and len(image) > 0x206:
        image[0x1FE:0x206] = b"\x55\xaa\xeb" + image[0x201:0x202] + b"HdrS"
    try:
        found = read_setup_header(bytes(image))
    except ValueError:
        return
    assert found["header"] == 0x53726448


def test_boot_params() -> None:
    header = setup_header_bytes(header_of(version=0x020F, syssize=7, loadflags=1))
    ranges = [(0, 0x9FC00, 1), (0x100000, 1 << 40, 2)]
    values = {"type_of_loader": 0xFF, "cmd_line_ptr": 0x20000, "acpi_rsdp_addr": 0xE0000}
    made = boot_params(header, values, ranges)
    assert len(made) == 4096
    assert made[0x1FE:0x208] == b"\x55\xaa\xeb\x6aHdrS\x0f\x02"
    assert made[0x210:0x212] == b"\xff\x01"
    assert made[0x228:0x22C] == bytes.fromhex("00000200")
    assert made[0x70:0x78] == bytes.fromhex("00000e0000000000")
    assert made[0x1E8] == 2
    assert made[0x1EF] == 0  # the sentinel says that nothing else of the image was copied
    assert struct.unpack_from("<QQIQQI", made, 0x2D0) == (*ranges[0], *ranges[1])


def test_memory_maps_are_bounded() -> None:
    most = boot_params(b"", {}, [(n, 1, 1) for n in range(128)])
    assert most[0x1E8] == 128
    assert struct.unpack_from("<QQI", most, 0x2D0 + 127 * 20) == (127, 1, 1)
    assert most[0x2D0 + 128 * 20 :] == bytes(4096 - 0x2D0 - 128 * 20)
    with pytest.raises(ValueError, match="129 ranges of memory; 128 fit"):
        boot_params(b"", {}, [(n, 1, 1) for n in range(129)])


def test_setup_data() -> None:
    made = setup_data(9, b"seed!", next_gpa=0x123456789)
    assert made == bytes.fromhex("8967452301000000 09000000 05000000") + b"seed!"


def test_highest_setup_type() -> None:
    code = bytes(8) + b"LToP" + struct.pack("<III", 16, 16, 0x80000009)
    assert highest_setup_type(code, 8) == 9
    assert highest_setup_type(code, 0) is None
    assert highest_setup_type(code, 9) is None
    assert highest_setup_type(code, 1 << 31) is None
    assert highest_setup_type(code.replace(b"LToP", b"LToQ"), 8) is None
    short = bytes(8) + b"LToP" + struct.pack("<III", 12, 12, 9)
    assert highest_setup_type(short, 8) is None
