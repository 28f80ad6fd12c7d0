"""A disk as `vmm image debian` makes it, and what people do in a guest with one.

    make lab-guests

makes the disk and runs these in the lab, with the others of this folder. Elsewhere
$GLASSVM_DEBIAN is the configuration's file.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vmm
from tests.guest.emulation import HIDDEN
from vmm.cli.config_file import read_config
from vmm.pytest_plugin.console import VmConsole
from vmm.pytest_plugin.machines import VmFactory

CONFIG = Path(os.environ.get("GLASSVM_DEBIAN", "/files/debian.toml"))
PATIENCE = 400
PROMPT = "root@debian:~# "
MIB = 1 << 20
CONNECT_PATIENCE_S = 300
NET, BALLOON = 1, 5
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|virtio.*(fail|broken)"


class Shell:
    """The guest's shell. A machine runs while a command is waited for."""

    def __init__(self, machine: vmm.Machine) -> None:
        self.machine = machine
        self.console = VmConsole(machine)
        self.log_in()

    def log_in(self) -> None:
        """Wait for the prompt."""
        self.console.expect(PROMPT, PATIENCE)
        # Neither an echo nor escapes of a line editor; the prompt is what follows a command.
        self.console.send("stty -echo; bind 'set enable-bracketed-paste off'; PS1=; echo quiet$?\n")
        self.console.expect(r"quiet0\s", PATIENCE)

    def __call__(self, command: str) -> str:
        """Run a command that succeeds; what it wrote."""
        self.console.send(f'{command}; echo "<$?>"\n')
        found = self.console.expect(r"<(\d+)>\s", PATIENCE)
        text = self.console.before.replace("\r", "").strip()
        assert found[1] == "0", f"{command}: status {found[1]}\n{text}"
        return text

    def end(self, command: str) -> str:
        """Run a command that ends the machine; why it ended."""
        self.console.send(f"{command}\n")
        result = self.machine.run(PATIENCE)
        return result.reason


@pytest.fixture
def debian(vm_factory: VmFactory) -> Callable[..., Shell]:
    """Boot the disk up to its shell, with what a test writes to it thrown away."""
    if not CONFIG.is_file():
        pytest.skip(f"no disk {CONFIG}: the head of {Path(__file__).name} says how to make one")
    config: dict[str, Any] = read_config(str(CONFIG))

    def boot(*disks: Path, **more: Any) -> Shell:
        machine = vm_factory(
            config["image"],
            initrd=config["initrd"],
            disks=[f"{config['disk'][0]}:cow", *map(str, disks)],
            append=f"{config['append']} quiet panic=-1",
            cpu=HIDDEN,
            **{"memory": config["memory"], **more},
        )
        return Shell(machine)

    return boot


