"""Debian's kernel, tied to its host: a shared folder, sockets and a balloon.

The guest has no programs of its own for these; it runs the host's Python, from the host's root file
system, which it mounts.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import vmm

Linux = Callable[..., Any]
Modules = Callable[..., Mapping[str, bytes]]

LOAD = "for module in /modules/*.ko; do insmod $module || echo cannot load $module; done\n"
POWER_OFF = "poweroff -f\n"
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|virtio.*(fail|broken)"
MIB = 1 << 20


def when(machine: vmm.Machine, words: str, act: Callable[[], object]) -> threading.Thread:
    """Do something once the guest has printed a line."""

    def wait() -> None:
        while f"\n{words}" not in machine.console.text.replace("\r", ""):
            if machine.last_result is not None:
                return
            threading.Event().wait(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


SHARED = f"""\
{LOAD}
mkdir /mnt && mount -t virtiofs things /mnt || echo cannot mount
cat /mnt/greeting
md5sum < /mnt/large
cp /mnt/large /mnt/copy && echo written by the guest > /mnt/answer && sync
ls /mnt
umount /mnt
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""


def test_a_folder_is_shared(linux: Linux, modules: Modules, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "greeting").write_text("hello from the host\n")
    large = os.urandom(3 * MIB + 7)
    (folder / "large").write_bytes(large)
    guest = linux(
        SHARED,
        files=modules("virtio_mmio", "virtiofs"),
        share=[f"{folder},tag=things"],
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    assert "hello from the host" in guest.text
    assert (folder / "answer").read_text() == "written by the guest\n"
    assert (folder / "copy").read_bytes() == large
    assert guest.between("complaints", "end of complaints") == []


TALK = """
import socket, sys
made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
made.connect((2, 5000))
made.sendall(b"hello from the guest")
text = b""
while piece := made.recv(1 << 16):
    text += piece
print("heard", len(text), text[:5].decode(), text == b"12345" * 40_000, flush=True)
made.close()
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 6000))
listener.listen()
print("listening", flush=True)
peer, address = listener.accept()
print("called by", address[0], flush=True)
while piece := peer.recv(1 << 16):
    peer.sendall(piece[::-1])
peer.close()
"""

SOCKETS = f"""\
{LOAD}
mkdir /mnt && mount -t virtiofs root /mnt || echo cannot mount
mount -t devtmpfs dev /mnt/dev
cat > /tmp/talk.py << 'END'
{TALK}
END
cp /tmp/talk.py /mnt/tmp/glassvm-talk.py
chroot /mnt /usr/bin/python3 -I -S /tmp/glassvm-talk.py
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""

LONG = b"12345" * 40_000


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The host's root file system at a place of its own: "/" itself cannot be pivoted to."""
    place = tmp_path / "root"
    place.mkdir()
    if subprocess.run(["mount", "--bind", "/", str(place)], check=False).returncode:
        pytest.skip("no bind mounts for this user")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("kind", ["vhost", "unix"])
def test_sockets(linux: Linux, modules: Modules, root: Path, tmp_path: Path, kind: str) -> None:
    if kind == "vhost" and not Path("/dev/vhost-vsock").exists():
        pytest.skip("no /dev/vhost-vsock")
    path = str(tmp_path / "v")
    heard: list[bytes] = []
    if kind == "vhost":
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((2, 5000))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{path}_5000")
    listener.listen()
    listener.settimeout(150)

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            heard.append(peer.recv(100))
            peer.sendall(LONG)

    def call() -> None:
        if kind == "vhost":
            made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            made.settimeout(60)
            made.connect((33, 6000))
        else:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(60)
            made.connect(path)
            made.sendall(b"CONNECT 6000\n")
            assert made.makefile("rb", buffering=0).readline().startswith(b"OK ")
        with made:
            made.sendall(b"abc")
            heard.append(made.recv(100))

    threads = [threading.Thread(target=answer, daemon=True)]
    threads[0].start()

    guest = linux(
        SOCKETS,
        files=modules("virtio_mmio", "virtiofs", "vmw_vsock_virtio_transport"),
        share=[f"{root},tag=root"],
        vsock="33" if kind == "vhost" else f"33,unix={path}",
        prepare=lambda machine: threads.append(when(machine, "listening", call)),
    )
    listener.close()
    assert guest.result.reason == "poweroff", guest.result.report()
    assert f"heard {len(LONG)} 12345 True" in guest.text, guest.text
    assert "called by 2" in guest.text
    for thread in threads:
        thread.join(60)
    assert heard == [b"hello from the guest", b"cba"]
    assert guest.between("complaints", "end of complaints") == []


BALLOON = f"""\
{LOAD}
free() {{ grep MemFree /proc/meminfo | while read name value unit; do echo $1 $value; done; }}
dd if=/dev/zero of=/tmp/fill bs=1M count=40 2>/dev/null
free filled
rm /tmp/fill
echo inflate; read line
free inflated
echo deflate; read line
free deflated
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""


def test_a_balloon(linux: Linux, modules: Modules) -> None:
    used: list[int] = []
    told: list[Mapping[str, int]] = []

    def prepare(machine: vmm.Machine) -> None:
        balloon = machine.virtio[-1].device

        def blocks() -> int:
            return os.fstat(machine.memory.fd).st_blocks * 512

        def settled(size: int) -> None:
            for _ in range(1200):
                if balloon.actual_bytes == size:
                    break
                threading.Event().wait(0.05)
            used.append(blocks())
            with machine.lock:
                balloon.ask_for_statistics()
            threading.Event().wait(0.5)
            told.append(dict(balloon.statistics))
            machine.console.send(b"\n")

        def resize(size: int) -> None:
            used.append(blocks())
            with machine.lock:
                balloon.resize(size)
            settled(size)

        when(machine, "inflate", lambda: resize(48 * MIB))
        when(machine, "deflate", lambda: resize(0))

    guest = linux(
        BALLOON, files=modules("virtio_mmio", "virtio_balloon"), balloon=True, prepare=prepare
    )
    assert guest.result.reason == "poweroff", guest.result.report()

    def free(when: str) -> int:
        (line,) = [one for one in guest.text.split("\n") if one.startswith(f"{when} ")]
        return int(line.split()[1]) << 10

    before, inflated, _, _ = used
    assert before - inflated > 20 * MIB, used  # it goes back to the host
    assert free("deflated") - free("inflated") > 40 * MIB
    assert told[0]["total"] > 100 * MIB
    assert 0 < told[0]["free"] < told[1]["free"]
    assert guest.between("complaints", "end of complaints") == []
