from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from devices import StateError
from devices.token_bucket import RateLimit, TokenBucket
from devices.virtio.blk import Blk
from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
F_RO, F_FLUSH, F_WCE, F_MQ, F_DISCARD, F_ZEROES = 1 << 5, 1 << 9, 1 << 11, 1 << 12, 1 << 13, 1 << 14
INDIRECT, EVENT_IDX = 1 << 28, 1 << 29
ALL = (1 << 41) - 1
SECTORS = 64
STATUS = 0xEE
"""What lies at a status before it is written."""


class FakeDisk:
    serial = b"a disk"

    def __init__(self, sectors=SECTORS, read_only=False):
        self.sectors, self.read_only = sectors, read_only
        self.data = bytearray(n >> 9 & 0xFF for n in range(sectors * 512))
        self.log = []
        self.broken = False

    def _use(self, *what):
        self.log.append(what)
        if self.broken:
            raise OSError("the host has no more room")

    def read_into(self, offset, buffers):
        size = sum(map(len, buffers))
        self._use("read", offset, size)
        data = self.data[offset : offset + size]
        assert len(data) == size
        for view in buffers:
            view[:] = data[: len(view)]
            del data[: len(view)]

    def write_from(self, offset, buffers):
        data = b"".join(buffers)
        self._use("write", offset, len(data))
        assert offset + len(data) <= len(self.data)
        self.data[offset : offset + len(data)] = data

    def flush(self):
        self._use("flush")

    def discard(self, offset, size):
        self._use("discard", offset, size)

    def zero(self, offset, size, *, unmap):
        self._use("zero", offset, size, unmap)
        self.data[offset : offset + size] = bytes(size)


class Bench:
    def __init__(self, disk=None, wanted=ALL, **options):
        self.disk = disk or FakeDisk()
        self.memory = Ram(1 << 20)
        self.blk = Blk(self.disk, **options)
        self.device = VirtioMmio(self.blk, memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)
        assert self.driver.start(wanted)

    def request(self, kind, sector=0, data=b"", room=0, *, queue=0, parts=None, indirect=False):
        """One request as drivers make them: header, data, status. Returns status, data, used."""
        memory, at = self.memory, self.driver.buffers
        table, header, status, buffer = at, at + 0x800, at + 0x810, at + 0x1000
        memory.write(header, struct.pack("<IIQ", kind, 0, sector))
        memory.write(status, bytes([STATUS]))
        memory.write(buffer, data)
        size = len(data) or room
        pieces = list(split(buffer, size, parts or [size])) if size else []
        readable = [(header, 16), *(pieces if data else [])]
        writable = [*(pieces if room else []), (status, 1)]
        ring = self.driver.queues[queue]
        ring.add(readable, writable, table=table if indirect else None)
        self.driver.notify(queue)
        finished = ring.finished()
        used = finished[0][1] if finished else None
        return memory.read(status, 1)[0], memory.read(buffer, room), used


def split(at, size, parts):
    for part in parts:
        taken = min(part, size)
        if taken:
            yield at, taken
        at, size = at + taken, size - taken
    if size:
        yield at, size


@pytest.fixture
def bench():
    return Bench()


def test_the_configuration_space(bench):
    device = bench.device
    assert device.read(0x008, 4) == 2
    assert device.read(0x100, 8) == SECTORS
    assert device.read(0x10C, 4) == 254
    assert device.read(0x114, 4) == 512
    assert device.read(0x120, 1) == 1
    assert device.read(0x122, 2) == 1
    assert [device.read(0x124 + 4 * n, 4) for n in range(5)] == [1 << 22, 32, 8, 1 << 22, 32]
    assert device.read(0x138, 1) == 1
    offered = bench.driver.offered()
    assert offered & (F_FLUSH | F_WCE | F_MQ | F_DISCARD | F_ZEROES) == (
        F_FLUSH | F_WCE | F_MQ | F_DISCARD | F_ZEROES
    )
    assert not offered & F_RO


def test_sectors_are_read(bench):
    assert bench.request(IN, 3, room=1024) == (OK, b"\3" * 512 + b"\4" * 512, 1025)
    assert bench.request(IN, 0, room=1024, parts=[100, 500], indirect=True) == (
        OK,
        bytes(512) + b"\1" * 512,
        1025,
    )


