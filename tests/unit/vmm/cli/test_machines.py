"""What `vmm stop` takes for the end of a machine."""

from __future__ import annotations

from typing import Any

import pytest

from vmm.cli import machines
from vmm.cli.options import Options
from vmm.control.client import Client
from vmm.control.protocol import ControlError, GoneError


class Scripted:
    """A client to whom a machine answers as it was written down."""

    name = "m"
    pid = 17

    def __init__(self, *explanations: dict[str, Any] | ControlError) -> None:
        self._explanations = list(explanations)
        self.asked: list[str] = []

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def call(self, op: str) -> dict[str, Any]:
        self.asked.append(op)
        if op != "explanation":
            return {}
        answer = self._explanations.pop(0)
        if isinstance(answer, ControlError):
            raise answer
        return answer


def kill(monkeypatch: pytest.MonkeyPatch, client: Scripted) -> int:
    monkeypatch.setattr(Client, "connect", lambda name: client)
    return machines.kill(Options(name="m"))


@pytest.mark.parametrize("end", [{"reason": "stopped"}, GoneError("m is gone")])
def test_a_machine_that_does_not_answer_has_not_ended(monkeypatch, end) -> None:
    """A device may be at work, on the thread that answers."""
    client = Scripted({}, ControlError("m does not answer within 10 s"), end)
    assert kill(monkeypatch, client) == 0
    assert client.asked == ["stop", *["explanation"] * 3]


def test_one_that_does_not_end_is_told_with_its_process(monkeypatch) -> None:
    monkeypatch.setattr(machines, "_STOP_PATIENCE_S", 0.1)
    client = Scripted(*[ControlError("busy")] * 1000)
    with pytest.raises(ControlError, match=r"^m has not ended within 0\.1 s: its process is 17$"):
        kill(monkeypatch, client)
