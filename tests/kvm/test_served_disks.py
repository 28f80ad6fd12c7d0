"""Disks that qemu-storage-daemon serves: a guest reads and writes images that are not raw."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys

import pytest

import vmm
from tests.kvm.qcow2 import CLUSTER, SECTORS, write_qcow2
from tests.kvm.virtio_rig import Rig
from vmm.errors import ConfigError, SnapshotError
from vmm.virtio.disks import add_disk

NAME = "qemu-storage-daemon"
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(shutil.which(NAME) is None, reason=f"no {NAME} (qemu-utils)"),
]

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8


@pytest.fixture
def image(tmp_path):
    return write_qcow2(tmp_path / "disk.qcow2")


@pytest.fixture
def served(vm_factory):
    """A machine with a disk, whose guest makes requests: (queue, type, sector, data, room)."""

    def make(text, *requests):
        machine = vm_factory(memory="2M", irqchip=True)
        asked = [
            (queue, struct.pack("<IIQ", kind, 0, sector) + data, room + 1)
            for queue, kind, sector, data, room in requests
        ]
        made = Rig(machine, add_disk(machine, str(text)), asked)
        made.place_guest()
        return made

    return make


def daemon_of(image):
    """The storage daemon that serves an image: its process id, or none."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(NAME.encode()) and str(image).encode() in b" ".join(words):
            return int(pid)
    return None


@contextlib.contextmanager
def serving(image, path, *more):
    """A storage daemon of the user's."""
    words = [NAME, "--blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={image}"]
    export = ("vhost-user-blk,id=e,node-name=n,addr.type=unix", f"addr.path={path}", *more)
    with subprocess.Popen([*words, "--export", ",".join(export)]) as daemon:
        try:
            yield daemon
        finally:
            daemon.terminate()


def test_a_guest_writes_an_image_and_another_reads_it(served, image):
    data = bytes(range(256)) * 4
    writer = served(image, (0, OUT, 7, data, 0), (0, FLUSH, 0, b"", 0), (0, IN, 8, b"", 512))
    assert writer.machine.run(timeout=60).value == 3
    assert writer.answers == [(0, b"\0"), (0, b"\0"), (0, data[512:] + b"\0")]
    assert writer.place.registers.read(0x100, 8) == SECTORS
    assert daemon_of(image)
    writer.machine.close()
    assert daemon_of(image) is None
    assert image.read_bytes()[4 * CLUSTER :].find(data) >= 0
    reader = served(f"{image}:ro", (0, IN, 6, b"", 2048), (0, OUT, 7, data, 0))
    assert reader.machine.run(timeout=60).value == 2
    read, refused = reader.answers
    assert read == (0, bytes(512) + data + bytes(512) + b"\0")
    assert refused[1] == b"\1", "IOERR"


def test_several_queues(served, image):
    made = served(f"{image},queues=3", (2, OUT, 0, b"q" * 512, 0), (1, IN, 0, b"", 512))
    assert made.place.registers.read(0x100 + 34, 2) == 3
    assert made.machine.run(timeout=60).value == 2
    assert made.answers == [(2, b"\0"), (1, b"q" * 512 + b"\0")]


def test_writes_are_cached_as_the_driver_chooses(served, image):
    made = served(image)
    driver = made.driver
    with made.machine.lock:
        assert driver.start(1 << 9 | 1 << 11)  # FLUSH, CONFIG_WCE
        driver.registers.write(0x100 + 32, 1, 0)
        assert driver.registers.read(0x100 + 32, 1) == 0
        assert not driver.read(0x070) & 64
    # The daemon keeps it for the next driver to see.
    assert made.place.device.server.config(33)[32] == 0


def test_a_socket_of_the_users(served, image, tmp_path, until):
    path = tmp_path / "served.sock"
    with pytest.raises(ConfigError, match=r"No such file.*start what serves it first"):
        served(f"vhost-user={path}")
    with serving(image, path) as daemon:
        until(path.exists)
        made = served(f"vhost-user={path},readonly", (0, IN, 0, b"", 512))
        assert made.machine.run(timeout=60).value == 1
        assert made.answers == [(0, bytes(512) + b"\0")]
        made.machine.close()
        assert daemon.poll() is None, "it is the user's"


def test_a_server_that_lets_the_guest_write(served, image, tmp_path, until):
    path = tmp_path / "served.sock"
    with serving(image, path, "writable=on"):
        until(path.exists)
        with pytest.raises(ConfigError, match="serve it read-only"):
            served(f"vhost-user={path},readonly")


@pytest.mark.parametrize("what", ["no image", "another daemon's"])
def test_an_image_that_cannot_be_opened(served, image, what):
    text = f"{image},format=qcow2"
    if what == "no image":
        image.write_bytes(b"none")
        expected = "did not start: .*not in qcow2 format"
    else:
        served(text)
        expected = 'did not start: .*"write" lock'
    with pytest.raises(ConfigError, match=expected) as caught:
        served(text)
    assert "\n" not in str(caught.value)


def test_no_daemon(served, image, monkeypatch):
    monkeypatch.setenv("PATH", str(image.parent))
    with pytest.raises(ConfigError, match="apt install qemu-system-common"):
        served(image)


def test_the_run_says_that_a_daemon_is_gone(served, image, until):
    """The guest waits for its disk; nobody else does."""
    made = served(image, (0, IN, 0, b"", 512))
    told = []
    made.machine.notes.takers.append(told.append)
    os.kill(daemon_of(image), signal.SIGKILL)
    until(lambda: told)
    assert told == ["virtio-blk serves no requests any more: qemu-storage-daemon has gone"]
    assert made.driver.read(0x070) & 64, "DEVICE_NEEDS_RESET"
    result = made.machine.run(timeout=0.5)
    assert result.reason == "timeout"
    assert "qemu-storage-daemon has gone" in result.report()
    with made.machine.lock:
        made.driver.start()
        assert made.driver.read(0x070) & 64, "a reset brings nobody back"


@pytest.mark.command
def test_the_daemon_leaves_with_a_monitor_that_is_killed(image, until):
    program = f"""
import vmm
from vmm.virtio.disks import add_disk
machine = vmm.Machine(irqchip=True)
add_disk(machine, {str(image)!r})
print("there", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as monitor:
        assert monitor.stdout.readline() == b"there\n"
        assert daemon_of(image)
        monitor.kill()
    until(lambda: daemon_of(image) is None)


def test_neither_a_fork_nor_a_copy(vm_factory, image):
    machine = vm_factory("payload:hello64", disks=[str(image)], irqchip=True)
    with pytest.raises((ConfigError, SnapshotError), match="shared with qemu-storage-daemon"):
        machine.fork()
    with (
        machine.snapshot() as snapshot,
        pytest.raises((ConfigError, SnapshotError), match="out of a snapshot"),
    ):
        vmm.restore(snapshot)
    assert machine.run(timeout=30).reason == "halt"


def test_a_boot_sectors_disks_are_raw(vm_factory, image):
    with pytest.raises(ConfigError, match="qcow2 image"):
        vm_factory("payload:bootsector", disks=[str(image)])
