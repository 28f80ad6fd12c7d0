"""The run loop, driven by a script instead of KVM: I/O, limits, settling, remembering."""

from __future__ import annotations

import errno

import pytest

# The kernel's numbers, declared again.
EXIT_IO, EXIT_HLT, EXIT_MMIO, EXIT_IRQ_WINDOW, EXIT_SHUTDOWN = 2, 5, 6, 7, 8
EXIT_FAIL_ENTRY, EXIT_INTR, EXIT_INTERNAL_ERROR, EXIT_SYSTEM_EVENT = 9, 10, 17, 24
IMMEDIATE_EXIT, IF_FLAG = 1, 13
RUNNABLE, UNINITIALIZED, HALTED = 0, 1, 3


class Answer:
    """A device that answers everything with one value, fitting or not."""

    name = "answer"

    def __init__(self, value):
        self.value = value

    def read(self, offset, size):
        return self.value

    def write(self, offset, size, value):
        pass

    def reset(self):
        pass


# -- port I/O ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "value"), [(1, 0x12), (2, 0x1234), (4, 0x12345678)])
def test_an_out_reaches_the_device(rig, scripted, size, value):
    made = rig(scripted.out(0x14, value, size), EXIT_HLT)
    assert made.vcpu.execute().reason == "halt"
    assert made.device.log == [("w", 4, size, value)]


@pytest.mark.parametrize(
    ("size", "expected"), [(1, b"\xa0"), (2, b"\xa0\xa1"), (4, b"\xa0\xa1\xa2\xa3")]
)
def test_an_in_gives_the_guest_what_the_device_answers(rig, scripted, size, expected):
    made = rig(scripted.ins(0x14, size), EXIT_HLT)
    made.vcpu.execute()
    assert made.kvm.given == [expected]
    # Not a byte beside it was touched.
    assert made.kvm.page[0x1000 + size] == 0xCC


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("answer", [-1, 1 << 40, 0x1_0000_00FF])
def test_an_answer_too_wide_is_cut(rig, scripted, size, answer):
    made = rig(scripted.ins(0x10, size), scripted.load(0xD000_0000, size), device=Answer(answer))
    made.vcpu.execute(limit=2)
    fitting = answer & ((1 << 8 * size) - 1)
    made.vcpu.settle()
    assert made.kvm.given == [fitting.to_bytes(size, "little")] * 2
    for event in made.vcpu.last_exits():
        assert event.value == fitting
        assert event.data == fitting.to_bytes(size, "little")


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 0x1000 // 4])
def test_a_string_goes_out_element_by_element(rig, scripted, size, count):
    elements = [(n * 0x01030507 + n) & ((1 << 8 * size) - 1) for n in range(count)]
    data = b"".join(element.to_bytes(size, "little") for element in elements)
    made = rig(scripted.outs(0x10, data, size), EXIT_HLT)
    made.vcpu.execute()
    assert made.device.log == [("w", 0, size, element) for element in elements]
    event = made.vcpu.last_exits(2)[0]
    assert (event.count, event.size, event.data) == (count, size, data)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_string_comes_in_element_by_element(rig, scripted, size):
    made = rig(scripted.ins(0x10, size, 5), EXIT_HLT)
    made.vcpu.execute()
    assert made.device.log == [("r", 0, size)] * 5
    assert made.kvm.given == [bytes(0xA0 + lane for lane in range(size)) * 5]


def test_one_exit_of_many_elements_is_as_good_as_many_exits_of_one(rig, scripted):
    whole = rig(scripted.outs(0x10, b"abcd", 2), EXIT_HLT)
    apart = rig(scripted.outs(0x10, b"ab", 2), scripted.outs(0x10, b"cd", 2), EXIT_HLT)
    whole.vcpu.execute()
    apart.vcpu.execute()
    assert whole.device.log == apart.device.log


