"""Several processors: started with INIT and SIPI, bounded, stepped, paused, asleep."""

from __future__ import annotations

import threading

import pytest

import vmm
from vmm.lifecycle import Phase

pytestmark = pytest.mark.kvm

AP_START = 0x8000

# Protected mode. Switch the APIC on, wait for [0x504], send INIT and SIPI to all others, then
# what comes behind.
START_THE_OTHERS = (
    "bb0000e0fe"  # mov ebx, 0xFEE00000
    "c783f0000000ff010000"  # mov dword [ebx+0xF0], 0x1FF
    "f390 803d0405000000 74f5"  # wait: pause; cmp byte [0x504], 0; je wait
    "c7830003000000450c00"  # mov dword [ebx+0x300], 0xC4500
    "f7830003000000100000 75f4"  # pending: test dword [ebx+0x300], 0x1000; jnz pending
    "c7830003000008460c00"  # mov dword [ebx+0x300], 0xC4608
)
HALT_FOR_GOOD = "fa f4 ebfc"
# Real mode. Wait for [0x500], then exit with 5.
WAIT_AND_EXIT = "31c0 8ed8 f390 803e000500 74f7 b005 e6f4" + HALT_FOR_GOOD


@pytest.fixture
def smp(boot):
    def make(cpus):
        return boot("payload:smp", memory="2M", cpus=cpus)

    return make


@pytest.fixture
def pair(machine):
    """Two processors: code for the first, and for the second in real mode at AP_START."""

    def make(first, second):
        m = machine(first, "protected", cpus=2, irqchip=True)
        m.memory.write(AP_START, bytes.fromhex(second))
        return m

    return make


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("vcpu")]


# -- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_all_processors_start(smp, cpus):
    m = smp(cpus)
    result = m.run(timeout=30)
    assert (result.reason, result.value) == ("debug_exit", 0), result.report()
    numbers = " ".join(str(n) for n in range(cpus))
    assert m.console.text == f"processors: {numbers} all up\n"
    assert threads() == []


def test_ten_starts_are_the_same(smp):
    for _ in range(10):
        m = smp(2)
        result = m.run(timeout=30)
        assert (result.reason, m.console.text) == ("debug_exit", "processors: 0 1 all up\n")
        m.close()


def test_every_processor_knows_its_number_and_how_many_there_are(machine):
    m = machine(cpus=3, irqchip=True)
    for index, vcpu in enumerate(m.vcpus):
        leaf = next(e for e in vcpu.kvm.get_cpuid2() if e.function == 1)
        assert leaf.ebx >> 24 == index
        assert leaf.ebx >> 16 & 0xFF == 3


# -- sleeping ---------------------------------------------------------------------------------


def test_processors_that_were_never_started_do_not_keep_the_machine_awake(machine):
    m = machine("faf4", cpus=4, irqchip=True)
    assert m.run(timeout=20).reason == "halt"
    assert threads() == []


def test_all_halted_is_a_halt(pair):
    m = pair(START_THE_OTHERS + HALT_FOR_GOOD, "b001 a20005" + HALT_FOR_GOOD)
    m.memory.write(0x504, b"\x01")
    result = m.run(timeout=20)
    assert result.reason == "halt", result.report()
    assert m.memory.read(0x500, 1) == b"\x01"


def test_the_first_may_sleep_while_the_second_works(pair, background, until):
    """The second was asleep until the first woke it; from then on it keeps the machine awake."""
    m = pair(START_THE_OTHERS + HALT_FOR_GOOD, WAIT_AND_EXIT)
    run = background(lambda: m.run(timeout=20))
    # Long enough for the second to be known as asleep, and then for the first.
    threading.Event().wait(0.2)
    m.memory.write(0x504, b"\x01")
    threading.Event().wait(0.3)
    m.memory.write(0x500, b"\x01")
    result = run.result()
    assert (result.reason, result.value) == ("debug_exit", 5), result.report()


# -- bounds, stopping, pausing ----------------------------------------------------------------


def test_the_bound_is_of_all_together(pair):
    m = pair(START_THE_OTHERS + "e610 40 ebfb", "e611 40 ebfb")
    m.memory.write(0x504, b"\x01")
    seen = {0x10: 0, 0x11: 0}
    for port in seen:
        m.on_out(port)(lambda value, size, port=port: seen.update({port: seen[port] + 1}))
    for _ in range(3):
        before = sum(seen.values())
        result = m.run(timeout=30, max_exits=100)
        assert result.reason == "max_exits"
        assert 100 <= result.exits <= 102
        assert sum(seen.values()) - before == result.exits
    assert result.status == vmm.ExitStatus.TIMEOUT


