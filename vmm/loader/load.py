"""From an image to a plan: picks the loader. The table of formats is here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from devices.records import Record
from vmm.errors import BootError, ConfigError
from vmm.loader.plan import BootOptions, BootPlan

__all__ = ["FORMATS", "Format", "load"]


class Format(Record):
    """One format: its loader, and which options mean something to it."""

    name: str
    loader: str
    """Module and function; a start imports the one loader that it needs."""
    takes: str
    """Of "append", "initrd", "modules", "load_addr", "entry", "cpl": others than these are
    refused."""
    summary: str

    def plan(self, image: memoryview, options: BootOptions) -> BootPlan:
        """Plan the start of an image of this format.

        Raises:
            BootError: the image is malformed, or does not fit.
        """
        module, function = self.loader.split(".")
        found = getattr(import_module(f"vmm.loader.{module}"), function)
        plan: BootPlan = found(image, options)
        return plan


FORMATS: Mapping[str, Format] = {
    row[0]: Format(*row)
    for row in (
        ("bootsector", "bootsector.plan", "", "a disk's first sector, with BIOS services"),
        ("flat16", "flat.plan16", "load_addr entry", "a binary in real mode"),
        ("flat32", "flat.plan32", "load_addr entry cpl", "a binary in protected mode"),
        ("flat64", "flat.plan64", "load_addr entry cpl", "a binary in long mode"),
        ("elf32", "elf.plan32", "append load_addr entry", "an ELF in protected mode"),
        ("elf64", "elf.plan64", "append load_addr entry", "an ELF in long mode"),
        ("multiboot", "multiboot.plan", "append modules", "a multiboot 1 kernel"),
        ("multiboot2", "multiboot2.plan", "append modules", "a multiboot 2 kernel"),
        ("linux", "linux.plan", "append initrd", "a Linux bzImage, 64-bit where it can be"),
        ("linux32", "linux.plan32", "append initrd", "a Linux bzImage, by its 32-bit entry"),
        ("vmlinux", "vmlinux.plan", "append initrd", "a Linux ELF, by its own entry point"),
        ("pvh", "pvh.plan", "append initrd", "an ELF, by the entry point of its PVH note"),
        ("firmware", "firmware_rom.plan", "", "a ROM below 4 GiB, from the reset vector"),
    )
}
"""Every format that boots, by the name that `--format` takes."""

_OPTIONS = {
    "append": "a command line (--append)",
    "modules": "modules (--module)",
    "initrd": "an initial file system (--initrd)",
    "load_addr": "a load address (--load-addr)",
    "entry": "an entry point (--entry)",
    "cpl": "a start in ring 3 (--cpl 3)",
}


def load(image: bytes | memoryview, options: BootOptions, format: str = "auto") -> BootPlan:
    """Plan the start of an image; `format` is a name of `FORMATS`, or "auto" to tell from it.

    The plan's writes may be views of `image`: keep it unchanged until the plan is carried out.

    Raises:
        BootError: the image is empty, malformed, does not fit, or its format is not known.
        ConfigError: an option has an impossible value or means nothing to the format.
    """
    view = _bytes_view(image)
    _check(options)
    if not len(view):
        raise BootError(f"{options.name}: the image is empty")
    if format == "auto":
        from vmm.loader.detect import detect

        format = detect(view, options.name)
    chosen = FORMATS.get(format)
    if chosen is None:
        raise ConfigError(f"--format {format}: not known; one of auto, {', '.join(FORMATS)}")
    _check_taken(options, chosen)
    return chosen.plan(view, options)


def _bytes_view(image: bytes | memoryview) -> memoryview:
    view = memoryview(image)
    if view.c_contiguous and view.ndim == 1:
        return view.cast("B").toreadonly()
    return memoryview(view.tobytes())


def _check(options: BootOptions) -> None:
    """Refuse values that no format can take."""
    if options.cpl not in (0, 3):
        raise ConfigError(f"--cpl {options.cpl}: a start is in ring 0 or 3")
    for value, flag in ((options.load_addr, "--load-addr"), (options.entry, "--entry")):
        if value is not None and not 0 <= value < 1 << 52:
            raise ConfigError(f"{flag} {value:#x}: not a physical address")
    if not 0 <= options.boot_drive <= 0xFF:
        raise ConfigError(f"boot drive {options.boot_drive:#x}: not 0x00 to 0xff")


def _check_taken(options: BootOptions, chosen: Format) -> None:
    """Refuse options that mean nothing to the format, rather than pass over them in silence."""
    given = {
        "append": bool(options.append),
        "modules": bool(options.modules),
        "initrd": options.initrd is not None,
        "load_addr": options.load_addr is not None,
        "entry": options.entry is not None,
        "cpl": options.cpl != 0,
    }
    for option, is_given in given.items():
        if is_given and option not in chosen.takes.split():
            raise ConfigError(
                f"{options.name}: {_OPTIONS[option]} means nothing to the format {chosen.name}"
            )