def test_processors_memory_entropy_and_a_disk_that_keeps_what_is_written(
    debian: Callable[..., Shell], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.img"
    kept.touch()
    os.truncate(kept, 64 * MIB)
    shell = debian(kept, cpus=2, memory="4608M")
    facts = dict(line.split(":", 1) for line in shell("lscpu | cat").splitlines())
    assert facts["CPU(s)"].strip() == "2"
    assert facts["On-line CPU(s) list"].strip() == "0,1"
    assert facts["Hypervisor vendor"].strip() == "KVM"
    assert facts["Virtualization type"].strip() == "full"
    total = int(shell("grep MemTotal /proc/meminfo").split()[1]) >> 10
    assert 4608 * 0.95 < total < 4608
    assert "100000000-" in shell("grep RAM /proc/iomem"), "memory beyond 4 GiB"
    assert shell("findmnt -no FSTYPE,SOURCE /").split() == ["ext4", "/dev/vda"]
    permissions = shell("stat -c '%U:%G %a' /usr/sbin/unix_chkpwd /etc/shadow; id -un")
    assert permissions.split() == ["root:shadow", "2755", "root:shadow", "640", "root"]
    tested = shell("rngtest -c 40 </dev/hwrng 2>&1 || true")  # its status tells of one failure
    good = re.search(r"FIPS 140-2 successes: (\d+)", tested)
    assert good, tested
    assert int(good[1]) >= 38, tested
    shell("mke2fs -q -t ext4 /dev/vdb && mount /dev/vdb /mnt")
    shell("seq 1000000 >/mnt/kept && sync")
    digest = shell("md5sum </mnt/kept")
    assert shell.end("reboot") == "reset"
    shell.machine.close()

    shell = debian(kept)
    shell("mount /dev/vdb /mnt")
    assert shell("md5sum </mnt/kept") == digest
    assert shell("dmesg | grep -c 'EXT4-fs error' || true") == "0"
    # As `vmm stop` does it.
    shell("until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/; do sleep 1; done")
    assert shell.machine.press_power_button()
    assert shell.machine.run(PATIENCE).reason == "poweroff"


def in_background(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


class VsockPeer:
    """The host's end of vsock: the kernel's, or Unix sockets."""

    def __init__(self, unix: Path | None) -> None:
        self.unix = unix
        self.words = "33" if unix is None else f"33,unix={unix}"
        self.said: list[bytes] = []
        if unix is None:
            self.listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            self.listener.bind((socket.VMADDR_CID_HOST, 5000))
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(f"{unix}_5000")
        self.listener.listen()
        self.listener.settimeout(CONNECT_PATIENCE_S)

    def echo(self) -> None:
        """Take one connection of the guest's, and say back what it says."""
        with self.listener:
            peer, _ = self.listener.accept()
        with peer:
            while piece := peer.recv(1 << 16):
                peer.sendall(piece)

    def call(self) -> None:
        """Connect to the guest, say something, and keep the answer."""
        for _ in range(CONNECT_PATIENCE_S * 2):
            with contextlib.suppress(OSError), self._connect() as made:
                made.sendall(b"hello from the host")
                made.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := made.recv(100):
                    answer += piece
                if answer:
                    self.said.append(answer)
                    return
            time.sleep(0.5)

    def _connect(self) -> socket.socket:
        family = socket.AF_VSOCK if self.unix is None else socket.AF_UNIX
        made = socket.socket(family, socket.SOCK_STREAM)
        made.settimeout(CONNECT_PATIENCE_S)
        try:
            made.connect((33, 6000) if self.unix is None else str(self.unix))
            if self.unix is not None:
                made.sendall(b"CONNECT 6000\n")
                if not made.makefile("rb", buffering=0).readline().startswith(b"OK "):
                    raise ConnectionRefusedError
        except BaseException:
            made.close()
            raise
        return made


@pytest.mark.parametrize("vhost", [True, False], ids=["vhost", "without vhost"])
def test_networks_sockets_a_folder_and_a_balloon(
    debian: Callable[..., Shell],
    served: Callable[[str], str],
    uplink: str,
    busybox: Callable[[str], None],
    tmp_path: Path,
    vhost: bool,
) -> None:
    for device in ("/dev/vhost-net", "/dev/vhost-vsock"):
        if vhost and not Path(device).exists():
            pytest.skip(f"no {device}")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "from-host").write_bytes(os.urandom(MIB))
    peer = VsockPeer(None if vhost else tmp_path / "v")
    tap = "tap=gv0,mac=52:54:00:12:34:56" + ("" if vhost else ",vhost=off")
    shell = debian(
        cpus=2,
        net=[tap, "user"],
        vsock=peer.words,
        share=[f"{shared},tag=things"],
        balloon=True,
    )
    cards = [one.device for one in shell.machine.virtio if one.device.device_id == NET]
    assert bool(cards[0].handed_over) is vhost
    busybox("ip addr add 10.9.0.1/24 dev gv0; ip link set gv0 up")
    digest = served("0.0.0.0")

    # A tap of one's own, with the addresses that one gives.
    shell("ip addr add 10.9.0.2/24 dev eth0")
    assert " 0% packet loss" in shell("ping -c 3 -W 20 10.9.0.1")
    assert shell("curl -sS http://10.9.0.1:8000/file | md5sum") == f"{digest}  -"
    assert shell("cat /sys/class/net/eth0/address") == "52:54:00:12:34:56"

    # A network without privileges: the address came by DHCP, the gateway leads to the host.
    shell("for n in $(seq 60); do ip addr show dev eth1 | grep 'inet ' && break; sleep 1; done")
    assert f"inet {uplink}/24" in shell("ip addr show dev eth1")
    assert shell("curl -sS http://192.0.2.1:8000/file | md5sum") == f"{digest}  -"

    in_background(peer.echo)
    assert shell("echo hello | socat -t 300 - VSOCK-CONNECT:2:5000") == "hello"
    calling = in_background(peer.call)
    shell("socat -t 300 VSOCK-LISTEN:6000 EXEC:cat")
    calling.join(10)
    assert peer.said == [b"hello from the host"]

    shell("mount -t virtiofs things /mnt && cp /mnt/from-host /mnt/copy && sync && umount /mnt")
    assert (shared / "copy").read_bytes() == (shared / "from-host").read_bytes()

    (balloon,) = [one.device for one in shell.machine.virtio if one.device.device_id == BALLOON]

    def free() -> int:
        return int(shell("grep MemFree /proc/meminfo").split()[1]) >> 10

    before = free()
    for size in (128 * MIB, 0):
        with shell.machine.lock:
            balloon.resize(size)
        shell("sleep 1")
        for _ in range(30):
            if balloon.actual_bytes == size:
                break
            shell("sleep 1")
        assert balloon.actual_bytes == size
        if size:
            assert before - free() > 100
    assert before - free() < 50

    complaints = shell(f"dmesg | grep -iE '{COMPLAINTS}' || true")
    assert complaints == ""
    assert shell.end("poweroff") == "poweroff"


def test_a_download_goes_on_in_a_restored_machine(
    debian: Callable[..., Shell],
    vm_factory: VmFactory,
    served: Callable[[str], str],
    busybox: Callable[[str], None],
    download_size: int,
) -> None:
    """The state is taken amid a download that is written to the disk; the machine ends there, and
    another one goes on."""
    shell = debian(net=["tap=gv0,vhost=off,rate=1M"])
    busybox("ip addr add 10.9.0.1/24 dev gv0; ip link set gv0 up")
    digest = served("10.9.0.1")
    shell("ip addr add 10.9.0.2/24 dev eth0")
    shell.console.send(
        "(curl -sS http://10.9.0.1:8000/file >got; sync; md5sum <got; echo over) & \n"
    )
    shell("while [ $(stat -c %s got 2>/dev/null || echo 0) -lt 1000000 ]; do sleep 0.1; done")
    received = int(shell("stat -c %s got"))
    snapshot = shell.machine.snapshot()
    shell.machine.close()
    console = VmConsole(vm_factory(snapshot))
    busybox("ip addr add 10.9.0.1/24 dev gv0; ip link set gv0 up")
    found = console.expect(r"([0-9a-f]{32})  -\s+over", PATIENCE)
    assert found[1] == digest
    assert received < download_size
