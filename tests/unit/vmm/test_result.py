from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest

from vmm.reasons import Reason
from vmm.result import DEATHS, RunResult

# The contract, declared again.
REASONS = {
    "halt": 0,
    "poweroff": 0,
    "reset": 0,
    "timeout": 124,
    "max_exits": 124,
    "stopped": 130,
    "shutdown": 6,
    "internal_error": 6,
    "fail_entry": 6,
    "panic": 6,
}


def test_the_reasons_are_these():
    assert set(get_args(Reason)) == {*REASONS, "debug_exit"}


@pytest.mark.parametrize(("reason", "status"), REASONS.items())
def test_statuses_are_even(reason, status):
    assert RunResult(reason, 1).status == status
    assert status % 2 == 0


@pytest.mark.parametrize(
    ("value", "status"), [(0, 1), (1, 3), (0x10, 33), (0x7F, 255), (0x80, 1), (0xFFFF_FFFF, 255)]
)
def test_the_guest_chooses_an_odd_status(value, status):
    assert RunResult("debug_exit", 1, value).status == status


def test_a_status_is_an_int():
    assert all(type(RunResult(reason, 1, 0).status) is int for reason in get_args(Reason))


@pytest.mark.parametrize("reason", get_args(Reason))
def test_deaths(reason):
    deaths = {"shutdown", "internal_error", "fail_entry", "panic"}
    assert RunResult(reason, 1).died is (reason in deaths)
    assert (reason in DEATHS) is RunResult(reason, 1).died


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_reason_has_one_line(reason):
    line = RunResult(reason, 3, 0x2A, detail="a detail").summary()
    assert "3 exits" in line
    assert line.endswith(": a detail")
    assert "\n" not in line


def test_one_exit_is_not_1_exits():
    assert RunResult("halt", 1).summary().endswith("after 1 exit")
    assert RunResult("halt", 0).summary().endswith("after 0 exits")


def test_the_value_is_shown():
    assert "0x2a" in RunResult("debug_exit", 1, 0x2A).summary()


def test_without_an_explanation_the_report_is_the_summary():
    result = RunResult("halt", 1)
    assert result.report() == result.summary()
    assert result.explanation() is None


def test_an_explanation_is_the_report():
    text, data = "it died\nof this", {"cause": "this"}
    explanation = SimpleNamespace(text=lambda: text, to_dict=lambda: data)
    result = RunResult("shutdown", 1, autopsy=SimpleNamespace(explanation=explanation))
    assert result.report() == text
    assert result.explanation() == data
    assert "\n" not in result.summary()


def test_results_compare_by_what_happened():
    assert RunResult("halt", 1, autopsy=SimpleNamespace()) == RunResult("halt", 1)
    assert RunResult("halt", 1) != RunResult("halt", 2)
    assert "autopsy" not in repr(RunResult("halt", 1))
