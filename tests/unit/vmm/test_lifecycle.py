from __future__ import annotations

import pytest

from vmm.errors import ExitStatus, LifecycleError
from vmm.lifecycle import Lifecycle, Phase

# Which phase may follow which, declared again.
FOLLOWS = {
    "created": {"running", "stopped"},
    "running": {"paused", "failed"},
    "paused": {"running", "stopped"},
    "failed": {"stopped"},
    "stopped": set(),
}


def in_phase(phase):
    made = Lifecycle()
    made.phase = phase
    return made


def test_a_life_begins_created():
    assert Lifecycle().phase is Phase.CREATED


def test_the_phases_are_these():
    assert {phase.value for phase in Phase} == set(FOLLOWS)


@pytest.mark.parametrize("old", list(Phase))
@pytest.mark.parametrize("new", list(Phase))
def test_every_transition(old, new):
    life = in_phase(old)
    if new.value in FOLLOWS[old.value]:
        life.to(new)
        assert life.phase is new
    else:
        with pytest.raises(LifecycleError) as caught:
            life.to(new)
        assert old.value in str(caught.value)
        assert new.value in str(caught.value)
        assert life.phase is old


def test_every_phase_leads_to_the_end():
    for phase in Phase:
        seen = {phase.value}
        for _ in Phase:
            seen |= {after for before in seen for after in FOLLOWS[before]}
        assert "stopped" in seen


def test_a_wrong_transition_is_a_fault_of_the_monitor():
    assert LifecycleError("x").status == ExitStatus.VMM_FAULT
