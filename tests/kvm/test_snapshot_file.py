"""What becomes of a snapshot's file when something goes wrong: nothing is lost, one clear line."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vmm
from vmm.snapshot.file import VERSION, read_snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LAB = os.environ.get("GLASSVM_LAB") == "1"
FLIPS = 40 if LAB else 400
CUTS = 20 if LAB else 200
KILLS = 100
SAVE = """
import os, random, signal, sys, time, vmm
from vmm.snapshot.file import read_snapshot
path, chosen = sys.argv[1], random.Random(6)
with vmm.boot("payload:hello64", memory="16M") as machine:
    machine.snapshot(path).close()
replaced = 0
for number in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        machine = vmm.boot("payload:hello64", memory="16M")
        machine.memory.write(0x20_0000, bytes(range(1, 256)) * 4096)
        while True:
            machine.snapshot(path).close()
    before = os.stat(path).st_ino
    time.sleep(chosen.random() / 10)
    read_snapshot(path).close()  # looked at while it is replaced
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    read_snapshot(path).close()
    replaced += os.stat(path).st_ino != before
print("fine" if replaced > 10 else f"replaced {replaced} times only")
"""


def read(path: Path) -> str:
    """The line that a user reads, or "fine"."""
    try:
        read_snapshot(path).close()
    except vmm.SnapshotError as error:
        said = str(error)
    else:
        return "fine"
    assert "\n" not in said
    assert said.startswith(str(path))
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "guest.snap"
    with vmm.boot("payload:hello64", memory="2M") as machine:
        machine.memory.write(0x5_0000, bytes(range(1, 256)) * 100)
        machine.run(max_exits=10)
        machine.snapshot(str(path)).close()
    return path.read_bytes()


def test_a_flipped_bit_anywhere_is_found(whole, tmp_path):
    path = tmp_path / "flipped.snap"
    chosen = random.Random(4)
    data = bytearray(whole)
    manifest_end = data.rindex(b"}") + 1
    places = [chosen.randrange(manifest_end + 8) for _ in range(FLIPS // 2)]
    places += [chosen.randrange(len(data)) for _ in range(FLIPS // 2)]
    for place in [*range(128), *places]:
        data[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        said = read(path)
        assert said != "fine", f"byte {place:#x}"
        data[place] = whole[place]
    path.write_bytes(data)
    assert read(path) == "fine"


def test_a_file_that_is_cut_off_is_refused(whole, tmp_path):
    path = tmp_path / "cut.snap"
    chosen = random.Random(5)
    for size in [*range(0, 128, 8), *(chosen.randrange(len(whole)) for _ in range(CUTS))]:
        path.write_bytes(whole[:size])
        said = read(path)
        assert "not a snapshot" in said or "cut off" in said or "should have" in said, said


def test_a_newer_version_is_told_from_a_damaged_file(whole, tmp_path):
    import hashlib

    path = tmp_path / "newer.snap"
    data = bytearray(whole)
    data[16:20] = (VERSION + 1).to_bytes(4, "little")
    data[96:128] = hashlib.sha256(data[:96]).digest()
    path.write_bytes(data)
    assert f"of version {VERSION + 1}; this glassvm reads version {VERSION}" in read(path)


@pytest.mark.parametrize("content", [b"", b"glassvm", b"\x7fELF" + bytes(500), b"{}"])
def test_other_files_are_no_snapshots(content, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert read(path).endswith("not a snapshot")


def test_a_copy_without_holes_is_as_good(whole, tmp_path):
    path = tmp_path / "dense.snap"
    path.write_bytes(whole)
    with vmm.restore(path) as machine:
        assert machine.run(timeout=60).reason == "halt"


@pytest.mark.command
def test_killed_while_saving_the_old_snapshot_or_the_new_is_there(tmp_path):
    path = tmp_path / "guest.snap"
    done = subprocess.run(
        [sys.executable, "-c", SAVE, path, str(KILLS)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
    with vmm.boot("payload:hello16") as machine:
        machine.snapshot(str(path)).close()
    assert [file.name for file in tmp_path.iterdir()] == ["guest.snap"]  # nor is anything left


def test_a_disk_that_is_full_leaves_what_was_there(whole, tmp_path):
    path = tmp_path / "guest.snap"
    path.write_bytes(whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with vmm.boot("payload:hello64", memory="16M") as machine:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(vmm.SnapshotError, match="not written: File too large"):
                machine.snapshot(str(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert machine.run(timeout=60).reason == "halt"  # the guest has not noticed
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["guest.snap"]


def test_a_folder_that_is_not_there_is_one_line(machine, tmp_path):
    with pytest.raises(vmm.SnapshotError, match="No such file or directory"):
        machine().snapshot(str(tmp_path / "none" / "guest.snap"))


@pytest.mark.command
def test_a_damaged_file_is_one_line_of_the_command(whole, tmp_path):
    path = tmp_path / "guest.snap"
    data = bytearray(whole)
    data[200] ^= 1
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "vmm", "restore", path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == f"vmm: {path}: the snapshot's manifest is damaged\n"


# -- a chain of snapshots -----------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path, bytes]:
    """Three snapshots of a guest, each upon the one before, and what the guest prints after."""
    paths = tmp_path / "one.snap", tmp_path / "two.snap", tmp_path / "three.snap"
    with vmm.boot("payload:hello64", memory="16M") as machine:
        machine.memory.write(0x20_0000, bytes(range(1, 256)) * 4096)
        base = None
        for number, path in enumerate(paths):
            machine.memory.write(0x30_0000 + number * 0x1000, b"mark")
            machine.memory.fill(0x20_0000 + number * 0x1000, 0x1000)  # zeros count as well
            machine.run(max_exits=8)
            machine.snapshot(str(path), base=base).close()
            base = str(path)
        start = machine.console.written
        assert machine.run(timeout=60).reason == "halt"
        rest, _ = machine.console.since(start, 1000)
    return *paths, rest


def test_a_chain_has_what_changed_and_restores_to_all(chain):
    first, second, third, rest = chain
    assert third.stat().st_blocks * 3 < first.stat().st_blocks
    with vmm.restore(third) as machine:
        for number in range(3):
            assert machine.memory.read(0x30_0000 + number * 0x1000, 4) == b"mark"
            assert machine.memory.read(0x20_0000 + number * 0x1000, 4) == bytes(4)
        assert machine.memory.read(0x20_3000, 1) != b"\0"
        assert machine.run(timeout=60).reason == "halt"
        assert machine.console.output == rest
    with vmm.restore(second) as machine:
        assert machine.memory.read(0x30_2000, 4) == bytes(4)


def test_a_base_that_is_gone_or_another_is_named(chain, tmp_path):
    first, second, third, _ = chain
    kept = second.read_bytes()
    second.unlink()
    assert f"builds upon another: {second}: No such file" in read(third)
    with vmm.boot("payload:hello64", memory="16M") as machine:
        machine.snapshot(str(second)).close()
    assert f"builds upon {second}, which is another snapshot by now" in read(third)
    second.write_bytes(kept)
    assert read(third) == "fine"
    damaged = bytearray(first.read_bytes())
    damaged[300] ^= 4
    first.write_bytes(damaged)
    assert "manifest is damaged" in read(third)


def test_what_cannot_be_a_base(chain, tmp_path):
    first, *_ = chain
    path = str(tmp_path / "other.snap")
    with vmm.boot("payload:hello64", memory="2M") as machine:
        with pytest.raises(vmm.SnapshotError, match="laid out otherwise"):
            machine.snapshot(path, base=str(first))
        with machine.snapshot() as held, pytest.raises(vmm.SnapshotError, match="has a file"):
            machine.snapshot(path, base=held)
        with pytest.raises(vmm.ConfigError, match="stands alone"):
            machine.snapshot(base=str(first))
        machine.snapshot(path).close()
        with pytest.raises(vmm.SnapshotError, match="the place of its own base"):
            machine.snapshot(path, base=path)