def test_sectors_are_written(bench):
    data = bytes(range(256)) * 4
    assert bench.request(OUT, 5, data, parts=[7, 1000]) == (OK, b"", 1)
    assert bench.disk.data[5 * 512 : 7 * 512] == data
    assert bench.disk.log == [("write", 5 * 512, 1024)], "there is a cache"


def test_data_goes_without_a_copy(bench):
    seen = []
    bench.disk.read_into = lambda offset, buffers: seen.extend(buffers)
    bench.request(IN, 0, room=512)
    assert seen[0].obj is bench.memory.data


@pytest.mark.parametrize(
    ("kind", "sector", "size"),
    [
        (IN, SECTORS, 512),
        (IN, SECTORS - 1, 1024),
        (IN, (1 << 64) - 1, 512),
        (IN, 0, 511),
        (IN, 0, 513),
        (OUT, SECTORS, 512),
        (OUT, 1 << 55, 512),
        (OUT, 0, 100),
    ],
)
def test_what_is_not_on_the_disk_is_an_error(bench, kind, sector, size):
    more = {"room": size} if kind == IN else {"data": bytes(size)}
    status, _, used = bench.request(kind, sector, **more)
    assert status == IOERR
    assert used == (0 if kind == IN else 1)
    assert bench.disk.log == []
    assert bench.blk.counts[0].errors == 1


def test_nothing_to_read_is_fine(bench):
    assert bench.request(IN, 1)[0] == OK


def test_the_hosts_errors_are_the_guests(bench):
    bench.disk.broken = True
    for kind, more in ((IN, {"room": 512}), (OUT, {"data": bytes(512)}), (FLUSH, {})):
        assert bench.request(kind, **more)[0] == IOERR
    bench.disk.broken = False
    assert bench.request(IN, room=512)[0] == OK


def test_flush(bench):
    assert bench.request(FLUSH) == (OK, b"", 1)
    assert bench.disk.log == [("flush",)]


def test_the_serial_number(bench):
    assert bench.request(GET_ID, room=20) == (OK, b"a disk".ljust(20, b"\0"), 21)
    assert bench.request(GET_ID, room=3) == (OK, b"a d", 4)
    assert bench.request(GET_ID, room=30)[::2] == (OK, 20)


@pytest.mark.parametrize("kind", [2, 3, 7, 10, 14, 0xFFFF_FFFF])
def test_an_unknown_request_is_not_supported(bench, kind):
    assert bench.request(kind, room=8)[0] == UNSUPP
    assert bench.request(IN, room=512)[0] == OK


def segment(sector, count, flags=0):
    return struct.pack("<QII", sector, count, flags)


def test_discard(bench):
    assert bench.request(DISCARD, data=segment(8, 16) + segment(0, 1))[0] == OK
    assert bench.disk.log == [("discard", 4096, 8192), ("discard", 0, 512)]


def test_zeroes(bench):
    assert bench.request(WRITE_ZEROES, data=segment(1, 2, 1) + segment(5, 1))[0] == OK
    assert bench.disk.log == [("zero", 512, 1024, True), ("zero", 2560, 512, False)]
    assert not any(bench.disk.data[512:1536])


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        (DISCARD, segment(0, 1, 1), UNSUPP),
        (WRITE_ZEROES, segment(0, 1, 2), UNSUPP),
        (DISCARD, segment(SECTORS, 1), IOERR),
        (WRITE_ZEROES, segment((1 << 64) - 1, 1), IOERR),
        (WRITE_ZEROES, segment(0, 0xFFFF_FFFF), IOERR),
        (DISCARD, segment(0, 1)[:15], IOERR),
        (DISCARD, b"", IOERR),
        (DISCARD, segment(0, 1) * 33, IOERR),
        (DISCARD, segment(0, 1) + segment(SECTORS, 1), IOERR),
    ],
)
def test_segments_that_cannot_be(bench, kind, data, status):
    assert bench.request(kind, data=data)[0] == status
    assert bench.disk.log == []


def test_what_was_not_agreed_upon_is_not_supported():
    bench = Bench(wanted=0)
    for kind in (DISCARD, WRITE_ZEROES):
        assert bench.request(kind, data=segment(0, 1))[0] == UNSUPP


def test_a_read_only_disk():
    bench = Bench(FakeDisk(read_only=True))
    assert bench.driver.offered() & (F_RO | F_WCE | F_DISCARD | F_ZEROES) == F_RO
    for kind, data in ((OUT, bytes(512)), (DISCARD, segment(0, 1))):
        assert bench.request(kind, data=data)[0] in (IOERR, UNSUPP)
    assert bench.request(OUT, data=bytes(512))[0] == IOERR
    assert bench.request(IN, room=512)[0] == OK
    assert bench.request(FLUSH)[0] == OK
    assert [one[0] for one in bench.disk.log] == ["read", "flush"]


