"""The options of `vmm run`, as data, and the quick way to read them.

argparse is built from the same data (`vmm.cli.parser`). It has the last word: whatever is not
plain here is left to it, and so is every error that is about the words and not about a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devices.records import Record
from vmm.cli.options import Options
from vmm.cli.values import address, count, one_of, seconds, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FORMATS", "RUN_OPTIONS", "TAKES_ANYTHING", "RunOption", "read_plainly"]

FORMATS = (
    *("auto", "bootsector", "flat16", "flat32", "flat64", "elf32", "elf64"),
    *("multiboot", "multiboot2", "linux", "linux32", "vmlinux", "pvh", "firmware"),
)

TAKES_ANYTHING = ("--cpu", "--append")
"""Options whose value may begin with a dash: `--cpu -cx16,-xsave`."""


class RunOption(Record):
    """One option; without `takes` it is a switch.

    `group` is its heading in the help. `read` makes the value's reader from the option's name, or
    `choices` are all that there is. A `repeated` one gives a list.
    """

    flag: str
    group: str
    help: str
    takes: str = ""
    read: Callable[[str], Callable[[str], object]] | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None
    repeated: bool = False

    @property
    def dest(self) -> str:
        """The name of its value."""
        return self.flag[2:].replace("-", "_")

    @property
    def initial(self) -> object:
        """Its value where it is not given."""
        if self.repeated:
            return []
        return self.default if self.takes else False

    @property
    def names_file(self) -> bool:
        """Whether a value begins with the name of a file or a folder."""
        return self.takes.lstrip("'").startswith(("FILE", "DIR"))

    def reader(self, called: str = "") -> Callable[[str], object]:
        """What reads its value, or refuses it with a ConfigError; there the option is `called`
        so, where that is not its flag."""
        if self.choices:
            return one_of(called or self.flag, self.choices)
        return str if self.read is None else self.read(called or self.flag)


RUN_OPTIONS = (
    # machine
    RunOption(
        "--memory",
        "machine",
        "RAM: 2M, 64M, 4G (default: 64M; Linux: 256M)",
        takes="SIZE",
        read=size,
    ),
    RunOption("--cpus", "machine", "virtual processors (default: 1)", takes="N", read=count),
    RunOption(
        "--cpu",
        "machine",
        "what the guest sees of the processor: a template ('vmm cpu list'), or features to hide "
        "and to demand, -cx16,+aes; or both, x86-64-v2,-pcid",
        takes="CPU",
        default="",
    ),
    RunOption(
        "--irqchip",
        "machine",
        "interrupt controllers and timers, in KVM (default: on, but off for flat images)",
        takes="on|off|auto",
        choices=("on", "off", "auto"),
        default="auto",
    ),
    RunOption(
        "--disk",
        "machine",
        "a disk: for the BIOS services of a boot sector, after the image itself, for all else a "
        "virtio disk; ro: read-only, cow: what is written is thrown away at the end; a virtio disk "
        "takes serial=TEXT, queues=N, iops=N, bps=SIZE and format= (raw, or qcow2, vmdk, vdi, vhdx "
        "and others, which qemu-storage-daemon serves); 'vhost-user=SOCKET[,readonly]' is a disk "
        "that you have served; may be given more than once",
        takes="FILE[:ro|:cow][,KEY=VALUE...]",
        repeated=True,
    ),
    RunOption(
        "--net",
        "machine",
        "a network card: 'user' needs no privileges (passt), 'tap=NAME' is a tap device; more "
        "below; may be given more than once",
        takes="user|tap=NAME[,KEY=VALUE...]",
        repeated=True,
    ),
    RunOption(
        "--vsock",
        "machine",
        "sockets between guest and host; the guest's address is CID, 3 or above; unix=: served on "
        "Unix sockets instead of by the kernel",
        takes="CID[,unix=PATH]",
    ),
    RunOption(
        "--share",
        "machine",
        "a folder that the guest can mount (mount -t virtiofs NAME /mnt; NAME is the folder's own "
        "unless given); may be given more than once",
        takes="DIR[,tag=NAME]",
        repeated=True,
    ),
    RunOption(
        "--smbios",
        "machine",
        "what the machine says it is (Linux: /sys/class/dmi/id): serial=S-17,uuid=..., or "
        "type=3,asset=SHELF, in the words of QEMU's -smbios; for Linux and firmware; may be given "
        "more than once",
        takes="[type=N,]NAME=VALUE[,...]",
        repeated=True,
    ),
    RunOption(
        "--pmem",
        "machine",
        "persistent memory (/dev/pmem0): the file is in the guest's address space, above its RAM; "
        "its size is a multiple of 2M; may be given more than once",
        takes="FILE[,readonly]",
        repeated=True,
    ),
    RunOption("--balloon", "machine", "let the guest give memory back ('vmm balloon')"),
    RunOption(
        "--rng",
        "machine",
        "a virtio entropy source (default: on for Linux)",
        takes="on|off|auto",
        choices=("on", "off", "auto"),
        default="auto",
    ),
    RunOption("--virtio-console", "machine", "a virtio console, hvc0 to Linux, beside COM1"),
    RunOption("--huge-pages", "machine", "back RAM with the host's 2 MiB pages"),
    RunOption("--testdev", "machine", "add QEMU's pc-testdev, for kvm-unit-tests"),
    RunOption(
        "--device",
        "machine",
        "a device of your own, from a Python file (see below); may be given more than once",
        takes="FILE:CLASS@pio:ADDR",
        repeated=True,
    ),
    RunOption("--strict", "machine", "an access that no device claims ends the run"),
    # image
    RunOption(
        "--format",
        "image",
        "what the image is (default: auto, find out); the list is below",
        takes="FORMAT",
        choices=FORMATS,
        default="auto",
    ),
    RunOption(
        "--append",
        "image",
        "the kernel's command line (default for Linux: console=ttyS0)",
        takes="TEXT",
        default="",
    ),
    RunOption("--initrd", "image", "Linux's initial file system", takes="FILE"),
    RunOption(
        "--module",
        "image",
        "a Multiboot module; may be given more than once",
        takes="'FILE [ARGS]'",
        repeated=True,
    ),
    RunOption("--load-addr", "image", "where to put the image", takes="ADDR", read=address),
    RunOption("--entry", "image", "where to enter it", takes="ADDR", read=address),
    RunOption(
        "--cpl",
        "image",
        "privilege level at the start of a flat image (default: 0)",
        takes="0|3",
        choices=("0", "3"),
    ),
    RunOption(
        "--boot-drive",
        "image",
        "a boot sector's drive: 0x80 hard disk, 0 floppy (default: by the image's size)",
        takes="N",
        read=address,
    ),
    RunOption(
        "--symbols",
        "image",
        "names for the guest's addresses: an ELF file, or lines as nm and System.map have "
        "them (default: the image, if it is an ELF file)",
        takes="FILE",
    ),
    # run
    RunOption("--tui", "run", "show the screen: exits, devices, registers, console"),
    RunOption(
        "--name", "run", "what 'vmm ps' calls it (default: the image and a number)", takes="NAME"
    ),
    RunOption(
        "--detach",
        "run",
        "run it in the background, by itself, and print its name; 'vmm console' attaches",
    ),
    RunOption(
        "--log",
        "run",
        "keep what the guest prints, and vmm's messages, in a file (which is added to) or in the "
        "journal; a detached machine has one anyway",
        takes="FILE|journal",
    ),
    RunOption("--timeout", "run", "end the run after this", takes="SECONDS", read=seconds),
    RunOption(
        "--reboot",
        "run",
        "when the guest resets the machine, start it again (default: end the run)",
    ),
    RunOption("--max-exits", "run", "end it after so many exits", takes="N", read=count),
    RunOption(
        "--input",
        "run",
        "where typed input goes (default: auto, to whichever the guest reads)",
        takes="auto|serial|keyboard",
        choices=("auto", "serial", "keyboard"),
        default="auto",
    ),
    RunOption("--trace", "run", "keep every exit in a file, for 'vmm trace'", takes="FILE"),
    RunOption(
        "--record", "run", "keep every exit, and all that devices got, in a file", takes="FILE"
    ),
    RunOption(
        "--shell",
        "run",
        "a Python prompt on the machine, before its first instruction; help() says more",
    ),
    RunOption(
        "--stop-at",
        "run",
        "end the run behind the first exit that meets this (the list is below), or pause it "
        "there where a screen shows it; may be given more than once",
        takes="CONDITION",
        repeated=True,
    ),
    RunOption(
        "--trace-only", "run", "keep in the file only exits that meet this", takes="CONDITION"
    ),
    RunOption("--rip", "run", "have RIP in the record of every exit"),
    RunOption(
        "--tracer",
        "run",
        "have the hooks of a Python class called as the guest runs; may be given more than once",
        takes="FILE.py:CLASS[,NAME=VALUE]",
        repeated=True,
    ),
    RunOption(
        "--gdb",
        "run",
        "let gdb attach here; the guest waits for it before its first instruction",
        takes="[HOST:]PORT|unix:PATH",
    ),
    RunOption("--gdb-nowait", "run", "with --gdb: the guest does not wait"),
    RunOption("--stats", "run", "print a table of exits at the end"),
    RunOption("--json", "run", "write the result as JSON (- for standard error)", takes="FILE"),
    RunOption(
        "--explain-json",
        "run",
        "write the explanation of a death or a timeout as JSON, null if there is none",
        takes="FILE",
    ),
    RunOption(
        "--config",
        "run",
        "a file with options, in TOML (see below); those given here win",
        takes="FILE",
    ),
    RunOption("--print-config", "run", "print such a file of what would be run, and run nothing"),
)


def read_plainly(words: Sequence[str]) -> Options | None:
    """Read `run IMAGE` with options in their long form, each with its value behind it.

    Returns:
        What `vmm.cli.parser.parse` would, or None: that is to have a look.

    Raises:
        ConfigError: a value is wrong.
    """
    if not words or words[0] != "run":
        return None
    values: dict[str, Any] = {"command": "run", "debug": False}
    values.update((option.dest, option.initial) for option in RUN_OPTIONS)
    known = {option.flag: option for option in RUN_OPTIONS}
    images = []
    rest = iter(words[1:])
    for word in rest:
        option = known.get(word)
        if option is None:
            if word == "--debug":
                values["debug"] = True
            elif word.startswith("-"):
                return None
            else:
                images.append(word)
        elif not option.takes:
            values[option.dest] = True
        else:
            text = next(rest, "")
            if not text or (text.startswith("-") and word not in TAKES_ANYTHING):
                return None
            value = option.reader()(text)
            if option.repeated:
                values[option.dest].append(value)
            else:
                values[option.dest] = value
    if len(images) != 1 or not images[0]:
        return None
    return Options(image=images[0], **values)
