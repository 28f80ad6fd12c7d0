"""bzImages made byte by byte: where everything goes, how it starts, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import BootError
from vmm.loader import load
from vmm.loader.plan import BootOptions, BootPlan, Module

MIB = 1 << 20
Bytes = Callable[..., bytes]
Options = Callable[..., BootOptions]
Memory = Callable[[BootPlan, int, int], bytes]
Attempt = Callable[[bytes, BootOptions, str], str]

SEED_KERNEL = b"\xf4" * 0x400 + b"LToP" + struct.pack("<III", 16, 16, 0x80000009)


def params(plan: BootPlan, memory_of: Memory) -> Callable[[int, str], int]:
    data = memory_of(plan, plan.start.registers["rsi"], 4096)

    def field(offset: int, width: str) -> int:
        value: int = struct.unpack_from(f"<{width}", data, offset)[0]
        return value

    return field


def test_the_64_bit_entry(bzimage: Bytes, options: Options, memory_of: Memory) -> None:
    plan = load(bzimage(), options(64 * MIB, append="quiet"))
    assert plan.format == "linux"
    assert plan.wants_tables
    assert (plan.start.mode, plan.start.protocol) == ("long", "linux")
    assert plan.start.entry == 0x1000200
    assert memory_of(plan, 0x1000000, 0x400) == b"\xf4" * 0x400
    assert plan.expects == (0x1000000, 0x800000)
    field = params(plan, memory_of)
    assert field(0x1FE, "H") == 0xAA55
    assert field(0x202, "I") == 0x53726448
    assert field(0x210, "B") == 0xFF
    assert field(0x211, "B") == 1
    assert field(0x214, "I") == 0x1000000
    assert field(0x1FA, "H") == 0xFFFF
    assert field(0x1EF, "B") == 0
    assert memory_of(plan, field(0x228, "I"), 6) == b"quiet\0"
    assert (field(0x218, "I"), field(0x21C, "I")) == (0, 0)
    assert field(0x250, "Q") == 0
    assert field(0x70, "Q") == 0


def test_the_32_bit_entry(bzimage: Bytes, options: Options) -> None:
    for image, format in ((bzimage(), "linux32"), (bzimage(xloadflags=0), "auto")):
        plan = load(image, options(64 * MIB), format)
        assert (plan.start.mode, plan.start.entry) == ("protected", 0x1000000)
        assert plan.start.protocol == "linux"
        assert plan.wants_tables
        # What the protocol has at 0 is what registers are that are not named.
        assert plan.start.registers.keys() == {"rsi", "rsp"}


def test_an_older_kernel_has_no_64_bit_entry(bzimage: Bytes, options: Options) -> None:
    """Its header ends before the flags would come, or means something else there."""
    plan = load(bzimage(version=0x020B), options(64 * MIB))
    assert plan.start.mode == "protected"


def test_memory_map(bzimage: Bytes, options: Options, memory_of: Memory) -> None:
    plan = load(bzimage(), options(5 << 30))
    data = memory_of(plan, plan.start.registers["rsi"], 4096)
    found = [struct.unpack_from("<QQI", data, 0x2D0 + 20 * n) for n in range(data[0x1E8])]
    assert found == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x400, 2),
        (0xF0000, 0x10000, 2),
        (0x100000, 0xBFF00000, 1),
        (0x100000000, 0x80000000, 1),
    ]


def test_command_line(bzimage: Bytes, options: Options, memory_of: Memory) -> None:
    plan = load(bzimage(), options(64 * MIB))
    at = params(plan, memory_of)(0x228, "I")
    assert memory_of(plan, at, 14) == b"console=ttyS0\0"
    assert at + 14 <= 0xA0000
    load(bzimage(cmdline_size=5), options(64 * MIB, append="quiet"))
    with pytest.raises(BootError, match=r"k: the command line has 6 characters, .* takes 5"):
        load(bzimage(cmdline_size=5), options(64 * MIB, append="quiet!"))
    with pytest.raises(BootError, match="has a NUL character inside"):
        load(bzimage(), options(64 * MIB, append="a\0b"))


def test_the_initrd_lies_as_high_as_it_may(
    bzimage: Bytes, options: Options, memory_of: Memory
) -> None:
    initrd = Module("i", b"cpio" * 2000)
    plan = load(bzimage(), options(64 * MIB, initrd=initrd))
    field = params(plan, memory_of)
    assert field(0x21C, "I") == 8000
    assert field(0x218, "I") == 64 * MIB - 0x8000 - 0x2000
    assert memory_of(plan, field(0x218, "I"), 8000) == initrd.data
    plan = load(bzimage(initrd_addr_max=0x2FFFFFF), options(64 * MIB, initrd=initrd))
    assert params(plan, memory_of)(0x218, "I") == 0x3000000 - 0x2000
    plan = load(bzimage(), options(8 << 30, initrd=initrd))
    assert params(plan, memory_of)(0x218, "I") == 0x80000000 - 0x2000


def test_the_initrd_keeps_clear_of_what_the_kernel_unpacks(
    bzimage: Bytes, options: Options
) -> None:
    initrd = Module("i", b"x" * (8 * MIB))
    load(bzimage(), options(33 * MIB, initrd=initrd))
    small = bzimage(initrd_addr_max=0x17FFFFF)
    plan = load(small, options(33 * MIB, initrd=initrd))
    at = next(w.gpa for w in plan.writes if w.what == "initrd i")
    assert at + 8 * MIB <= 0x1000000
    with pytest.raises(
        BootError, match=r"k: no room for initrd i of 16777216 bytes below .*memory"
    ):
        load(bzimage(init_size=0x1800000), options(42 * MIB, initrd=Module("i", b"x" * 16 * MIB)))


def test_an_empty_initrd(bzimage: Bytes, options: Options) -> None:
    with pytest.raises(BootError, match="k: initrd i is empty"):
        load(bzimage(), options(64 * MIB, initrd=Module("i", b"")))


def test_the_random_seed(bzimage: Bytes, options: Options, memory_of: Memory) -> None:
    image = bzimage(SEED_KERNEL, kernel_info_offset=0x400)
    plan = load(image, options(64 * MIB, rng_seed=b"0123456789abcdef"))
    at = params(plan, memory_of)(0x250, "Q")
    assert memory_of(plan, at, 32) == struct.pack("<QII", 0, 9, 16) + b"0123456789abcdef"
    assert params(load(image, options(64 * MIB)), memory_of)(0x250, "Q") == 0
    # A kernel that does not say that it takes one gets none.
    plan = load(bzimage(SEED_KERNEL), options(64 * MIB, rng_seed=b"0123456789abcdef"))
    assert params(plan, memory_of)(0x250, "Q") == 0


def test_where_acpi_is(bzimage: Bytes, options: Options, memory_of: Memory) -> None:
    plan = load(bzimage(), options(64 * MIB, rsdp=0xE0000))
    assert params(plan, memory_of)(0x70, "Q") == 0xE0000


def test_a_relocatable_kernel_goes_where_it_prefers_or_above(
    bzimage: Bytes, options: Options
) -> None:
    image = bzimage(pref_address=0x900000, kernel_alignment=0x400000)
    assert load(image, options(64 * MIB)).start.entry == 0xC00200
    with pytest.raises(
        BootError, match=r"k: the kernel needs memory up to 0x1800000 .*: --memory 25M"
    ):
        load(bzimage(), options(24 * MIB))
    assert load(bzimage(), options(25 * MIB)).start.entry == 0x1000200


def test_a_kernel_that_is_not_relocatable_starts_at_one_mib(
    bzimage: Bytes, options: Options
) -> None:
    image = bzimage(relocatable_kernel=0, kernel_alignment=0, xloadflags=0)
    plan = load(image, options(64 * MIB, initrd=Module("i", b"x" * 4096)))
    assert plan.start.entry == 0x100000
    with pytest.raises(BootError, match=r"k: the kernel needs .*: --memory 25M"):
        load(image, options(24 * MIB))
    load(image, options(25 * MIB))


def test_a_kernel_without_init_size(bzimage: Bytes, options: Options) -> None:
    plan = load(bzimage(version=0x0206), options(64 * MIB))
    assert (plan.start.mode, plan.start.entry) == ("protected", 0x200000)


def test_setup_sectors_of_zero_are_four(bzimage: Bytes, options: Options) -> None:
    plan = load(bzimage(setup_sects=0), options(64 * MIB))
    assert next(w.data for w in plan.writes if w.what == "the kernel") == b"\xf4" * 0x400


def test_what_is_behind_the_kernel_is_left_out(bzimage: Bytes, options: Options) -> None:
    """A signature for Secure Boot, for one."""
    plan = load(bzimage() + b"signature", options(64 * MIB))
    assert next(w.data for w in plan.writes if w.what == "the kernel") == b"\xf4" * 0x400


def test_the_version_is_told(bzimage: Bytes, options: Options) -> None:
    code = b"\xf4" * 0x400
    image = bytearray(bzimage(code, setup_sects=2, kernel_version=0x300))
    image[0x500:0x520] = b"6.1.0-50-amd64 (debian) #1\0".ljust(32, b"\0")
    (note,) = load(bytes(image), options(64 * MIB)).notes
    assert note.startswith("Linux 6.1.0-50-amd64, protocol 2.15, boot_params at 0x")
    (note,) = load(bzimage(), options(64 * MIB)).notes
    assert note.startswith("Linux of unknown version, ")
    image[0x500:0x504] = b"\x1b[2J"
    (note,) = load(bytes(image), options(64 * MIB)).notes
    assert note.startswith("Linux of unknown version, ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0x0205}, r"boot protocol 2\.05; this takes 2\.06 \(Linux 2\.6\.22\)"),
        ({"version": 0}, r"boot protocol 0\.00"),
        ({"loadflags": 0}, "a Linux zImage; only bzImages"),
        ({"syssize": 0x41}, r"ends at byte 2064 of 2048; is the file cut short\?"),
        ({"syssize": 0x20}, "malformed Linux kernel: 512 bytes of protected-mode code"),
        ({"setup_sects": 1, "kernel_alignment": 0x300000}, "alignment 0x300000"),
        ({"kernel_alignment": 0}, "alignment 0x0"),
        ({"kernel_alignment": 1 << 31}, "alignment 0x80000000"),
        ({"pref_address": 1 << 40}, "the kernel needs memory up to 0x10000800000"),
    ],
)
def test_refused(bzimage: Bytes, options: Options, fields: dict[str, int], message: str) -> None:
    with pytest.raises(BootError, match=f"k: .*{message}"):
        load(bzimage(**fields), options(64 * MIB))


def test_not_a_kernel_at_all(options: Options) -> None:
    for format in ("linux", "linux32"):
        with pytest.raises(BootError, match="k: not a Linux bzImage: it has no setup header"):
            load(b"\xf4" * 1024, options(), format)


@given(
    st.dictionaries(
        st.sampled_from(
            (
                *("setup_sects", "syssize", "version", "loadflags", "initrd_addr_max"),
                *("kernel_alignment", "relocatable_kernel", "xloadflags", "cmdline_size"),
                *("pref_address", "init_size", "kernel_info_offset", "jump", "kernel_version"),
            )
        ),
        st.one_of(
            st.integers(0, 255),
            st.sampled_from([0x0206, 0x020A, 0x020F, 1 << 12, 1 << 20, 1 << 24, (1 << 32) - 1]),
        ),
    ),
    st.sampled_from([1, 160, 512, 8192, 16384]),
    st.booleans(),
)
def test_headers_of_any_kind(
    bzimage: Bytes,
    options: Options,
    attempt: Attempt,
    fields: dict[str, int],
    pages: int,
    initrd: bool,
) -> None:
    sizes = {"setup_sects": 1, "version": 2, "loadflags": 1, "relocatable_kernel": 1}
    sizes |= {"xloadflags": 2, "jump": 2, "kernel_version": 2, "pref_address": 8}
    kept = {name: value % (1 << 8 * sizes.get(name, 4)) for name, value in fields.items()}
    more = {"initrd": Module("i", b"x" * 5000)} if initrd else {}
    for format in ("linux", "linux32"):
        attempt(bzimage(**kept), options(pages * 4096, rng_seed=b"s" * 32, **more), format)


@given(st.binary(max_size=2048), st.sampled_from(["linux", "linux32", "vmlinux", "pvh"]))
def test_any_bytes(options: Options, attempt: Attempt, image: bytes, format: str) -> None:
    attempt(image, options(8 * MIB), format)