# The cache.


@pytest.mark.parametrize(
    ("wanted", "writeback", "flushed"),
    [
        (0, None, True),
        (F_FLUSH, None, False),
        (F_WCE, 0, True),
        (F_WCE | F_FLUSH, 1, False),
    ],
)
def test_without_a_cache_writes_are_durable(wanted, writeback, flushed):
    bench = Bench(wanted=wanted)
    if writeback is not None:
        assert bench.device.read(0x120, 1) == writeback
    bench.request(OUT, 0, bytes(512))
    assert bench.disk.log == [("write", 0, 512)] + [("flush",)] * flushed


def test_the_driver_switches_the_cache(bench):
    bench.device.write(0x120, 1, 0)
    bench.request(OUT, 0, bytes(512))
    bench.device.write(0x120, 1, 0xFF)
    assert bench.device.read(0x120, 1) == 1
    bench.request(OUT, 0, bytes(512))
    assert [one[0] for one in bench.disk.log] == ["write", "flush", "write"]
    bench.device.write(0x120, 1, 0)
    bench.device.write(0x070, 4, 0)
    assert bench.device.read(0x120, 1) == 1


# Layouts of a request.


def raw(bench, readable, writable):
    bench.driver.queues[0].add(readable, writable)
    bench.driver.notify(0)
    return bench.driver.queues[0].finished()


def test_buffers_may_be_laid_out_in_any_way(bench):
    memory, at = bench.memory, bench.driver.buffers
    memory.write(at, struct.pack("<IIQ", OUT, 0, 2) + b"w" * 512)
    cut = [(at, 5), (at + 5, 4), (at + 9, 300), (at + 309, 219)]
    assert raw(bench, cut, [(at + 0x1000, 1)])[0][1] == 1
    assert memory.read(at + 0x1000, 1) == b"\0"
    assert bench.disk.data[1024:1536] == b"w" * 512
    memory.write(at, struct.pack("<IIQ", IN, 0, 2))
    assert raw(bench, [(at, 16)], [(at + 0x1000, 513)])[0][1] == 513
    assert memory.read(at + 0x1000, 513) == b"w" * 512 + b"\0"


@pytest.mark.parametrize(("readable", "writable"), [(16, 0), (15, 1), (0, 1), (0, 513)], ids=str)
def test_what_is_no_request_needs_a_reset(bench, readable, writable):
    at = bench.driver.buffers
    raw(bench, [(at, readable)] if readable else [], [(at + 64, writable)] if writable else [])
    assert bench.device.read(0x070, 4) & 64
    assert bench.disk.log == []


# Queues, counts, limits.


def test_every_queue_serves():
    bench = Bench(queues=3)
    assert len(bench.driver.queues) == 3
    assert bench.device.read(0x122, 2) == 3
    for number in range(3):
        assert bench.request(IN, number, room=512, queue=number)[0] == OK
    assert [one.reads for one in bench.blk.counts] == [1, 1, 1]


def test_what_was_done_is_counted(bench):
    bench.request(IN, room=1024)
    bench.request(OUT, data=bytes(512))
    bench.request(FLUSH)
    bench.request(GET_ID, room=20)
    bench.request(99)
    counts = bench.blk.counts[0]
    assert (counts.reads, counts.read_bytes, counts.writes, counts.write_bytes) == (1, 1024, 1, 512)
    assert (counts.flushes, counts.other, counts.errors) == (1, 2, 1)
    assert bench.blk.counters() == {
        "reads": 1,
        "read_bytes": 1024,
        "writes": 1,
        "write_bytes": 512,
        "flushes": 1,
        "other": 2,
        "errors": 1,
    }


def test_a_long_batch_is_told_in_between(bench):
    interrupts = []
    bench.device.transport._interrupt = lambda: interrupts.append(1)
    bench = Bench(wanted=0)
    bench.device.transport._interrupt = lambda: interrupts.append(1)
    memory, at = bench.memory, bench.driver.buffers
    memory.write(at, struct.pack("<IIQ", IN, 0, 0))
    bench.memory.write(bench.driver.queues[0].used, b"\1\0")
    for _ in range(21):
        bench.driver.queues[0].add([(at, 16)], [(at + 64, 512), (at + 1000, 1)])
    bench.device.write(0x050, 4, 0)
    assert len(bench.driver.queues[0].finished()) == 21
    assert len(interrupts) == 2


