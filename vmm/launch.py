"""From an image to a machine that is ready to run: what `vmm run` does, as a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from devices.records import Record
from vmm.errors import BootError, ConfigError
from vmm.furnish import PAYLOAD_PREFIX, furnish
from vmm.host.routing import InputRoute
from vmm.layout import RSDP_GPA, MemoryLayout, parse_size
from vmm.loader import load
from vmm.loader.detect import detect
from vmm.loader.files import read_file, read_module
from vmm.loader.plan import BootOptions, BootPlan, Module
from vmm.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from vmm.symbols import Symbols

__all__ = ["boot"]

_DEFAULT_MEMORY = 64 << 20
_DEFAULT_LINUX_MEMORY = 256 << 20
_LINUX = ("linux", "linux32", "vmlinux", "pvh")
_RNG_SEED_BYTES = 32
_FLOPPY_SIZES = frozenset(k << 10 for k in (160, 180, 320, 360, 720, 1200, 1440, 2880))


class _Image(Record):
    """An image and what its origin says of how to boot it."""

    name: str
    data: bytes | memoryview
    format: str
    path: str | None = None
    """The file that is also the boot drive."""
    load_addr: int | None = None
    cpl: int = 0
    cpus: int = 1
    irqchip: bool | None = None
    testdev: bool = False


def boot(
    image: str | Path | bytes,
    *,
    format: str = "auto",
    memory: str | int | None = None,
    cpus: int | None = None,
    cpu: str = "",
    irqchip: bool | None = None,
    append: str = "",
    initrd: str | Path | None = None,
    modules: Sequence[str] = (),
    load_addr: int | None = None,
    entry: int | None = None,
    cpl: int | None = None,
    boot_drive: int | None = None,
    disks: Sequence[str] = (),
    rng: bool | None = None,
    virtio_console: bool = False,
    strict: bool = False,
    huge_pages: bool = False,
    testdev: bool = False,
    net: Sequence[str] = (),
    vsock: str | None = None,
    share: Sequence[str] = (),
    balloon: bool = False,
    smbios: Sequence[str] = (),
    pmem: Sequence[str] = (),
    devices: Sequence[str] = (),
    name: str = "",
    symbols: str | Path | None = None,
    input: InputRoute = "auto",
    trace: str | bool = True,
    record: str | None = None,
    console: Callable[[bytes], None] | None = None,
    terminal: bool = False,
    kvm: str = "/dev/kvm",
) -> Machine:
    """Make a machine with a PC's devices around an image, ready to run.

    Args:
        image: a file, "payload:NAME" for a built-in guest, or the bytes themselves.
        format: what it is; "auto" finds out.
        memory: RAM; 64 MiB unless given, 256 MiB for a Linux kernel.
        cpus: vCPUs.
        cpu: what the guest sees of the processor: features to hide, "-cx16,-xsave", a template,
            "x86-64-v2" (`vmm.cpu_templates`), or both.
        irqchip: interrupt controllers in KVM; None: yes, except for flat images.
        append: the kernel's command line; where it is empty, Linux gets "console=ttyS0".
        initrd: the file of Linux's initial file system.
        modules: Multiboot modules, each "FILE" or "FILE ARGUMENTS".
        load_addr, entry, cpl: for flat images: where to put it, where to enter, at what level.
        boot_drive: the number of a boot sector's drive; None: by the image's size.
        disks: "FILE", "FILE:ro" or "FILE:cow": more disks for a boot sector's BIOS services;
            virtio disks for everything else, with ",format=qcow2" and other words behind that, or
            "vhost-user=SOCKET" (`vmm.virtio.disk_options`).
        rng: a virtio entropy source; None: yes for Linux.
        virtio_console: a virtio console (hvc0) beside COM1.
        strict: an access that no device claims ends the run.
        huge_pages: back RAM with 2 MiB pages.
        testdev: add QEMU's pc-testdev.
        net: network cards: "user", "user,tcp=2222:22", "tap=tap0" (`vmm.virtio.net_options`).
        vsock: sockets between guest and host: the guest's address ("3"), or "3,unix=PATH".
        share: folders that the guest can mount: "DIR" or "DIR,tag=NAME".
        smbios: what the machine says it is: "serial=S-17,uuid=...", "type=3,asset=SHELF", in the
            words of QEMU's -smbios (`firmware.smbios.FIELDS`). For Linux and for firmware.
        balloon: let the guest give memory back.
        pmem: persistent memory: "FILE" or "FILE,readonly", of a multiple of 2 MiB.
        devices: devices of your own, each as "FILE.py:CLASS@pio:0x10" (`vmm.userdev`).
        name: the machine's; network cards have addresses that belong to it.
        symbols: a file with names for the guest's addresses, ELF or as nm prints them; None: the
            image itself, if it is an ELF file.
        input: where `machine.console.send` goes.
        trace: True: the last exits are kept; a file: all of them are, in it; False: none.
        record: a file that gets every exit, and what devices were given and did; `vmm.replay`
            drives the devices again from it.
        console: called with the guest's output as it comes; it is kept in `machine.console` too.
        terminal: the console understands cursor movement and colours.
        kvm: the device node.

    Raises:
        BootError: the image cannot be booted.
        ConfigError: the machine cannot be made.
        KvmUnavailable: KVM cannot be used here.
    """
    if record is not None and isinstance(trace, str):
        raise ConfigError(
            f"both --trace {trace} and --record {record}: a recording is a trace as well; "
            "give --record alone"
        )
    found = _open_image(image if isinstance(image, bytes) else str(image), format, cpus)
    if memory is None:
        memory = _DEFAULT_LINUX_MEMORY if found.format in _LINUX else _DEFAULT_MEMORY
    size = parse_size(memory, what="memory")
    layout = MemoryLayout.for_size(size)
    options = BootOptions(
        layout=layout,
        name=found.name,
        append=append,
        modules=tuple(read_module(text) for text in modules),
        initrd=None if initrd is None else _read_initrd(initrd),
        rng_seed=os.urandom(_RNG_SEED_BYTES) if found.format in _LINUX else b"",
        rsdp=RSDP_GPA if irqchip is not False else 0,
        load_addr=found.load_addr if load_addr is None else load_addr,
        entry=entry,
        cpl=found.cpl if cpl is None else cpl,
        boot_drive=_boot_drive(found) if boot_drive is None else boot_drive,
    )
    plan = load(found.data, options, found.format)
    names = _symbols(symbols, found, plan)
    if irqchip is None:
        irqchip = _wants_irqchip(plan, found)
    if disks and not plan.bios and not irqchip:
        raise ConfigError(
            f"--disk: {found.name} is booted as {plan.format} without interrupt controllers, and "
            "only a boot sector's BIOS services have disks then; give --irqchip on"
        )
    if smbios:
        _check_smbios(smbios, found.name, plan, irqchip)
    machine = Machine(
        size,
        found.cpus if cpus is None else cpus,
        irqchip,
        cpu=cpu,
        strict=strict,
        huge_pages=huge_pages,
        trace=trace if record is None else record,
        journal=record is not None,
        kvm=kvm,
    )
    try:
        machine.plan = plan
        machine.settings |= {
            "image": "" if isinstance(image, bytes) else str(image),
            "append": append,
            "initrd": None if initrd is None else str(initrd),
            "modules": list(modules),
            "load_addr": options.load_addr,
            "entry": entry,
            "cpl": options.cpl,
            "boot_drive": options.boot_drive,
            "disks": list(disks),
            "rng": (plan.wants_tables and irqchip) if rng is None else rng,
            "virtio_console": virtio_console,
            "testdev": testdev or found.testdev,
            "input": input,
            "bios": plan.bios,
            "folder": os.getcwd(),
            "net": list(net),
            "vsock": vsock,
            "share": list(share),
            "balloon": balloon,
            "smbios": list(smbios),
            "pvpanic": plan.wants_tables and irqchip,
            "pmem": list(pmem),
            "name": name,
            "devices": list(devices),
            "symbols": None if symbols is None else str(symbols),
        }
        machine.symbol_source = names
        furnish(machine, machine.settings, console=console, terminal=terminal)
        machine.furnish = _furnish_copy
        machine.boot(plan)
        if plan.wants_tables and machine.irqchip:
            _leave_tables(machine, smbios)
    except BaseException:
        machine.close()
        raise
    return machine


def _leave_tables(machine: Machine, smbios: Sequence[str]) -> None:
    """Put into memory what firmware leaves for an operating system: ACPI, MP tables, SMBIOS."""
    from vmm.identity import Identity
    from vmm.layout import GENERATION_GPA
    from vmm.system_tables import GED_GSI, system_tables

    tables = system_tables(
        machine.memory.layout,
        cpus=len(machine.vcpus),
        cpuid=machine.hardware.cpuid[0],
        virtio=[(place.gpa, place.size, place.gsi) for place in machine.virtio],
        identity=Identity.read(smbios),
    )
    for table in tables:
        machine.memory.write(table.gpa, table.data)
    machine.settings["generation"] = [GENERATION_GPA, GED_GSI]


def _check_smbios(smbios: Sequence[str], name: str, plan: BootPlan, irqchip: bool) -> None:
    """Refuse what cannot be said, and to say it where nobody would hear.

    Raises:
        ConfigError: a text is wrong; or the guest neither finds tables in memory nor makes them.
    """
    from vmm.identity import Identity

    Identity.read(smbios)
    if plan.wants_tables and not irqchip:
        raise ConfigError(
            f"--smbios: {name} finds no tables where there are no interrupt controllers; give "
            "--irqchip on"
        )
    if not plan.wants_tables and plan.format != "firmware":
        raise ConfigError(
            f"--smbios: {name} is booted as {plan.format}, which finds no SMBIOS tables; Linux "
            "and firmware do"
        )


def _furnish_copy(machine: Machine, console: Callable[[bytes], None] | None) -> None:
    """Furnish a copy of a machine, with disks of its own."""
    settings = machine.settings
    furnish(machine, settings, console=console, private=True, folder=str(settings["folder"]))


def _symbols(
    path: str | Path | None, found: _Image, plan: BootPlan
) -> Callable[[], Symbols | None]:
    """Where names come from: a file that was asked for is read at once, the image when needed.

    Raises:
        SymbolError: the file has none.
    """
    if path is not None:
        from vmm.symbols import Symbols

        given = Symbols.load(path, bias=plan.moved_by)
        return lambda: given
    image = found.path
    if image is None or bytes(found.data[:4]) != b"\x7fELF":
        return lambda: None

    def read() -> Symbols | None:
        from vmm.symbols import SymbolError, Symbols

        try:
            return Symbols.load(image, bias=plan.moved_by)
        except SymbolError:
            return None

    return read


def _open_image(image: str | bytes, format: str, cpus: int | None) -> _Image:
    if isinstance(image, bytes):
        name = f"{len(image)} bytes"
        return _Image(name, image, detect(image, name) if format == "auto" else format)
    if not image:
        raise BootError("the name of the image is empty; give a file, or payload:NAME")
    if not image.startswith(PAYLOAD_PREFIX):
        data = read_file(image)
        name = os.path.basename(image)
        chosen = detect(data, name) if format == "auto" else format
        return _Image(name, data, chosen, image)
    from firmware.payloads import PAYLOADS

    name = image.removeprefix(PAYLOAD_PREFIX)
    found = PAYLOADS.get(name)
    if found is None:
        from difflib import get_close_matches  # half a millisecond that a good name need not pay

        near = get_close_matches(name, PAYLOADS, 1)
        hint = f"did you mean {PAYLOAD_PREFIX}{near[0]}?" if near else "'vmm payloads' lists them"
        raise BootError(f"{image}: no such built-in guest; {hint}")
    return _Image(
        name,
        found.image(cpus),
        found.format if format == "auto" else format,
        load_addr=found.load_addr if found.format.startswith("flat") else None,
        cpl=found.cpl,
        cpus=found.cpus,
        irqchip=found.irqchip,
        testdev="testdev-mmio" in found.devices,
    )


def _read_initrd(path: str | Path) -> Module:
    return Module(os.path.basename(path), read_file(path))


def _boot_drive(found: _Image) -> int:
    """A boot sector of a floppy's size is on a floppy; everything else is on a hard disk."""
    return 0x00 if len(found.data) in _FLOPPY_SIZES else 0x80


def _wants_irqchip(plan: BootPlan, found: _Image) -> bool:
    if found.irqchip is not None:
        return found.irqchip
    return not plan.format.startswith("flat")