def test_counting_sees_every_exit_of_every_processor(pair):
    m = pair(START_THE_OTHERS + "e610 40 ebfb", "e611 40 ebfb")
    m.memory.write(0x504, b"\x01")
    counts = m.count_exits()
    result = m.run(timeout=30, max_exits=300)
    assert counts.total == result.exits


def test_a_timeout_stops_all(pair):
    m = pair(START_THE_OTHERS + "ebfe", "ebfe")
    m.memory.write(0x504, b"\x01")
    assert m.run(timeout=0.2).reason == "timeout"
    assert threads() == []
    assert m.run(timeout=0.1).reason == "timeout"


def test_a_death_of_the_second_ends_all(pair):
    # lidt [0], with a limit of 0; ud2. Where ring 0 is emulated, KVM gives up instead.
    m = pair(START_THE_OTHERS + "ebfe", "0f011e0000 0f0b")
    m.memory.write(0x504, b"\x01")
    result = m.run(timeout=20)
    assert result.reason in ("shutdown", "internal_error"), result.report()
    assert (result.died, result.vcpu) == (True, 1)
    assert "vCPU 1" in result.report()


def test_all_are_paused_together(pair, background, until):
    m = pair(START_THE_OTHERS + "fe0510050000 ebf8", "31c0 8ed8 fe061105 ebfa")
    m.memory.write(0x504, b"\x01")
    run = background(lambda: m.run(timeout=30))
    for _ in range(10):
        for counter in (0x510, 0x511):
            before = m.memory.read(counter, 1)
            until(lambda at=counter, before=before: m.memory.read(at, 1) != before)
        m.pause()
        assert m.phase is Phase.PAUSED
        still = m.memory.read(0x510, 2), [vcpu.regs.rip for vcpu in m.vcpus]
        assert (m.memory.read(0x510, 2), [vcpu.regs.rip for vcpu in m.vcpus]) == still
        m.resume()
    m.stop()
    assert run.result().reason == "stopped"
    assert threads() == []


# -- faults -----------------------------------------------------------------------------------


def test_a_function_that_raises_on_the_second_fails_the_machine(pair):
    m = pair(START_THE_OTHERS + "ebfe", "e611 ebfe")
    m.memory.write(0x504, b"\x01")

    @m.on_out(0x11)
    def broken(value: int, size: int) -> None:
        raise RuntimeError("out of paper")

    with pytest.raises(vmm.DeviceFault, match="out of paper"):
        m.run(timeout=20)
    assert m.phase is Phase.FAILED
    assert threads() == []


def test_registers_that_cannot_be_are_refused_at_once(machine, background):
    m = machine("f4", cpus=2, irqchip=True)
    m.sregs.cr0 = 1 << 31  # paging without protection
    run = background(lambda: m.run(timeout=60))
    with pytest.raises((OSError, vmm.VmmError), match="KVM_SET_SREGS"):
        run.result(10)
    assert threads() == []


# -- exit by exit -----------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [2, 4])
def test_the_iterator_sees_all_processors(smp, background, cpus):
    ran = smp(cpus)
    expected = ran.run(timeout=30)
    m = smp(cpus)
    exits = background(lambda: list(m.exits(timeout=30))).result()
    assert m.last_result.reason == expected.reason == "debug_exit"
    assert m.console.text == ran.console.text
    assert {exit.vcpu for exit in exits} == set(range(cpus))
    assert len(exits) == m.last_result.exits
    text = bytes(exit.value for exit in exits if exit.write and exit.address == 0x3F8)
    assert text == m.console.output


def test_leaving_the_iteration_early(smp, background):
    m = smp(4)

    def leave():
        for exit in m.exits(timeout=30):
            if exit.vcpu == 1:
                break

    background(leave).result(20)
    assert m.phase is Phase.PAUSED
    assert threads() == []
    # And it runs on to its end.
    assert m.run(timeout=30).reason == "debug_exit"
    assert m.console.text == "processors: 0 1 2 3 all up\n"


def test_the_iterator_is_bounded(pair, background):
    m = pair(START_THE_OTHERS + "e610 40 ebfb", "e611 40 ebfb")
    m.memory.write(0x504, b"\x01")
    exits = background(lambda: list(m.exits(timeout=30, max_exits=50))).result()
    assert m.last_result.reason == "max_exits"
    assert 50 <= len(exits) <= 52
    assert {exit.vcpu for exit in exits} == {0, 1}
