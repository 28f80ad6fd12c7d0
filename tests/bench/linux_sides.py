"""How Linux is started by this monitor and by QEMU's microvm, with the same devices behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.guest.emulation import HIDDEN

__all__ = ["APPEND", "MEMORY_MIB", "SIDES", "Guest"]

MEMORY_MIB = 256
APPEND = "console=ttyS0 quiet panic=-1 reboot=t"


@dataclass(frozen=True)
class Guest:
    """What is started. `disk` is a raw file, `tap` the name of an interface; none where empty."""

    kernel: Path
    initrd: Path
    cpus: int = 1
    disk: str = ""
    tap: str = ""
    vhost: bool = True


def ours(guest: Guest) -> list[str]:
    """The command that boots with this monitor."""
    command = [
        *(sys.executable, "-m", "vmm", "run", str(guest.kernel), "--initrd", str(guest.initrd)),
        *("--append", APPEND, "--memory", f"{MEMORY_MIB}M", "--cpus", str(guest.cpus)),
        *("--cpu", HIDDEN),
    ]
    if guest.disk:
        command += ["--disk", guest.disk]
    if guest.tap:
        command += ["--net", f"tap={guest.tap},vhost={'on' if guest.vhost else 'off'}"]
    return command


def qemu(guest: Guest) -> list[str]:
    """The command that boots with QEMU's microvm, as its documentation has it for a PC's serial
    port; CPUs of the host, and the same kernel, memory and command line."""
    command = [
        *("qemu-system-x86_64", "-M", "microvm,accel=kvm", "-cpu", f"host,{HIDDEN}"),
        *("-m", f"{MEMORY_MIB}M", "-smp", str(guest.cpus), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", APPEND),
    ]
    if guest.disk:
        command += ["-drive", f"id=d,file={guest.disk},format=raw,if=none"]
        command += ["-device", "virtio-blk-device,drive=d"]
    if guest.tap:
        vhost = "on" if guest.vhost else "off"
        net = f"tap,id=n,ifname={guest.tap},script=no,downscript=no,vhost={vhost}"
        command += ["-netdev", net, "-device", "virtio-net-device,netdev=n"]
    return command


SIDES: dict[str, Callable[[Guest], list[str]]] = {"ours": ours, "qemu": qemu}
