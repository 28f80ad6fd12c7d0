"""Debian's kernel with persistent memory, and with a disk that qemu-storage-daemon serves."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kvm.qcow2 import CLUSTER, write_qcow2

Linux = Callable[..., Any]
Modules = Callable[..., Mapping[str, bytes]]

TOOLS = "/usr/sbin:/sbin:" + os.environ["PATH"]
"""Where mke2fs, e2fsck and debugfs are: Debian's, and not busybox's of the same name."""
LOAD = "for module in /modules/*.ko; do insmod $module || echo cannot load $module; done\n"
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|I/O error|virtio.*(fail|broken)|EXT4-fs error"
END = f"""\
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
poweroff -f
"""


def tool(*command: str) -> bytes:
    program = shutil.which(command[0], path=TOOLS)
    if program is None:
        pytest.skip(f"no {command[0]} (Debian: e2fsprogs)")
    done = subprocess.run([program, *command[1:]], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


PMEM = f"""\
{LOAD}
mkdir /mnt
echo facts
cat /sys/block/pmem0/size /sys/block/pmem0/queue/dax
mount -t ext4 -o dax /dev/pmem0 /mnt || echo cannot mount
md5sum < /mnt/random
echo end of facts
cat /mnt/random /mnt/random > /mnt/twice
echo written by the guest > /mnt/greeting
sync
umount /mnt
{END}"""


def test_persistent_memory(linux: Linux, modules: Modules, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    folder, image = tmp_path / "content", str(tmp_path / "pmem.img")
    folder.mkdir()
    (folder / "random").write_bytes(content)
    tool("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", str(folder), image, "32M")
    guest = linux(
        PMEM, files=modules("virtio_mmio", "virtio_pmem", "nd_pmem", "ext4"), pmem=[image]
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    size, dax, digest = guest.between("facts", "end of facts")
    assert (size, dax) == (str((32 << 20) // 512), "1")
    assert digest.split()[0] == hashlib.md5(content).hexdigest()
    assert guest.between("complaints", "end of complaints") == []
    place = next(one for one in guest.machine.virtio if one.name == "virtio-pmem")
    assert place.counters()["flushes"] > 0
    assert place.counters()["errors"] == 0
    tool("e2fsck", "-f", "-n", image)
    assert tool("debugfs", "-R", "cat /twice", image) == content * 2
    assert tool("debugfs", "-R", "cat /greeting", image) == b"written by the guest\n"


SERVED = f"""\
{LOAD}
echo facts
cat /sys/block/vda/size /sys/block/vda/ro
ls /sys/block/vda/mq | wc -l
dd if=/dev/urandom of=/tmp/random bs=64k count=40 2>/dev/null
md5sum < /tmp/random
dd if=/tmp/random of=/dev/vda bs=64k seek=100 conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/vda bs=64k skip=100 count=40 2>/dev/null | md5sum
echo end of facts
{END}"""


def test_a_disk_of_another_format(linux: Linux, modules: Modules, tmp_path: Path) -> None:
    if shutil.which("qemu-storage-daemon") is None:
        pytest.skip("no qemu-storage-daemon (Debian 12: qemu-system-common)")
    image = write_qcow2(tmp_path / "disk.qcow2", sectors := 1 << 17)
    guest = linux(
        SERVED, files=modules("virtio_mmio", "virtio_blk"), disks=[f"{image},queues=2"], cpus=2
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    size, readonly, queues, *sums = guest.between("facts", "end of facts")
    assert (size, readonly, queues) == (str(sectors), "0", "2")
    assert sums[0] == sums[1]
    assert guest.between("complaints", "end of complaints") == []
    guest.machine.close()
    # Header, tables, and 40 clusters with what the guest wrote.
    assert 44 <= image.stat().st_size // CLUSTER <= 60
