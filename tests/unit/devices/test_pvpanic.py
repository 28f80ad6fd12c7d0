"""pvpanic, with its bits declared a second time from QEMU's specification."""

from __future__ import annotations

import pytest

from devices.pvpanic import PORT, PvPanic

PANICKED, CRASH_LOADED, SHUTDOWN = 1, 2, 4


@pytest.fixture
def told():
    return []


@pytest.fixture
def device(told):
    return PvPanic(
        on_panicked=lambda: told.append("panicked"), on_crash_loaded=lambda: told.append("crash")
    )


def test_its_port():
    assert PORT == 0x505


def test_it_reads_as_what_may_be_reported(device, told):
    assert device.read(0, 1) == PANICKED | CRASH_LOADED
    assert told == []


@pytest.mark.parametrize(
    ("value", "events"),
    [
        (PANICKED, ["panicked"]),
        (CRASH_LOADED, ["crash"]),
        (PANICKED | CRASH_LOADED, ["panicked"]),
        (0xFF, ["panicked"]),
        (SHUTDOWN, []),
        (0, []),
        (0xFC, []),
    ],
)
def test_reports(device, told, value, events):
    device.write(0, 1, value)
    assert told == events
    assert device.read(0, 1) == PANICKED | CRASH_LOADED


def test_it_works_without_anybody_to_tell():
    PvPanic().write(0, 1, PANICKED)
    PvPanic().write(0, 1, CRASH_LOADED)
