"""Persistent memory: a guest reads and writes a file in its address space, and has it flushed."""

from __future__ import annotations

import os
import struct

import pytest

import vmm
from tests.kvm.virtio_rig import Rig
from vmm.errors import ConfigError, SnapshotError
from vmm.virtio.pmem import add_pmem

pytestmark = pytest.mark.kvm

SIZE = 2 << 20
START = 1 << 32
TABLE = 0x8000
CODE = bytes.fromhex(
    "48bb0000000001000000"  # mov rbx, START
    "8b03e710"  # mov eax, [rbx]; out 0x10, eax
    "48b8" + b"written!".hex() + "48894308"  # mov rax, ...; mov [rbx + 8], rax
    "8b4308e710"  # mov eax, [rbx + 8]; out 0x10, eax
    "e6f4"  # out 0xF4, al
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pmem.img"
    path.write_bytes(b"file".ljust(SIZE, b"\0"))
    return path


def prepare(machine):
    """Have the guest's code where it starts, and the file mapped to its own address."""
    machine.memory.write(0x10_0000, CODE)
    machine.start_at(0x10_0000, "long")
    (first,) = struct.unpack("<Q", machine.memory.read(machine.sregs.cr3, 8))
    pointers = first & ~0xFFF
    machine.memory.write(pointers + 8 * (START >> 30), struct.pack("<Q", TABLE | 3))
    machine.memory.write(TABLE, struct.pack("<Q", START | 0x83))  # a page of 2 MiB
    machine.seen = []
    if machine.pio.find(0x10) is None:
        machine.on_out(0x10)(
            lambda value, size: machine.seen.append(value.to_bytes(size, "little"))
        )
    return machine


def test_a_guest_reads_and_writes_the_file(vm_factory, file):
    machine = vm_factory(memory="2M", irqchip=True)
    place = add_pmem(machine, str(file))
    assert (place.registers.read(0x100, 8), place.registers.read(0x108, 8)) == (START, SIZE)
    result = prepare(machine).run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert machine.seen == [b"file", b"writ"]
    assert file.read_bytes() == b"file\0\0\0\0written!".ljust(SIZE, b"\0")
    assert result.exits == 3, "no access to it leaves the guest"


def test_a_file_that_is_only_read(vm_factory, file):
    file.chmod(0o400)
    machine = vm_factory(memory="2M", irqchip=True)
    add_pmem(machine, f"{file},readonly")
    assert prepare(machine).run(timeout=30).reason == "debug_exit"
    assert machine.seen == [b"file", bytes(4)], "what is written goes nowhere"
    assert machine.mmio.unclaimed[START + 8, True] == 1
    assert file.read_bytes() == b"file".ljust(SIZE, b"\0")


def test_a_flush_is_on_a_thread_of_its_own(vm_factory, file, monkeypatch):
    machine = vm_factory(memory="2M", irqchip=True)
    place = add_pmem(machine, str(file))
    made = Rig(machine, place, [(0, bytes(4), 4), (0, bytes(4), 4)])
    made.place_guest()
    flushed, synced = [], os.fsync

    def fsync(fd):
        assert not machine.lock._is_owned()
        synced(fd)
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", fsync)
    assert machine.run(timeout=30).value == 2
    assert made.answers == [(0, bytes(4))] * 2
    assert flushed == [str(file)] * 2
    assert place.counters()["flushes"] == 2


def test_several_files_and_devices_that_reach_them(vm_factory, file, tmp_path):
    other = tmp_path / "other.img"
    other.write_bytes(bytes(2 * SIZE))
    machine = vm_factory(memory="2M", irqchip=True)
    add_pmem(machine, str(file))
    place = add_pmem(machine, str(other))
    start = place.registers.read(0x100, 8)
    assert start == START + (128 << 20)
    machine.memory.dma(start, 4, write=True)[:] = b"dma!"
    assert other.read_bytes()[:4] == b"dma!"
    machine.memory.discard(machine.memory.dma(start, 4096, write=True))
    assert other.read_bytes()[:4] == b"dma!", "a balloon gives RAM back, and no files"


def test_a_copy_has_the_file_privately(vm_factory, file):
    machine = prepare(vm_factory("payload:hello64", memory="2M", irqchip=True, pmem=[str(file)]))
    with machine.fork() as copy:
        assert copy.run(timeout=30).reason == "debug_exit"
        assert copy.memory.read(START, 16) == b"file\0\0\0\0written!"
        assert file.read_bytes()[8:16] == bytes(8)
        # What it wrote privately is in its snapshots, and gone in a machine that is reset.
        with copy.snapshot() as later, vmm.restore(later) as third:
            copy.memory.write(START, b"more")
            assert third.memory.read(START, 16) == b"file\0\0\0\0written!"
            copy.reset_to(later)
            assert copy.memory.read(START, 16) == b"file\0\0\0\0written!"
    assert file.read_bytes()[:16] == b"file".ljust(16, b"\0")


def test_a_snapshot_does_not_have_the_file(vm_factory, file, tmp_path):
    machine = vm_factory("payload:hello64", memory="2M", irqchip=True, pmem=[str(file)])
    path = tmp_path / "state"
    with machine.snapshot(str(path)) as snapshot:
        machine.memory.write(START, b"news")
        machine.reset_to(snapshot)
        assert machine.memory.read(START, 4) == b"news", "as on a disk"
    machine.close()
    with vmm.restore(path) as restored:
        assert restored.memory.read(START, 4) == b"news"
    with pytest.raises(SnapshotError, match=f"pmem {file}"):
        vmm.restore(path, disks="shared")
    with vmm.restore(path, disks="shared", trust=True) as restored:
        restored.memory.write(START, b"good")
    assert file.read_bytes()[:4] == b"good"
    os.truncate(file, 2 * SIZE)
    with pytest.raises((ConfigError, SnapshotError), match="the memory is"):
        vmm.restore(path)


@pytest.mark.parametrize("what", ["nothing", "a folder", "empty", "odd", "a pipe"])
def test_files_that_cannot_be(vm_factory, tmp_path, what):
    path = tmp_path / "file"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what != "nothing":
        path.write_bytes(b"" if what == "empty" else bytes(SIZE + 1))
    machine = vm_factory(memory="2M", irqchip=True)
    with pytest.raises(ConfigError, match=f"^--pmem {path}: "):
        add_pmem(machine, str(path))
    assert not machine.virtio
