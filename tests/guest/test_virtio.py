"""Debian's kernel with virtio disks, entropy and console: what it finds, reads and writes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Linux = Callable[..., Any]

TOOLS = "/usr/sbin:/sbin:" + os.environ["PATH"]
"""Where mke2fs and e2fsck are: Debian's, and not busybox's of the same name."""

LOAD = "for module in /modules/*.ko; do insmod $module || echo cannot load $module; done\n"
POWER_OFF = "poweroff -f\n"
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|I/O error|virtio.*(fail|broken)|EXT4-fs error"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An ext4 file system with a file of random bytes."""
    program = shutil.which("mke2fs", path=TOOLS)
    if program is None:
        pytest.skip("no mke2fs (Debian: e2fsprogs)")
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "random").write_bytes(os.urandom(3_000_001))
    path = tmp_path / "disk.img"
    command = [program, "-q", "-t", "ext4", "-d", str(folder), str(path), "24M"]
    subprocess.run(command, check=True, timeout=60)
    return path


SCRIPT = f"""\
{LOAD}
mkdir /mnt
echo facts
for fact in size serial ro cache_type; do echo $(cat /sys/block/vda/$fact); done
cat /sys/block/vdb/ro
cat /sys/class/misc/hw_random/rng_current
echo end of facts
mount -t ext4 /dev/vda /mnt || echo cannot mount
echo sums
md5sum < /mnt/random
cat /mnt/random /mnt/random > /mnt/twice && sync
dd if=/mnt/random of=/mnt/direct bs=64k conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
md5sum < /mnt/twice
md5sum < /mnt/direct
dd if=/dev/hwrng bs=64 count=16 2>/dev/null | wc -c
dd if=/dev/hwrng bs=512 count=1 2>/dev/null | md5sum
dd if=/dev/hwrng bs=512 count=1 2>/dev/null | md5sum
echo end of sums
rm /mnt/twice
umount /mnt
(echo x > /dev/vdb) 2>/dev/null && echo wrote to a read-only disk
echo hello from hvc0 > /dev/hvc0
grep virtio /proc/interrupts
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""


def test_disks_entropy_and_console(
    linux: Linux, modules: Callable[..., Mapping[str, bytes]], image: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    content = (tmp_path / "content/random").read_bytes()
    guest = linux(
        SCRIPT,
        files=modules("virtio_mmio", "virtio_blk", "virtio_rng", "virtio_console", "ext4"),
        disks=[f"{image},serial=S-1,queues=2", f"{other}:ro"],
        virtio_console=True,
        cpus=2,
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    sectors = str(image.stat().st_size // 512)
    facts = guest.between("facts", "end of facts")
    assert facts == [sectors, "S-1", "0", "write back", "1", "virtio_rng.0"]
    sums = [line.split()[0] for line in guest.between("sums", "end of sums")]
    once, twice = hashlib.md5(content).hexdigest(), hashlib.md5(content * 2).hexdigest()
    assert sums[:4] == [once, twice, once, "1024"]
    assert sums[4] != sums[5], "random bytes"
    assert "wrote to a read-only disk" not in guest.text
    assert "hello from hvc0" in guest.text
    assert guest.between("complaints", "end of complaints") == []
    interrupts = re.findall(r"IO-APIC +(\d+)-edge +virtio", guest.text)
    assert interrupts == ["16", "17", "18", "19"]
    blk = guest.machine.virtio[0].device
    assert sum(one.write_bytes for one in blk.counts) >= 3 * len(content)
    assert sum(one.flushes for one in blk.counts) > 0
    assert sum(one.errors for one in blk.counts) == 0
    assert other.read_bytes() == bytes(1 << 20)
    check = [str(shutil.which("e2fsck", path=TOOLS)), "-f", "-n", str(image)]
    done = subprocess.run(check, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout.decode()


UNDER_LOAD = f"""\
{LOAD}
mkdir /mnt
mount -t ext4 /dev/vda /mnt || echo cannot mount
echo ready
n=0
while [ $n -lt 12 ]; do
    dd if=/mnt/random of=/mnt/copy bs=32k conv=fsync 2>/dev/null
    echo 1 > /proc/sys/vm/drop_caches
    echo round $n $(md5sum < /mnt/copy)
    dd if=/dev/hwrng of=/dev/null bs=64 count=4 2>/dev/null
    n=$((n + 1))
done
umount /mnt
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""


def test_a_copy_goes_on_under_load(
    linux: Linux, modules: Callable[..., Mapping[str, bytes]], image: Path, tmp_path: Path
) -> None:
    """Snapshots are taken while the disk is busy; a machine made of the last one loses nothing."""
    import threading

    import vmm

    content = (tmp_path / "content/random").read_bytes()
    taken: list[Any] = []

    def take(machine: Any) -> None:
        def snapshots() -> None:
            for count in (2, 4):
                while f"round {count}" not in machine.console.text:
                    if machine.last_result is not None:
                        return
                    threading.Event().wait(0.05)
                taken.append(machine.snapshot())

        threading.Thread(target=snapshots, daemon=True).start()

    guest = linux(
        UNDER_LOAD,
        files=modules("virtio_mmio", "virtio_blk", "virtio_rng", "ext4"),
        disks=[f"{image}:cow"],
        prepare=take,
    )
    once = hashlib.md5(content).hexdigest()
    rounds = re.findall(r"round (\d+) (\w+)", guest.text)
    assert rounds == [(str(n), once) for n in range(12)], guest.result.report()
    assert len(taken) == 2
    with vmm.restore(taken[-1]) as copy:
        result = copy.run(timeout=150)
        text = copy.console.text
    assert result.reason == "poweroff", result.report()
    rest = re.findall(r"round (\d+) (\w+)", text)
    assert rest
    assert rest == [(str(n), once) for n in range(12 - len(rest), 12)]
    assert text.replace("\r", "").split("complaints\n")[1] == "end of "
