from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.driver import DriverQueue, Ram
from devices.virtio.queue import Queue, RingError, Unguarded

SIZE = 8
RINGS = 0x1000
DATA = 0x4000
NEXT, WRITE, INDIRECT = 1, 2, 4


class Pair:
    """Driver and device at one queue."""

    def __init__(self, size=SIZE, *, event_idx=False, indirect=True, memory=None):
        self.memory = memory or Ram(0x10000)
        self.driver = DriverQueue(self.memory, RINGS, size, event_idx=event_idx)
        self.queue = Queue(0, 64)
        self.event_idx, self.indirect = event_idx, indirect
        self.place(size, self.driver.desc, self.driver.avail, self.driver.used)

    def place(self, size, desc, avail, used):
        self.queue.size, self.queue.desc = size, desc
        self.queue.avail, self.queue.used = avail, used

    def attach(self):
        self.queue.attach(
            self.memory, indirect=self.indirect, event_idx=self.event_idx, guard=Unguarded()
        )
        return self

    def pop(self):
        self.queue.refresh()
        return self.queue.pop()


@pytest.fixture
def pair():
    return Pair().attach()


def test_nothing_is_available_at_first(pair):
    assert pair.queue.refresh() == 0
    assert pair.queue.pop() is None


def test_a_chain_has_its_buffers_in_order(pair):
    pair.memory.write(DATA, b"abcdefgh")
    head = pair.driver.add([(DATA, 3), (DATA + 3, 5)], [(DATA + 16, 4), (DATA + 32, 2)])
    chain = pair.pop()
    assert chain.head == head
    assert [bytes(view) for view in chain.readable] == [b"abc", b"defgh"]
    assert chain.read() == b"abcdefgh"
    assert chain.read(4) == b"abcd"
    assert (chain.readable_bytes, chain.writable_bytes) == (8, 6)
    assert chain.write(b"123456789") == 6
    assert pair.memory.read(DATA + 16, 4) == b"1234"
    assert pair.memory.read(DATA + 32, 2) == b"56"
    assert pair.queue.pop() is None


def test_what_is_pushed_is_used(pair):
    first = pair.driver.add([], [(DATA, 4)])
    second = pair.driver.add([], [(DATA + 8, 4)])
    assert pair.queue.refresh() == 2
    chains = list(pair.queue)
    assert [chain.head for chain in chains] == [first, second]
    pair.queue.push(chains[1], 4)
    pair.queue.push(chains[0], 2)
    assert pair.driver.finished() == [(second, 4), (first, 2)]


def test_pop_gives_what_refresh_saw(pair):
    pair.driver.add([], [(DATA, 4)])
    pair.queue.refresh()
    pair.driver.add([], [(DATA, 4)])
    assert len(list(pair.queue)) == 1
    assert pair.queue.refresh() == 1


def test_a_chain_can_be_given_back(pair):
    head = pair.driver.add([], [(DATA, 4)])
    assert pair.pop().head == head
    pair.queue.unpop()
    assert pair.queue.pop().head == head


def test_indices_wrap(pair):
    for number in range(70_000):
        head = pair.driver.add([], [(DATA, 4)])
        chain = pair.pop()
        pair.queue.push(chain, number & 3)
        assert pair.driver.finished() == [(head, number & 3)]
    assert pair.queue.next_avail == pair.queue.next_used == 70_000 & 0xFFFF


def test_an_indirect_table_may_end_a_chain(pair):
    memory, queue = pair.driver.memory, pair.driver
    table = DATA + 0x100
    memory.write(table, struct.pack("<QIHH", DATA + 8, 2, NEXT, 1))
    memory.write(table + 16, struct.pack("<QIHH", DATA + 16, 4, WRITE, 0))
    queue.describe(0, DATA, 3, NEXT, 1)
    queue.describe(1, table, 32, INDIRECT | WRITE)  # the write flag means nothing here
    queue.make_available(0)
    chain = pair.pop()
    assert [len(v) for v in chain.readable] == [3, 2]
    assert [len(v) for v in chain.writable] == [4]


def test_an_empty_buffer_is_none(pair):
    pair.driver.add([(0xFFFF_FFFF_FFFF, 0), (DATA, 1)])
    chain = pair.pop()
    assert [len(v) for v in chain.readable] == [1]


# What no driver may do.


def chain_of(pair, *descriptors, head=0):
    for index, descriptor in enumerate(descriptors):
        pair.driver.describe(index, *descriptor)
    pair.driver.make_available(head)


