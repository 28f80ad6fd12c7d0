"""A disk and a network card of Linux: how much, and how soon, with the same host behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from linux_sides import SIDES, Guest

from vmm.host.tap import Tap

__all__ = ["FIGURES", "MODULES", "at_the_other_end", "disk_of", "measure", "script"]

MODULES = ("virtio_mmio", "virtio_blk", "virtio_net")
PATIENCE_S = 400
TUNSETPERSIST = 0x4004_54CB
ADDRESS, GUESTS_ADDRESS = "10.9.0.1", "10.9.0.2"
DISK_MIB, DOWNLOAD_MIB, SMALL_READS, PINGS = 64, 16, 400, 60

FIGURES = {
    "disk, read 1M": "MiB/s",
    "disk, write 1M": "MiB/s",
    "disk, one 4K read": "us",
    "net, download": "MiB/s",
    "net, ping": "us",
}
"""What is measured, and its unit: of rates more is better, of times less."""


def script() -> str:
    """What the guest does. Its clock is read before and after, in hundredths of a second;
    O_DIRECT passes the guest's page cache by."""
    return f"""\
for module in /modules/*.ko; do insmod $module || echo cannot load $module; done
ip addr add {GUESTS_ADDRESS}/24 dev eth0 && ip link set eth0 up
now() {{ cut -d " " -f 1 /proc/uptime; }}
timed() {{ what=$1; shift; began=$(now); "$@" 2> /dev/null; echo took $what $began $(now); }}
timed warm dd if=/dev/vda of=/dev/null bs=1M iflag=direct
timed read dd if=/dev/vda of=/dev/null bs=1M iflag=direct
timed write dd if=/dev/zero of=/dev/vda bs=1M count={DISK_MIB} oflag=direct
timed small dd if=/dev/vda of=/dev/null bs=4k count={SMALL_READS} iflag=direct
ping -c 5 -W 10 {ADDRESS} > /dev/null
timed download wget -q -O /dev/null http://{ADDRESS}:8000/file
ping -c {PINGS} -i 0.1 {ADDRESS} | tail -n 1
poweroff -f
"""


def disk_of(folder: Path) -> str:
    """A raw file with content, so that reads are no holes."""
    path = folder / "disk.img"
    path.write_bytes(os.urandom(DISK_MIB << 20))
    return str(path)


@contextlib.contextmanager
def at_the_other_end(tap: str, folder: Path) -> Iterator[None]:
    """A tap that stays where a monitor ends, with an address, and a web server there."""
    (folder / "file").write_bytes(os.urandom(DOWNLOAD_MIB << 20))
    stay(tap, True)
    ip("addr", "add", f"{ADDRESS}/24", "dev", tap)
    ip("link", "set", tap, "up")
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "8000", "--bind", ADDRESS],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, 8000), 1):
                break
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()
        stay(tap, False)


def stay(tap: str, persistent: bool) -> None:
    """Make a tap that outlives who opens it, or let it go."""
    opened = Tap(tap)
    fcntl.ioctl(opened.fd, TUNSETPERSIST, int(persistent))
    opened.close()


def ip(*words: str) -> None:
    """Run busybox's ip, which every lab has."""
    subprocess.run(["busybox", "ip", *words], check=True, timeout=10)


def measure(side: str, guest: Guest) -> dict[str, float]:
    """Boot a guest, which measures and powers off.

    Raises:
        RuntimeError: a figure is missing; the text has what the guest said.
    """
    done = subprocess.run(
        SIDES[side](guest),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
    )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    seconds = {
        what: float(end) - float(start)
        for what, start, end in re.findall(r"^took (\w+) ([\d.]+) ([\d.]+)$", text, re.MULTILINE)
    }
    ping = re.search(r"^round-trip min/avg/max = [\d.]+/([\d.]+)/", text, re.MULTILINE)
    if ping is None or not {"read", "write", "small", "download"} <= seconds.keys():
        raise RuntimeError(f"{side} did not measure:\n{text[-6000:]}")
    return {
        "disk, read 1M": DISK_MIB / seconds["read"],
        "disk, write 1M": DISK_MIB / seconds["write"],
        "disk, one 4K read": seconds["small"] / SMALL_READS * 1e6,
        "net, download": DOWNLOAD_MIB / seconds["download"],
        "net, ping": float(ping[1]) * 1e3,
    }
