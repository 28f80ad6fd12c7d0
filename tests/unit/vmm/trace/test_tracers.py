"""Tracers on a scripted vCPU: which hook is called with what and when, and mistakes in them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from devices.registers import Register, RegisterTable, When
from vmm.decode import registers_in
from vmm.errors import ConfigError
from vmm.lifecycle import Phase

HLT = 5
LCR, LSR, THR = 0x3FB, 0x3FD, 0x3F8


class Everything:
    def __init__(self):
        self.seen = []

    def on_exit(self, exit):
        self.seen.append(("exit", exit.name, exit.address))

    def on_pio(self, exit):
        self.seen.append(("pio", exit.address, exit.value))

    def on_mmio(self, exit):
        self.seen.append(("mmio", exit.address, exit.data))

    def on_irq(self, gsi, level):
        self.seen.append(("irq", gsi, level))

    def on_state(self, phase):
        self.seen.append(phase)


class Uart:
    device = "com1"

    def __init__(self):
        self.seen = []

    def w_THR(self, value):
        self.seen.append(("THR", value))

    def w_DLL(self, value, exit):
        self.seen.append(("DLL", value, exit.address))

    def w_DLM(self, value):
        self.seen.append(("DLM", value))

    def w_IER(self, value):
        self.seen.append(("IER", value))

    def r_LSR(self, value, *rest):
        self.seen.append(("LSR", value, len(rest)))


def test_hooks_are_called_for_their_exits_in_order(watched, scripted):
    m = watched(scripted.out(0x80, 7), scripted.load(0xD000_0000, 2), HLT)
    tracer = m.trace.attach(Everything)
    m.vcpu.execute()
    assert tracer.seen == [
        ("exit", "IO", 0x80),
        ("pio", 0x80, 7),
        ("exit", "MMIO", 0xD000_0000),
        ("mmio", 0xD000_0000, b"\xff\xff"),  # what the guest was given, since nobody answers
        ("exit", "HLT", 0),
    ]


def test_a_hook_is_called_without_the_device_lock_before_the_guest_goes_on(watched, scripted):
    m = watched(scripted.out(0x80, 1), scripted.out(0x80, 2), HLT)
    found = []

    class Tracer:
        def on_pio(self, exit):
            taken = []

            def take():
                taken.append(m.lock.acquire(blocking=False))
                if taken[0]:
                    m.lock.release()

            other = threading.Thread(target=take)
            other.start()
            other.join(10)
            found.append((exit.value, taken, m.vcpu.kvm.entries))

    m.trace.attach(Tracer())
    m.vcpu.execute()
    assert found == [(1, [True], 1), (2, [True], 2)]


def test_registers_are_told_by_name(watched, scripted):
    m = watched(scripted.out(THR, 0x41), scripted.ins(LSR), HLT)
    tracer = m.trace.attach(Uart())
    m.vcpu.execute()
    assert tracer.seen == [("THR", 0x41), ("LSR", 0x60, 1)]


def test_a_conditional_register_is_decided_when_the_exit_comes(watched, scripted):
    m = watched(
        *(scripted.out(LCR, 0x80), scripted.out(THR, 0x0C), scripted.out(0x3F9, 1)),
        *(scripted.out(LCR, 0x03), scripted.out(THR, 0x42), scripted.out(0x3F9, 5), HLT),
    )
    tracer = m.trace.attach(Uart())
    m.vcpu.execute()
    assert tracer.seen == [("DLL", 0x0C, THR), ("DLM", 1), ("THR", 0x42), ("IER", 5)]


def test_an_access_that_changes_which_register_it_is(watched, scripted):
    # One access of 4 bytes at 0x3f8 writes THR, IER, FCR and, with its last byte, sets DLAB.
    m = watched(scripted.out(THR, 0x80_00_05_41, 4), HLT)
    tracer = m.trace.attach(Uart())
    m.vcpu.execute()
    assert m.uart.values["LCR"] == 0x80
    assert tracer.seen == [("THR", 0x41), ("IER", 5)]


def test_an_index_and_its_data_in_one_write():
    table = RegisterTable(
        Register("INDEX", 0),
        *(Register(f"R{n}", 1, when=When("INDEX", 0xFF, n)) for n in range(3)),
    )
    found = registers_in(table, 0, 2, True, 0x0702, {"INDEX": 0})
    assert [(register.name, value) for register, value in found] == [("INDEX", 2), ("R2", 7)]
    found = registers_in(table, 0, 2, False, 0x0702, {"INDEX": 0})
    assert [(register.name, value) for register, value in found] == [("INDEX", 2), ("R0", 7)]


def test_every_element_of_a_string_is_told(watched, scripted):
    text = bytes(range(0x20, 0x7F))  # more than a record and a DATA record hold
    m = watched(scripted.outs(THR, text), scripted.out(0x80, 1), HLT)
    tracer = m.trace.attach(Uart())
    all_of_it = m.trace.attach(Everything())
    m.vcpu.execute()
    assert tracer.seen == [("THR", byte) for byte in text]
    assert [what for what in all_of_it.seen if what[0] == "pio"] == [
        ("pio", THR, int.from_bytes(text, "little")),
        ("pio", 0x80, 1),
    ]


def test_events_come_between_exits_by_their_time(watched, scripted):
    def raises(vcpu):
        m.trace.note_irq(4, True)
        return scripted.out(0x80, 1)(vcpu)

    m = watched(raises, HLT)
    tracer = m.trace.attach(Everything())
    m.trace.note_phase(Phase.RUNNING)
    m.vcpu.execute()
    m.trace.note_phase(Phase.PAUSED)
    assert tracer.seen[-1] != Phase.PAUSED
    m.trace.catch_up()
    order = [what if isinstance(what, Phase) else what[0] for what in tracer.seen]
    assert order == [Phase.RUNNING, "irq", "exit", "pio", "exit", Phase.PAUSED]


def test_one_that_raises_is_detached_and_the_rest_goes_on(watched, scripted):
    class Broken:
        def on_pio(self, exit):
            raise ValueError("no\nsuch thing")

    m = watched(scripted.out(0x80, 1), scripted.out(0x80, 2), HLT)
    m.trace.attach(Broken())
    other = m.trace.attach(Everything())
    assert m.vcpu.execute().reason == "halt"
    line = Broken.on_pio.__code__.co_firstlineno + 1
    assert m.reports == [
        f"tracer Broken is detached: on_pio raised at {__file__}:{line}: ValueError: no such thing"
    ]
    assert m.trace.tracers == (other,)
    assert [what[2] for what in other.seen if what[0] == "pio"] == [1, 2]


def test_who_is_detached_hears_no_more_and_the_loop_is_bare_again(watched, scripted):
    m = watched(scripted.out(0x80, 1), scripted.out(0x80, 2), HLT)
    bare = m.vcpu._run
    tracer = m.trace.attach(Uart())
    assert m.vcpu._run.args != bare.args
    everything = m.trace.attach(Everything())
    m.vcpu.execute(1)
    m.trace.detach(everything)
    m.trace.detach(tracer)
    m.trace.detach(tracer)  # twice is no harm
    m.vcpu.execute()
    assert everything.seen == [("exit", "IO", 0x80), ("pio", 0x80, 1)]
    assert m.vcpu._run.args == bare.args


def test_a_hook_may_attach_and_detach(watched, scripted):
    m = watched(*(scripted.out(0x80, n) for n in range(4)), HLT)
    late = Everything()

    class First:
        def on_pio(self, exit):
            if exit.value == 1:
                m.trace.attach(late)
                m.trace.detach(self)

    m.trace.attach(First())
    m.vcpu.execute()
    assert [what[2] for what in late.seen if what[0] == "pio"] == [2, 3]
    assert m.trace.tracers == (late,)


def test_nothing_is_lost_or_told_twice_when_the_ring_wraps(watched, scripted):
    count = 3 * 256 + 5
    m = watched(*(scripted.out(0x80, n & 0xFF) for n in range(count)), HLT)
    tracer = m.trace.attach(Everything())
    m.vcpu.execute()
    assert [what[2] for what in tracer.seen if what[0] == "pio"] == [n & 0xFF for n in range(count)]


def test_a_tracer_of_a_device_that_is_added_later(watched, scripted):
    m = watched(scripted.out(0x2F8, 1), scripted.out(0x2F8, 2), HLT)
    tracer = m.trace.attach(Uart())
    m.vcpu.execute(1)
    m.pio.map(range(0x2F8, 0x300), m.uart, base=0x2F8)
    m.trace.devices_changed()
    m.vcpu.execute()
    assert tracer.seen == [("THR", 2)]


class Empty:
    pass


class Typo:
    def on_poi(self, exit):
        pass


class Nobody:
    def r_LSR(self, value):
        pass


class NoDevice:
    device = "com9"

    def r_LSR(self, value):
        pass


class NoRegister:
    device = "com1"

    def w_LSF(self, value):
        pass


class Odd:
    device = 7


@pytest.mark.parametrize(
    ("tracer", "words"),
    [
        (Empty, "tracer Empty has no hooks"),
        (Typo, "has no use for on_poi; hooks are on_exit, on_pio"),
        (Nobody, 'r_LSR of which device? Give it device = "com1"'),
        (NoDevice, "there is no device com9; there are com1"),
        (NoRegister, "no register LSF of com1 can be written; there are THR, DLL"),
        (Odd, "device = 7: give a name"),
    ],
)
def test_what_is_wrong_with_a_tracer_is_said_when_it_is_attached(watched, tracer, words):
    m = watched(HLT)
    with pytest.raises(ConfigError, match="tracer") as refused:
        m.trace.attach(tracer)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert m.trace.tracers == ()


def test_a_trace_of_no_machine_has_nothing_to_watch(tmp_path: Path, new_writer):
    with pytest.raises(ConfigError, match="no machine"):
        new_writer(None).trace.attach(Everything())