def test_a_port_that_nobody_claims_reads_as_ones(rig, scripted):
    steps = [scripted.ins(0x99, size) for size in (1, 2, 4)]
    made = rig(*steps, scripted.out(0x99, 0), scripted.ins(0x99, 2, 3), EXIT_HLT)
    assert made.vcpu.execute().reason == "halt"
    assert made.kvm.given == [b"\xff", b"\xff" * 2, b"\xff" * 4, b"\xff" * 6]
    assert made.pio.unclaimed == {(0x99, False): 6, (0x99, True): 1}


# -- MMIO -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_store_and_a_load_reach_the_device(rig, scripted, size):
    data = bytes(range(1, size + 1))
    made = rig(scripted.store(0xD000_0010, data), scripted.load(0xD000_0020, size), EXIT_HLT)
    made.vcpu.execute()
    assert made.device.log == [
        ("w", 0x10, size, int.from_bytes(data, "little")),
        ("r", 0x20, size),
    ]
    assert made.kvm.given == [bytes(0xA0 + lane for lane in range(size))]


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_a_width_that_no_bus_has_goes_out_in_bytes(rig, scripted, size):
    made = rig(scripted.store(0xD000_0010, bytes(range(size))), scripted.load(0xD000_0010, size))
    made.vcpu.execute(limit=2)
    made.vcpu.settle()
    assert made.device.log == [
        *(("w", 0x10 + lane, 1, lane) for lane in range(size)),
        *(("r", 0x10 + lane, 1) for lane in range(size)),
    ]
    assert made.kvm.given == [b"\xa0" * size]


def test_only_the_bytes_that_count_are_taken_from_a_store(rig, scripted):
    def step(kvm):
        kvm.page[32:53] = (
            (0xD000_0000).to_bytes(8, "little") + b"\x11\x22" + b"\xee" * 6 + b"\x02\0\0\0\x01"
        )
        return EXIT_MMIO

    made = rig(step, EXIT_HLT)
    made.vcpu.execute()
    assert made.device.log == [("w", 0, 2, 0x2211)]


def test_an_address_that_nobody_claims_reads_as_ones(rig, scripted):
    made = rig(*(scripted.load(0xE000_0000, size) for size in range(1, 9)), EXIT_HLT)
    made.vcpu.execute()
    assert made.kvm.given == [b"\xff" * size for size in range(1, 9)]


# -- the limit --------------------------------------------------------------------------------


def test_the_limit_is_exact(rig, scripted):
    made = rig(*(scripted.out(0x10, n) for n in range(5)), EXIT_HLT)
    assert made.vcpu.execute(limit=3) is None
    assert (made.vcpu.exits, len(made.device.log)) == (3, 3)
    assert made.vcpu.execute(limit=3) is None
    assert len(made.device.log) == 3
    assert made.vcpu.execute(limit=4) is None
    assert len(made.device.log) == 4
    assert made.vcpu.execute().reason == "halt"
    assert made.vcpu.exits == 6


def test_an_ending_on_the_last_exit_is_not_lost(rig):
    assert rig(EXIT_HLT).vcpu.execute(limit=1).reason == "halt"


# -- settling ---------------------------------------------------------------------------------


def test_a_pending_read_is_finished_before_registers_are_read(rig, scripted):
    made = rig(scripted.ins(0x10, 2), EXIT_HLT)
    made.vcpu.execute(limit=1)
    assert made.kvm.given == []
    made.vcpu.regs.struct()
    assert made.kvm.given == [b"\xa0\xa1"]
    assert list(made.kvm.script) == [EXIT_HLT]
    assert made.control.asked == 0
    # The flag is down again: the next run enters the guest.
    assert made.kvm.page[IMMEDIATE_EXIT] == 0
    assert made.vcpu.execute().reason == "halt"


@pytest.mark.parametrize("make", [lambda s: s.load(0xD000_0000, 4), lambda s: s.out(0x10, 1)])
def test_settling_happens_once(rig, scripted, make):
    made = rig(make(scripted))
    made.vcpu.execute(limit=1)
    before = made.kvm.entries
    made.vcpu.settle()
    made.vcpu.settle()
    assert made.kvm.entries == before + 1


