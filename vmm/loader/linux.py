"""A Linux kernel as it is installed: a bzImage, which unpacks itself.

Its protected-mode part goes to the address that it prefers, or to the next one that is free, with
the memory that it needs while it unpacks. It is entered in 64-bit mode where it has an entry point
for that, else in 32-bit mode (or where the user asks for that: `linux32`). Its real-mode part is
not used: what that would ask of a BIOS is in `boot_params`.

Spec: Linux, The Linux/x86 Boot Protocol.
"""

from __future__ import annotations

from devices.records import Record
from firmware.linux_boot import (
    Loadflags,
    SetupData,
    Xloadflags,
    highest_setup_type,
    read_setup_header,
    setup_header_bytes,
)
from vmm.errors import BootError
from vmm.layout import PAGE_SIZE
from vmm.loader.linux_params import Takes, place_params
from vmm.loader.placement import Placement
from vmm.loader.plan import START_TABLES_SIZE, BootOptions, BootPlan, Start

__all__ = ["plan", "plan32"]

_SECTOR_SIZE = 512
_PARAGRAPH = 16
_OLDEST = 0x0206
"""Linux 2.6.22; kernels before it do not say how long their command line may be."""
_WITH_INIT_SIZE = 0x020A
_WITH_XLOADFLAGS = 0x020C
_LOAD_ADDR = 0x10_0000
_ENTRY64_OFFSET = 0x200
_MOST_ALIGN = 1 << 30


class _Kernel(Record):
    header: dict[str, int]
    code: memoryview
    """The protected-mode part."""


def plan(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a bzImage, in 64-bit mode where it can be started so.

    Raises:
        BootError: it is malformed, too old, or does not fit into memory.
    """
    kernel = _read(image, options.name)
    header = kernel.header
    long = header["version"] >= _WITH_XLOADFLAGS and header["xloadflags"] & Xloadflags.KERNEL_64
    return _plan(image, kernel, options, "linux", long=bool(long))


def plan32(image: memoryview, options: BootOptions) -> BootPlan:
    """Plan the start of a bzImage in 32-bit mode.

    Raises:
        BootError: it is malformed, too old, or does not fit into memory.
    """
    return _plan(image, _read(image, options.name), options, "linux32", long=False)


def _read(image: memoryview, name: str) -> _Kernel:
    try:
        header = read_setup_header(image)
    except ValueError:
        raise BootError(f"{name}: not a Linux bzImage: it has no setup header") from None
    version = header["version"]
    if version < _OLDEST:
        raise BootError(
            f"{name}: a Linux kernel of boot protocol {_dotted(version)}; this takes "
            f"{_dotted(_OLDEST)} (Linux 2.6.22) and later"
        )
    if not header["loadflags"] & Loadflags.LOADED_HIGH:
        raise BootError(f"{name}: a Linux zImage; only bzImages are booted")
    start = ((header["setup_sects"] or 4) + 1) * _SECTOR_SIZE
    size = header["syssize"] * _PARAGRAPH
    if size <= _ENTRY64_OFFSET:
        raise BootError(f"{name}: malformed Linux kernel: {size} bytes of protected-mode code")
    if start + size > len(image):
        raise BootError(
            f"{name}: the Linux kernel ends at byte {start + size} of {len(image)}; is the file "
            "cut short?"
        )
    return _Kernel(header, image[start : start + size])


def _plan(
    image: memoryview, kernel: _Kernel, options: BootOptions, format: str, *, long: bool
) -> BootPlan:
    header = kernel.header
    placement = Placement(options, start_tables=True)
    load, needed = _place(kernel, options, placement)
    highest = highest_setup_type(kernel.code, header["kernel_info_offset"])
    takes = Takes(
        header["cmdline_size"],
        header["initrd_addr_max"],
        highest is not None and highest >= SetupData.RNG_SEED,
    )
    values = {"code32_start": load}
    params = place_params(options, placement, takes, setup_header_bytes(image), values)
    start = Start(
        "long" if long else "protected",
        load + _ENTRY64_OFFSET if long else load,
        registers={"rsi": params, "rsp": placement.start_tables},
        protocol="linux",
    )
    protocol = _dotted(header["version"])
    note = f"Linux {_release(image, header)}, protocol {protocol}, boot_params at {params:#x}"
    return BootPlan(
        format,
        start,
        placement.writes,
        wants_tables=True,
        expects=(load, needed),
        notes=(note,),
    )


def _place(kernel: _Kernel, options: BootOptions, placement: Placement) -> tuple[int, int]:
    """Plan the code, and the memory that it unpacks itself into; return where that is, and its
    size. It begins with the code."""
    header, code = kernel.header, kernel.code
    sized = header["version"] >= _WITH_INIT_SIZE
    needed = max(len(code), header["init_size"]) if sized else len(code)
    preferred = (header["pref_address"] if sized else 0) or _LOAD_ADDR
    end = preferred + needed
    if not header["relocatable_kernel"]:
        # It is loaded at 1 MiB and moves to the other address by itself.
        end = max(end, _LOAD_ADDR + len(code))
        needed = end - _LOAD_ADDR
        load: int | None = _LOAD_ADDR
        if end > placement.start_tables:
            load = None
    else:
        align = header["kernel_alignment"]
        if align & (align - 1) or not PAGE_SIZE <= align <= _MOST_ALIGN:
            raise BootError(f"{options.name}: malformed Linux kernel: alignment {align:#x}")
        # Below the address that it prefers it would move there by itself, without looking.
        load = placement.find(needed, align=align, floor=preferred)
    if load is None:
        raise BootError(
            f"{options.name}: the kernel needs memory up to {end:#x} to unpack itself; give the "
            f"machine more: --memory {((end + START_TABLES_SIZE) >> 20) + 1}M"
        )
    placement.put(load, code, "the kernel")
    if needed > len(code):
        placement.claim(load + len(code), needed - len(code), "what the kernel unpacks")
    return load, needed


def _release(image: memoryview, header: dict[str, int]) -> str:
    """The kernel's version as its header has it: "6.1.0-50-amd64"."""
    at = header["kernel_version"] + _SECTOR_SIZE
    text = bytes(image[at : at + 64]) if at > _SECTOR_SIZE else b""
    word = text.split(b"\0")[0].split(b" ")[0].decode("ascii", "replace")
    return word if word.isprintable() and word else "of unknown version"


def _dotted(version: int) -> str:
    return f"{version >> 8}.{version & 0xFF:02}"