def test_a_limit_lets_requests_wait():
    now, due = [0], []
    limit = RateLimit(TokenBucket(10, 1, clock=lambda: now[0]))
    bench = Bench(limit=limit, later=lambda seconds, call: due.append((seconds, call)))
    assert bench.request(IN, room=512)[0] == OK
    assert bench.request(IN, room=512) == (STATUS, bytes(512), None)
    bench.device.write(0x050, 4, 0)
    assert len(due) == 1, "it is waited for once"
    seconds, go_on = due.pop()
    assert 0 < seconds <= 0.11
    now[0] += 110_000_000
    go_on()
    assert len(bench.driver.queues[0].finished()) == 1


# Snapshots.


def test_a_disk_of_another_size_is_refused(bench):
    state = bench.device.save()
    other = Bench(FakeDisk(sectors=32))
    with pytest.raises(StateError, match="32 here and had 64"):
        other.device.load(state)
    wrong = dataclasses.replace(state, device=("virtio-blk", 1, SECTORS, 2, 0))
    with pytest.raises(StateError):
        bench.device.load(wrong)


class AgainstABytearray(RuleBasedStateMachine):
    """Whatever is read was written last, over resets and copies of the device."""

    @initialize(event=st.booleans(), queues=st.integers(1, 3))
    def begin(self, event, queues):
        self.wanted = ALL if event else ALL & ~EVENT_IDX
        self.bench = Bench(queues=queues, wanted=self.wanted)
        self.model = bytearray(self.bench.disk.data)
        self.queues = queues

    @rule(
        sector=st.integers(0, SECTORS - 1),
        count=st.integers(1, 6),
        parts=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
        queue=st.integers(0, 2),
        indirect=st.booleans(),
    )
    def read(self, sector, count, parts, queue, indirect):
        got = self.bench.request(
            IN, sector, room=count * 512, parts=parts, queue=queue % self.queues, indirect=indirect
        )
        if sector + count > SECTORS:
            assert got[0] == IOERR
        else:
            wanted = bytes(self.model[sector * 512 : (sector + count) * 512])
            assert got == (OK, wanted, count * 512 + 1)

    @rule(
        sector=st.integers(0, SECTORS - 1),
        data=st.binary(min_size=1, max_size=40),
        count=st.integers(1, 6),
        parts=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
        queue=st.integers(0, 2),
        indirect=st.booleans(),
    )
    def write(self, sector, data, count, parts, queue, indirect):
        data = (data * 512)[: count * 512].ljust(count * 512, b"\1")
        got = self.bench.request(
            OUT, sector, data, parts=parts, queue=queue % self.queues, indirect=indirect
        )
        if sector + count > SECTORS:
            assert got[0] == IOERR
        else:
            assert got == (OK, b"", 1)
            self.model[sector * 512 : sector * 512 + len(data)] = data

    @rule(sector=st.integers(0, SECTORS - 1), count=st.integers(0, 8))
    def zero(self, sector, count):
        status = self.bench.request(WRITE_ZEROES, data=segment(sector, count))[0]
        if sector + count <= SECTORS:
            assert status == OK
            self.model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
        else:
            assert status == IOERR

    @rule()
    def copy(self):
        state = self.bench.device.save()
        twin = VirtioMmio(Blk(self.bench.disk, queues=self.queues), memory=self.bench.memory)
        twin.load(state)
        assert twin.save() == state
        self.bench.device = self.bench.driver.registers = twin

    @rule()
    def start_again(self):
        assert self.bench.driver.start(self.wanted)

    @rule(queue=st.integers(0, 2))
    def reset_queue(self, queue):
        driver, number = self.bench.driver, queue % self.queues
        driver.write(0x030, number)
        driver.write(0x0C0, 1)
        assert driver.read(0x044) in (0, 1)
        old = driver.queues[number]
        if not driver.read(0x044):
            driver.queues[number] = driver.set_up(number, old.desc, old.size)

    @invariant()
    def all_is_well(self):
        if hasattr(self, "bench"):
            assert self.bench.device.transport.fault == ""
            assert bytes(self.bench.disk.data) == bytes(self.model)


TestAgainstABytearray = AgainstABytearray.TestCase
TestAgainstABytearray.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