def test_there_is_nothing_to_settle_where_the_guest_stands_between_instructions(rig):
    made = rig(EXIT_HLT)
    made.vcpu.settle()
    assert made.kvm.entries == 0
    made.vcpu.execute()
    made.vcpu.settle()
    assert made.kvm.entries == 1


def test_an_interrupted_run_is_settled(rig, scripted):
    made = rig(scripted.ins(0x10), -errno.EINTR)
    made.vcpu.execute()
    before = made.kvm.entries
    made.vcpu.settle()
    assert made.kvm.entries == before


def test_an_instruction_that_needs_several_exits_is_settled_to_its_end(rig, scripted):
    """KVM finishes `rep ins` in pieces, also where `immediate_exit` is set."""
    made = rig(scripted.ins(0x10, 1, 4), EXIT_HLT)
    made.vcpu.execute(limit=1)
    made.kvm.rest.extend([scripted.ins(0x10, 1, 2), scripted.ins(0x10, 1, 1)])
    made.vcpu.settle()
    assert made.vcpu.exits == 3
    assert made.device.log == [("r", 0, 1)] * 7
    assert list(made.kvm.script) == [EXIT_HLT]
    assert made.kvm.page[IMMEDIATE_EXIT] == 0


# -- remembering ------------------------------------------------------------------------------


def test_last_exits_are_in_order(rig, scripted):
    made = rig(scripted.out(0x10, 0x41), scripted.ins(0x12, 2), scripted.store(0xD0000008, b"\x7f"))
    assert made.vcpu.last_exits() == []
    made.vcpu.execute(limit=3)
    first, second, third = made.vcpu.last_exits()
    assert (first.reason, first.address, first.size, first.count) == (EXIT_IO, 0x10, 1, 1)
    assert (first.write, first.value, first.vcpu) == (True, 0x41, 0)
    assert (second.write, second.value, second.address) == (False, 0xA1A0, 0x12)
    assert (third.reason, third.address, third.value) == (EXIT_MMIO, 0xD0000008, 0x7F)
    assert [event.consistent for event in (first, third)] == [False, False]


def test_last_exits_wrap_around(rig, scripted):
    ring = 1 << 12  # the rig's
    made = rig(*(scripted.out(0x10, n, 2) for n in range(ring + 10)))
    made.vcpu.execute(limit=ring + 10)
    values = [event.value for event in made.vcpu.last_exits(10**6)]
    assert values == list(range(10, ring + 10))
    assert [event.value for event in made.vcpu.last_exits(3)] == [ring + 7, ring + 8, ring + 9]
    assert made.vcpu.last_exits(0) == []
    assert len(made.vcpu.last_exits()) == 64


def test_without_a_ring_nothing_is_remembered(rig, scripted):
    made = rig(scripted.out(0x10, 1), EXIT_HLT, ring=None)
    assert made.vcpu.execute().reason == "halt"
    assert made.vcpu.last_exits() == []
    assert made.vcpu.exits == 2


def test_what_comes_after_an_exit_sees_its_record(rig, scripted):
    made, seen = rig(scripted.out(0x10, 1), scripted.ins(0x11), EXIT_HLT), []
    made.vcpu.call_after(lambda: seen.append((made.vcpu.ring.done, len(made.device.log))))
    made.vcpu.execute()
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 2)]
    assert made.vcpu.last_exits(2)[0].value == 0xA0


def test_a_ring_that_is_full_is_emptied_before_the_guest_goes_on(rig, scripted):
    made, heads = rig(*(scripted.out(0x10, n) for n in range(10)), EXIT_HLT), []

    def full(vcpu):
        heads.append((vcpu.ring.head, made.kvm.entries))
        vcpu.runner.set_limit(vcpu.ring.head + 4)

    made.vcpu.when_full(4, full)
    assert made.vcpu.execute().reason == "halt"
    assert heads == [(4, 4), (8, 8)]
    assert len(made.device.log) == 10
    assert made.vcpu.exits == 11
