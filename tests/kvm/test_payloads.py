"""Every built-in guest does what its catalogue entry says."""

from __future__ import annotations

import pytest

from firmware.payloads import PAYLOADS

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("name", PAYLOADS)
def test_it_ends_as_catalogued(boot, ring0_is_emulated, name):
    payload = PAYLOADS[name]
    machine = boot(f"payload:{name}", memory=payload.memory)
    machine.console.send(payload.input)
    result = machine.run(timeout=0.2 if payload.ends == "timeout" else 60)
    report = result.report()
    if payload.native_ring0 and ring0_is_emulated:
        assert result.reason == "internal_error", report
        assert result.died
        return
    assert result.reason == payload.ends, report
    assert result.value == payload.status
    assert machine.console.output == payload.console + payload.debugcon
    assert result.died is (payload.ends in ("shutdown", "internal_error"))
    assert report


@pytest.mark.parametrize("name", ["hello16", "hello32", "hello64", "string_io", "bootsector"])
def test_it_does_the_same_ten_times(boot, name):
    seen = set()
    for _ in range(10):
        machine = boot(f"payload:{name}", memory="2M")
        result = machine.run(timeout=60)
        seen.add((result.reason, result.value, result.exits, machine.console.output))
        machine.close()
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["hello64", "string_io", "io_loop16", "mmio", "page_fault"])
def test_the_iterator_sees_what_a_run_counts(boot, name):
    ran = boot(f"payload:{name}", memory="2M").run(timeout=60)
    machine = boot(f"payload:{name}", memory="2M")
    exits = list(machine.exits(timeout=60))
    assert len(exits) == ran.exits == machine.last_result.exits
    assert machine.last_result.reason == ran.reason


def test_the_loops_make_as_many_exits_as_they_are_told(boot):
    for name in ("io_loop16", "io_loop64"):
        machine = boot(f"payload:{name}", memory="2M")
        machine.regs.rcx = 50
        written = []
        machine.on_out(0x10)(lambda value, size, log=written: log.append(value))
        result = machine.run(timeout=60)
        assert (result.reason, result.exits, len(written)) == ("halt", 51, 50)