BAD_CHAINS = {
    "loop": [(DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)],
    "itself": [(DATA, 4, NEXT, 0)],
    "next outside": [(DATA, 4, NEXT, SIZE)],
    "outside of memory": [(0x10000, 4, 0)],
    "half outside": [(0xFFFE, 4, 0)],
    "far outside": [((1 << 64) - 1, 0xFFFF_FFFF, WRITE)],
    "wraps": [((1 << 64) - 2, 4, 0)],
    "write before read": [(DATA, 4, WRITE | NEXT, 1), (DATA, 4, 0)],
    "indirect and next": [(DATA, 16, INDIRECT | NEXT, 1), (DATA, 4, 0)],
    "indirect size": [(DATA, 24, INDIRECT)],
    "indirect empty": [(DATA, 0, INDIRECT)],
    "indirect outside": [(0xFFF0, 32, INDIRECT)],
    "indirect huge": [(DATA, 0xFFFF_FFF0, INDIRECT)],
}


@pytest.mark.parametrize("chain", BAD_CHAINS.values(), ids=BAD_CHAINS)
def test_bad_chains_are_refused(pair, chain):
    chain_of(pair, *chain)
    pair.queue.refresh()
    with pytest.raises(RingError):
        pair.queue.pop()


def test_nested_indirect_tables_are_refused(pair):
    pair.memory.write(DATA, struct.pack("<QIHH", DATA + 16, 16, INDIRECT, 0))
    chain_of(pair, (DATA, 16, INDIRECT))
    with pytest.raises(RingError, match="indirect"):
        pair.pop()


def test_a_loop_in_an_indirect_table_is_refused(pair):
    pair.memory.write(DATA, struct.pack("<QIHH", DATA + 64, 4, NEXT, 0))
    chain_of(pair, (DATA, 16, INDIRECT))
    with pytest.raises(RingError, match="more than 64"):
        pair.pop()


def test_indirect_tables_need_the_feature():
    pair = Pair(indirect=False).attach()
    pair.driver.add([(DATA, 4)], table=DATA + 64)
    with pytest.raises(RingError, match="indirect"):
        pair.pop()


def test_a_chain_of_four_gib_is_refused():
    pair = Pair()
    whole = pair.memory.dma

    def huge(gpa, size, *, write):
        return whole(gpa, min(size, 1 << 12), write=write)

    pair.memory.dma = huge
    pair.attach()
    del pair.memory.dma
    chain_of(pair, (0, 0x8000_0000, WRITE | NEXT, 1), (0, 0x8000_0000, WRITE))
    with pytest.raises(RingError, match="4294967296 bytes"):
        pair.pop()


def test_a_head_outside_is_refused(pair):
    pair.driver.make_available(SIZE)
    with pytest.raises(RingError, match="descriptor 8"):
        pair.pop()


@pytest.mark.parametrize("index", [SIZE + 1, 0x8000, 0xFFFF])
def test_an_index_that_jumps_is_refused(pair, index):
    pair.memory.write(pair.driver.avail + 2, struct.pack("<H", index))
    with pytest.raises(RingError, match="available"):
        pair.queue.refresh()


def test_a_full_queue_is_fine(pair):
    for _ in range(SIZE):
        pair.driver.add([], [(DATA, 4)])
    assert pair.queue.refresh() == SIZE
    assert len(list(pair.queue)) == SIZE


@pytest.mark.parametrize("size", [0, 3, 12, 128, 0xFFFF])
def test_sizes_that_cannot_be(size):
    pair = Pair()
    pair.place(size, RINGS, RINGS + 0x800, RINGS + 0x1000)
    with pytest.raises(RingError, match="size"):
        pair.attach()


@pytest.mark.parametrize(
    "rings",
    [(RINGS + 8, RINGS + 0x800, 0x2000), (RINGS, RINGS + 0x801, 0x2000), (RINGS, 0x1800, 0x2002)],
)
def test_rings_that_are_not_aligned(rings):
    pair = Pair()
    pair.place(SIZE, *rings)
    with pytest.raises(RingError, match="aligned"):
        pair.attach()


@pytest.mark.parametrize(
    "rings",
    [
        (0xFFF0, RINGS, 0x2000),
        (RINGS, 0xFFF0, 0x2000),
        (RINGS, 0x1800, 0xFFC0),
        (1 << 63, 0, 0),
        ((1 << 64) - 16, 0, 0),
    ],
)
def test_rings_outside_of_memory(rings):
    pair = Pair()
    pair.place(SIZE, *rings)
    with pytest.raises(RingError, match="memory"):
        pair.attach()


