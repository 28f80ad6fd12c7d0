"""Stops, and files that keep only some exits, on a scripted vCPU."""

from __future__ import annotations

import pytest

from vmm.errors import ConfigError
from vmm.trace import load

HLT, SHUTDOWN = 5, 8
THR, IER, LCR, LSR = 0x3F8, 0x3F9, 0x3FB, 0x3FD


class Names:
    def find(self, name):
        return {"main": 0x1000}.get(name)


@pytest.fixture
def stops(watched, scripted):
    """Run a script with a stop; the sentences of all stops."""

    def run(condition, *script):
        m = watched(*script, HLT)
        found = []
        m.trace.on_stop = lambda vcpu, what, pauses: found.append(
            what.removeprefix(f"{condition}: ")
        )
        m.trace.stop_at(condition)
        m.vcpu.execute()
        return found

    return run


def test_conditions_on_accesses(stops, scripted):
    script = (
        *(scripted.out(THR, 0x41), scripted.ins(LSR), scripted.out(0x80, 0x41)),
        *(scripted.store(0xD000_0FFC, bytes(8)), scripted.out(0x80, 0x0142, 2)),
    )
    out, read, post, store, wide = (
        "vCPU 0, IO out 0x3f8 1b 0x41 'A' com1 THR = 0x41",
        "vCPU 0, IO in 0x3fd 1b 0x60 '`' com1 LSR = THRE|TEMT",
        "vCPU 0, IO out 0x80 1b 0x41 'A'",
        "vCPU 0, MMIO write 0xd0000ffc 8b 0x0",
        "vCPU 0, IO out 0x80 2b 0x142",
    )
    halt = "vCPU 0, HLT"
    assert stops("port=0x3f8-0x3ff", *script) == [
        out.partition(" THR")[0] + " THR/DLL = 0x41",
        read,
    ]
    assert stops("device=com1,read", *script) == [read]
    assert stops("reg=com1.THR", *script) == [out]
    assert stops("reg=com1.LSR&0x20", *script) == [read]
    assert stops("reg=com1.LSR&0x1", *script) == []
    assert stops("reg=com1.LSR&0x60=0x60", *script) == [read]
    assert stops("value=0x41,port=0x80", *script) == [post]
    assert stops("value&0x100", *script) == [wide]
    assert stops("mmio=0xd0001000+4", *script) == [store]
    assert stops("reason=HLT", *script) == [halt]
    assert stops("exits=6", *script) == [halt]
    assert stops("write,exits=3", *script) == [store]
    assert stops("slower=10s", *script) == []
    assert len(stops("slower=1ns", *script)) == 6


def test_a_register_that_depends_on_another(stops, scripted):
    script = (
        *(scripted.out(THR, 1), scripted.out(LCR, 0x80), scripted.out(THR, 2)),
        *(scripted.out(LCR, 3), scripted.out(THR, 3)),
    )
    assert stops("reg=com1.DLL", *script) == ["vCPU 0, IO out 0x3f8 1b 0x2 com1 DLL = 0x2"]
    assert stops("reg=com1.THR=3", *script) == ["vCPU 0, IO out 0x3f8 1b 0x3 com1 THR = 0x3"]


def test_an_element_of_a_string_is_enough(stops, scripted):
    assert len(stops("value=0x62", scripted.outs(THR, b"abc"))) == 1
    assert len(stops("reg=com1.THR=0x62", scripted.outs(THR, b"abc"))) == 1
    assert stops("value=0x64", scripted.outs(THR, b"abc")) == []


def test_a_death_is_not_stopped(watched):
    m = watched(SHUTDOWN)
    m.trace.on_stop = lambda vcpu, what, pauses: pytest.fail(what)
    m.trace.stop_at("reason=SHUTDOWN")
    m.trace.stop_at("exits=1")
    assert m.vcpu.execute().reason == "shutdown"


def test_a_count_begins_anew_behind_a_stop(stops, scripted):
    assert len(stops("port=0x80,exits=2", *(scripted.out(0x80, n) for n in range(5)))) == 2


def test_a_stop_that_was_removed(watched, scripted):
    m = watched(*(scripted.out(0x80, n) for n in range(3)), HLT)
    found = []
    m.trace.on_stop = lambda vcpu, what, pauses: found.append(vcpu)
    stop = m.trace.stop_at("port=0x80")
    m.vcpu.execute(1)
    stop.remove()
    m.vcpu.execute()
    assert found == [0]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("device=com9", "there is no device com9; there are com1"),
        ("reg=com9.LSR", "there is no device com9"),
        ("reg=com1.LSQ", "com1 has no register LSQ; it has RBR, THR"),
        ("rip=main,write", "there is no symbol main; give --symbols FILE"),
        ("potr=1", "'potr=1' is no term"),
    ],
)
def test_what_a_machine_has_not(watched, condition, words):
    m = watched(HLT)
    with pytest.raises(ConfigError) as refused:
        m.trace.stop_at(condition)
    assert words in str(refused.value)


def test_a_symbol_that_is_not_there(watched):
    m = watched(HLT)
    m.symbols = Names()
    with pytest.raises(ConfigError, match="there is no symbol other; the image's symbols"):
        m.trace.stop_at("rip=other,write")


def test_a_file_keeps_only_what_meets_a_condition(watched, scripted, path):
    count = 600  # the ring has 256
    script = [scripted.out(0x80 + n % 3, n & 0xFF) for n in range(count)]
    m = watched(*script, scripted.outs(THR, bytes(range(200))), HLT, path=path)
    m.trace.keep_only("port=0x81-0x3f8,value&0x40")
    m.vcpu.execute()
    m.trace.close()
    trace = load(path)
    assert (trace.notes, trace.lost, trace.finished) == ([], 0, True)
    assert trace.meta["only"] == "port=0x81-0x3f8,value&0x40"
    wanted = [(0x80 + n % 3, n & 0xFF) for n in range(count) if n % 3 and n & 0x40]
    found = list(trace)
    assert [(e.address, e.value) for e in found[:-1]] == wanted
    assert found[-1].data == bytes(range(200))


def test_a_filtered_file_that_was_not_closed_has_the_last_exits_as_well(watched, scripted, path):
    m = watched(*(scripted.out(0x80, n & 0xFF) for n in range(300)), path=path)
    m.trace.keep_only("value=5")
    m.vcpu.execute(300)
    trace = load(path)
    assert [e.value for e in trace] == [5, *(n & 0xFF for n in range(256, 300))]
    assert trace.lost == 0
    m.trace.close()


def test_what_cannot_be_filtered(watched):
    m = watched(HLT)
    with pytest.raises(ConfigError, match="not kept in a file"):
        m.trace.keep_only("write")
