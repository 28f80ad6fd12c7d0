"""Breakpoints on a scripted vCPU: what KVM is asked for, and what becomes of KVM_EXIT_DEBUG."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from kvm_bindings import constants as c
from vmm.breakpoints import Breakpoints
from vmm.errors import ConfigError, LifecycleError
from vmm.layout import MemoryLayout
from vmm.memory import GuestMemory

DEBUG, HLT, SHUTDOWN = 4, 5, 8
ENABLE, STEP, SOFT, HARD, INJECT = 0x1, 0x2, 0x1_0000, 0x2_0000, 0x8_0000
DB, BP = 1, 3


def debug(exception: int, pc: int):
    def step(kvm) -> int:
        struct.pack_into("<2I3Q", kvm.page, 32, exception, 0, pc, 0, 0)
        return DEBUG

    return step


@pytest.fixture
def memory():
    memory = GuestMemory(MemoryLayout.for_size(1 << 20), huge_pages=False)
    memory.write(0x1000, b"\x90" * 0x100)
    yield memory
    memory.close()


@pytest.fixture
def points(rig, memory):
    """Breakpoints over a vCPU on a script; the debug controls that KVM was given."""

    def make(*script, software=False, works=True, in_guest=lambda vcpu: False):
        made = rig(*script)
        kvm = made.kvm
        kvm.asked = []
        kvm.set_guest_debug = lambda wanted: kvm.asked.append(
            (wanted.control, [wanted.arch.debugreg[n] for n in (0, 1, 7)])
        )
        kvm.translate = lambda gva: SimpleNamespace(
            physical_address=gva & 0xFFFFF, valid=gva < 0xFFFF_0000
        )
        kinds = ["hardware", "watch"] * works + ["software"] * software
        found = Breakpoints(
            *([made.vcpu], memory), kinds=lambda: kinds, step_flags=ENABLE | STEP, in_guest=in_guest
        )
        return found, made.vcpu

    return make


def test_constants_are_those_of_kvm():
    assert (c.KVM_GUESTDBG_ENABLE, c.KVM_GUESTDBG_SINGLESTEP) == (ENABLE, STEP)
    assert (c.KVM_GUESTDBG_USE_SW_BP, c.KVM_GUESTDBG_USE_HW_BP) == (SOFT, HARD)
    assert (c.KVM_GUESTDBG_INJECT_BP, c.KVM_EXIT_DEBUG) == (INJECT, DEBUG)


def test_a_debug_register_is_met_stepped_over_and_set_again(points):
    hits = []
    found, vcpu = points(debug(DB, 0x1004), debug(DB, 0x1006), debug(DB, 0x1004), HLT)
    found.add(0x1004, lambda *hit: hits.append(hit))
    point = found.add(0x1010, lambda *hit: hits.append(hit))
    assert vcpu.kvm.asked[-1] == (ENABLE | HARD, [0x1004, 0x1010, 0x40A])
    assert vcpu.execute().reason == "halt"
    assert hits == [(0, 0x1004), (0, 0x1004)]
    assert vcpu.kvm.asked[2:5] == [
        (ENABLE | HARD | STEP, [0x1010, 0, 0x402]),  # over it, with the others in force
        (ENABLE | HARD, [0x1004, 0x1010, 0x40A]),
        (ENABLE | HARD | STEP, [0x1010, 0, 0x402]),
    ]
    found.remove(point)
    found.remove(point)  # twice is no harm
    assert [each.address for each in found] == [0x1004]


def test_the_last_one_that_goes_leaves_nothing(points):
    found, vcpu = points(debug(DB, 0x1004), HLT)
    point = found.add(0x1004, lambda *hit: None)
    assert vcpu.execute(1) is None
    found.remove(point)  # while a step over it is due
    assert vcpu.kvm.asked[-1] == (0, [0, 0, 0])
    assert (len(found), vcpu.on_debug, vcpu.debug.on_step) == (0, None, None)


def test_int3_is_put_into_ram_and_taken_out(points, memory):
    hits, seen = [], []

    def look(kvm):
        seen.append(memory.read(0x1004, 1))
        return debug(DB, 0x1005)(kvm)

    found, vcpu = points(debug(BP, 0x1004), look, debug(BP, 0x1004), HLT, software=True)
    point = found.add(0x1004, lambda *hit: hits.append(hit))
    assert (point.kind, memory.read(0x1003, 3)) == ("software", b"\x90\xcc\x90")
    assert vcpu.kvm.asked == [(ENABLE | SOFT, [0, 0, 0])]
    vcpu.execute(2)
    assert seen == [b"\x90"]
    assert memory.read(0x1004, 1) == b"\xcc"
    vcpu.execute()
    assert hits == [(0, 0x1004)] * 2
    found.remove(point)
    assert memory.read(0x1004, 1) == b"\x90"


def test_code_that_overwrote_an_int3_is_left_alone(points, memory):
    found, _ = points(software=True)
    point = found.add(0x1004, lambda *hit: None)
    memory.write(0x1004, b"\xf4")
    found.remove(point)
    assert memory.read(0x1004, 1) == b"\xf4"


def test_where_there_is_no_ram_a_debug_register_serves(points):
    found, _ = points(software=True)
    assert found.add(0xFFFF_FFF0, lambda *hit: None).kind == "hardware"
    with pytest.raises(ConfigError, match="no RAM to put INT3 into"):
        found.add(0xFFFF_FFF1, lambda *hit: None, "software")


def test_where_nothing_stops_a_guest_that_is_said(points):
    found, vcpu = points(works=False)
    with pytest.raises(ConfigError, match="neither INT3 nor a debug register stops a guest"):
        found.add(0x1004, lambda *hit: None)
    with pytest.raises(ConfigError, match="0x2000: no debug register stops a guest at an access"):
        found.watch(0x2000, 4, lambda *hit: None)
    found, _ = points()
    with pytest.raises(ConfigError, match="0x1004: no INT3 stops a guest on this host; step, or"):
        found.add(0x1004, lambda *hit: None, "software")
    assert (len(found), vcpu.on_debug, vcpu.kvm.asked) == (0, None, [])


def test_four_debug_registers(points):
    found, _ = points()
    for address in range(4):
        found.add(address, lambda *hit: None)
    found.add(3, lambda *hit: None)  # shares one
    with pytest.raises(ConfigError, match="all 4 debug registers are taken"):
        found.add(4, lambda *hit: None)
    assert len(found) == 5


def test_two_at_one_address(points):
    hits = []
    found, vcpu = points(debug(DB, 0x1004), HLT)
    first = found.add(0x1004, lambda *hit: hits.append(1))
    found.add(0x1004, lambda *hit: hits.append(2))
    vcpu.execute(1)
    assert hits == [1, 2]
    found.remove(first)
    assert vcpu.on_debug is not None


def test_an_int3_of_the_guests_own_is_given_back(points, memory):
    memory.write(0x1080, b"\xcc")
    found, vcpu = points(debug(BP, 0x1080), debug(BP, 0x1090), HLT, software=True)
    found.add(0x1004, lambda *hit: pytest.fail("not met"))
    assert vcpu.execute().reason == "halt"
    # At 0x1090 is none any more: a breakpoint that was taken out meanwhile.
    assert vcpu.kvm.asked[1:] == [(ENABLE | SOFT | INJECT, [0, 0, 0])]


def test_a_step_sees_no_breakpoints(points, memory):
    found, vcpu = points(debug(DB, 0x1005), software=True)
    found.add(0x1004, lambda *hit: pytest.fail("not met"))
    found.add(0x1005, lambda *hit: pytest.fail("not met"), "hardware")
    vcpu.debug.step(ENABLE | STEP)
    assert memory.read(0x1004, 1) == b"\x90"
    assert vcpu.kvm.asked[-1] == (ENABLE | STEP | SOFT, [0, 0, 0])
    assert vcpu.execute().exit_reason == DEBUG
    vcpu.debug.step(0)
    assert memory.read(0x1004, 1) == b"\xcc"
    assert vcpu.kvm.asked[-1] == (ENABLE | SOFT | HARD, [0x1005, 0, 0x402])


def test_they_are_changed_while_the_machine_stands_still(points):
    found, _ = points(in_guest=lambda vcpu: True)
    with pytest.raises(LifecycleError, match="pause it"):
        found.add(0x1000, lambda *hit: None)


def test_a_debug_exit_that_nobody_asked_for_still_ends_the_run(rig):
    made = rig(debug(DB, 0x1000))
    assert made.vcpu.execute().detail == "exit DEBUG"


def debug_with(dr6: int, pc: int):
    def step(kvm) -> int:
        struct.pack_into("<2I3Q", kvm.page, 32, DB, 0, pc, dr6, 0)
        return DEBUG

    return step


def test_a_watchpoint_is_a_debug_register_and_told_by_dr6(points):
    hits = []
    script = (debug_with(0b10, 0x1006), debug_with(0b100, 0x1008), debug_with(0b1, 0x1004), HLT)
    found, vcpu = points(*script)
    found.add(0x1004, lambda *hit: hits.append(("break", *hit)))
    writes = found.watch(0x2000, 4, lambda *hit: hits.append(("write", *hit)))
    found.watch(0x3008, 8, lambda *hit: hits.append(("access", *hit)), reads=True)
    # Spec: AMD64 APM vol. 2, "Debug-Control Register (DR7)": R/W 01 and 11, LEN 11 and 10.
    assert vcpu.kvm.asked[-1] == (ENABLE | HARD, [0x1004, 0x2000, 0x42A | 0xD << 20 | 0xB << 24])
    assert vcpu.execute().reason == "halt"
    assert hits == [("write", 0, 0x2000), ("access", 0, 0x3008), ("break", 0, 0x1004)]
    found.remove(writes)
    found.remove(writes)
    assert vcpu.kvm.asked[-1][1][:2] == [0x3008, 0]  # a step over the breakpoint is due


def test_what_no_debug_register_can_watch_is_refused(points):
    found, vcpu = points()
    for address, size in ((0x2001, 2), (0x2000, 3), (0x2004, 8)):
        with pytest.raises(ConfigError, match="give 1, 2, 4 or 8, at a multiple of that"):
            found.watch(address, size, lambda *hit: None)
    point, *_ = (found.watch(0x2000 + n, 1, lambda *hit: None) for n in range(4))
    with pytest.raises(ConfigError, match="all 4 debug registers are taken"):
        found.watch(0x3000, 1, lambda *hit: None)
    found.remove(point)
    found.watch(0x3000, 1, lambda *hit: None)
    assert vcpu.on_debug is not None
