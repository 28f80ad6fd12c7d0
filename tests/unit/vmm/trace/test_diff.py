"""Two runs are compared exit by exit, and times do not count."""

from __future__ import annotations

import pytest

from vmm.trace.diff import compare
from vmm.trace.reader import load
from vmm.trace.summary import Key

IO, HLT = 2, 5


@pytest.fixture
def traces(tmp_path, new_writer):
    """Two traces that are written by two functions."""

    def make(*writes, vcpus=1):
        loaded = []
        for number, write in enumerate(writes):
            writer = new_writer(tmp_path / f"{number}", vcpus=vcpus)
            write(writer)
            writer.close()
            loaded.append(load(tmp_path / f"{number}"))
        return compare(*loaded)

    return make


def test_times_and_interrupts_do_not_count(traces):
    found = traces(
        lambda w: w.text(b"abc" * 300),
        lambda w: w.text(b"abc" * 300, guest_ns=7, handler_ns=9, irqs=1),
    )
    assert found.same
    assert (found.counts, found.exits) == ((), (900, 900))


@pytest.mark.parametrize("place", [0, 1, 127, 128, 500])
def test_the_first_other_value(traces, place):
    text = bytes(range(256)) * 2
    changed = bytearray(text)
    changed[place] ^= 0x80
    found = traces(lambda w: w.text(text), lambda w: w.text(changed))
    (parting,) = found.partings
    assert (parting.vcpu, parting.number) == (0, place)
    assert (parting.ours.value, parting.theirs.value) == (text[place], changed[place])
    assert [e.value for e in parting.before] == list(text[max(place - 5, 0) : place])
    assert [e.value for e in parting.ours_next] == list(text[place + 1 : place + 5])
    assert found.counts == ()


@pytest.mark.parametrize("change", [{"address": 1}, {"write": False}, {"size": 2}, {"reason": HLT}])
def test_whatever_else_differs(traces, change):
    found = traces(lambda w: w.exit(), lambda w: w.exit(**change))
    assert [parting.number for parting in found.partings] == [0]


def test_one_goes_on(traces):
    def longer(w):
        w.text(b"ab")
        w.exit(HLT)
        w.text(b"c")

    found = traces(lambda w: w.text(b"ab"), longer)
    (parting,) = found.partings
    assert (parting.number, parting.ours, parting.theirs.name) == (2, None, "HLT")
    assert [e.value for e in parting.theirs_next] == [ord("c")]
    assert found.counts == ((Key(IO, 0x3F8, True), 2, 3), (Key(HLT), 0, 1))
    assert found.exits == (2, 4)


def test_a_byte_deep_in_a_string(traces):
    text = bytes(range(200))
    found = traces(
        lambda w: w.exit(data=text), lambda w: w.exit(data=text[:150] + b"x" + text[151:])
    )
    (parting,) = found.partings
    assert parting.number == 0
    assert parting.ours.data == text
    assert parting.theirs.data[150:151] == b"x"


def test_each_vcpu_for_itself(traces):
    def one(w):
        for number in range(50):
            w.exit(value=number, vcpu=number % 2)

    def other(w):
        for vcpu in (1, 0):  # in another order, and vCPU 1 has more to say
            for number in range(vcpu, 50 + 2 * vcpu, 2):
                w.exit(value=number, vcpu=vcpu)

    found = traces(one, other, vcpus=2)
    assert [(p.vcpu, p.number) for p in found.partings] == [(1, 25)]
