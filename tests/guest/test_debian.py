"""A disk as `vmm image debian` makes it, to a login shell and off again, twice.

    vmm image debian build/debian.img --size 400M
    python -m vmm.lab --file build/debian.img --file build/debian.vmlinuz \
        --file build/debian.initrd --file build/debian.toml \
        -- python3 -m pytest -q tests/guest/test_debian.py

Elsewhere than in the lab $GLASSVM_DEBIAN is the configuration's file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vmm
from vmm.cli.config_file import read_config
from vmm.pytest_plugin.console import VmConsole
from vmm.pytest_plugin.machines import VmFactory

CONFIG = Path(os.environ.get("GLASSVM_DEBIAN", "/files/debian.toml"))
PATIENCE = 300
SLOW_HOST = "GLASSVM_LAB" in os.environ
PROMPT = "root@debian:~# "


@pytest.fixture
def debian(vm_factory: VmFactory) -> Callable[..., tuple[vmm.Machine, VmConsole]]:
    """Boot the disk up to its shell."""
    if not CONFIG.is_file():
        pytest.skip(f"no disk {CONFIG}: the head of {Path(__file__).name} says how to make one")
    config: dict[str, Any] = read_config(str(CONFIG))

    def boot(**more: Any) -> tuple[vmm.Machine, VmConsole]:
        machine = vm_factory(
            config["image"],
            initrd=config["initrd"],
            disks=config["disk"],
            append=f"{config['append']} quiet panic=-1",
            # QEMU's AMD-V does not intercept XSETBV: KVM puts back the wrong state. And with page
            # tables of five levels this guest died early there.
            cpu="-xsave,-la57" if SLOW_HOST else "",
            **{"memory": config["memory"], **more},
        )
        console = VmConsole(machine)
        console.expect(PROMPT, PATIENCE)
        return machine, console

    return boot


def test_a_login_shell_a_file_that_is_kept_and_the_power_switched_off(debian) -> None:
    machine, console = debian(cpus=2, memory="4608M")
    console.send('echo "cpus=$(nproc) root=$(findmnt -no FSTYPE,SOURCE / | tr -s " ")"\n')
    console.expect(r"cpus=2 root=ext4 /dev/vda\s", PATIENCE)
    console.send("stat -c '%U:%G %a' /usr/sbin/unix_chkpwd /etc/shadow; id -un\n")
    console.expect(r"root:shadow 2755\s+root:shadow 640\s+root\s", PATIENCE)
    console.send("seq 100000 >kept; sync; sha256sum kept\n")
    digest = console.expect(r"([0-9a-f]{64})  kept", PATIENCE)[1]
    console.expect(PROMPT, PATIENCE)
    console.send("poweroff\n")
    assert machine.run(PATIENCE).reason == "poweroff"
    machine.close()

    machine, console = debian()
    console.send("sha256sum kept; dmesg | grep -c 'EXT4-fs error'\n")
    console.expect(rf"{digest}  kept\s+0\s", PATIENCE)
    console.expect(PROMPT, PATIENCE)
    console.send("reboot\n")
    assert machine.run(PATIENCE).reason == "reset"