def test_a_used_ring_in_read_only_memory():
    pair = Pair(memory=Ram(0x10000, readonly=range(0x8000, 0x9000)))
    pair.place(SIZE, 0x8000, 0x8100, 0x8200)
    with pytest.raises(RingError, match="read-only"):
        pair.attach()
    pair.place(SIZE, 0x8000, 0x8100, 0x2000)
    pair.attach()


def test_a_buffer_in_read_only_memory():
    pair = Pair(memory=Ram(0x10000, readonly=range(0x8000, 0x9000))).attach()
    pair.driver.add([(0x8000, 4)])
    assert pair.pop().readable_bytes == 4
    pair.driver.add([], [(0x7FFE, 4)])
    with pytest.raises(RingError, match="read-only"):
        pair.pop()


def test_a_queue_has_a_size_that_can_be():
    for size in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            Queue(0, size)


# Notifications.


def test_flags_suppress_notifications(pair):
    driver, queue = pair.driver, pair.queue
    assert driver.should_notify()
    queue.hush()
    driver.add([], [(DATA, 4)])
    assert not driver.should_notify()
    queue.refresh()
    queue.push(queue.pop(), 0)
    assert not queue.listen()
    driver.add([], [(DATA, 4)])
    assert driver.should_notify()


def test_what_came_too_late_for_a_notification_is_seen(pair):
    pair.queue.hush()
    pair.queue.refresh()
    pair.driver.add([], [(DATA, 4)])
    assert pair.queue.listen()


def test_flags_suppress_interrupts(pair):
    driver, queue = pair.driver, pair.queue
    for wanted in (True, False):
        driver.want_interrupts(wanted)
        driver.add([], [(DATA, 4)])
        queue.push(pair.pop(), 0)
        assert queue.wants_interrupt() == wanted
        assert not queue.wants_interrupt(), "nothing new"


def test_with_event_index_the_driver_notifies_when_asked():
    pair = Pair(event_idx=True).attach()
    driver, queue = pair.driver, pair.queue
    driver.add([], [(DATA, 4)])
    assert driver.should_notify()
    queue.hush()
    for _ in range(3):
        driver.add([], [(DATA, 4)])
        assert not driver.should_notify()
    queue.refresh()
    assert len(list(queue)) == 4
    assert not queue.listen()
    driver.add([], [(DATA, 4)])
    assert driver.should_notify()


def test_with_event_index_the_driver_says_when_to_interrupt():
    pair = Pair(event_idx=True).attach()
    driver, queue = pair.driver, pair.queue
    driver.want_interrupts()  # at the first
    driver.memory.write(driver.avail, struct.pack("<H", 1))  # which means nothing here
    asked = []
    for _ in range(4):
        driver.add([], [(DATA, 4)])
        queue.push(pair.pop(), 0)
        asked.append(queue.wants_interrupt())
    assert asked == [True, False, False, False]
    driver.want_interrupts()
    assert len(driver.finished()) == 4
    driver.want_interrupts()
    for _ in range(3):
        driver.add([], [(DATA, 4)])
    queue.refresh()
    for chain in queue:
        queue.push(chain, 0)
    assert queue.wants_interrupt(), "it lies in between"


@settings(max_examples=200, deadline=None)
@given(new=st.integers(0, 0xFFFF), batch=st.integers(1, 64), event=st.integers(0, 0xFFFF))
def test_an_interrupt_when_the_wanted_index_was_passed(new, batch, event):
    pair = Pair(size=64, event_idx=True).attach()
    pair.queue.next_used, pair.queue.told = new, new - batch & 0xFFFF
    pair.memory.write(pair.driver.avail + 4 + 2 * 64, struct.pack("<H", event))
    passed = {new - n & 0xFFFF for n in range(1, batch + 1)}
    assert pair.queue.wants_interrupt() == (event in passed)


# Whatever lies in memory.


@settings(max_examples=300, deadline=None)
@given(
    junk=st.binary(min_size=16 * SIZE + 64, max_size=16 * SIZE + 64),
    tables=st.binary(max_size=256),
    index=st.integers(0, 0xFFFF),
)
def test_any_rings_end_in_chains_or_an_error(junk, tables, index):
    pair = Pair().attach()
    pair.memory.write(RINGS, junk)
    pair.memory.write(0, tables)
    pair.memory.write(pair.driver.avail + 2, struct.pack("<H", index))
    taken = []
    with contextlib.suppress(RingError):
        pair.queue.refresh()
        for chain in pair.queue:
            taken.append(chain)
            pair.queue.push(chain, 0)
    assert len(taken) <= SIZE
    assert all(len(c.readable) + len(c.writable) <= pair.queue.max_size for c in taken)
