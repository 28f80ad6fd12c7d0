"""A machine on the screen, played by a trace in memory and canned answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devices.uart16550 import Uart16550
from kvm_bindings.structs import kvm_regs, kvm_sregs
from vmm.control.protocol import ControlError, to_text
from vmm.errors import VmmError
from vmm.trace.tables import table_to_data
from vmm.trace.trace import Trace
from vmm.tui.live import LiveSource
from vmm.tui.source import Stopping

IO, EXIT, WRITE = 2, 1, 1
PATIENCE_S = 20.0
CODE = bytes.fromhex("b048 e6e9 f4")  # at 0x7c00: mov al, 'H'; out 0xe9, al; hlt


class FakeClient:
    """What `vmm.control.client.Client` is to the source."""

    name = "tiny"

    def __init__(self) -> None:
        self.trace = Trace(1, None, 1 << 10)
        self.phase = "running"
        self.lcr = 0x03
        self.output = b""
        self.cells = bytes(4000)
        self.counters = {"vm": {"pages": 3}, "vcpu0": {"exits": 10, "halts": 0, "hist": [1, 2]}}
        self.ended: dict[str, Any] = {}
        self.gone = False
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.closed = False

    def exit(self, value: int, port: int = 0x3F8) -> None:
        ring = self.trace.ring(0)
        now = time.monotonic_ns()
        ring.add(now, 5_000, port, value, 0, 2_000, 1, IO, 0, EXIT, 1, WRITE, 0)
        ring.words[3] += 1

    def trace_fd(self) -> int:
        return os.dup(self.trace.memory.fd)

    def call(self, op: str, *, timeout_s: float = 0.0, **arguments: Any) -> dict[str, Any]:
        self.calls.append((op, arguments))
        if self.gone:
            raise ControlError("tiny is gone")
        answer: dict[str, Any] = getattr(self, f"op_{op}")(**arguments)
        return answer

    def close(self) -> None:
        self.closed = True

    def op_info(self) -> dict[str, Any]:
        return {"phase": self.phase, "backend": "kvm_amd", "held_by": "", "image": "payload:x"}

    def op_attend(self) -> dict[str, Any]:
        return {}

    def op_symbols(self, path: str | None) -> dict[str, Any]:
        return {"path": path or "", "bias": 0x1000}

    def op_selected(self) -> dict[str, Any]:
        return {"devices": {"com1": {"LCR": self.lcr}}, "time_ns": time.monotonic_ns()}

    def op_stops(self) -> dict[str, Any]:
        return {"stops": [{"number": 3, "condition": "exits=9", "stopped": 2}]}

    def op_stop_at(self, condition: str) -> dict[str, Any]:
        if condition == "no":
            raise ControlError("condition no: it is none")
        return {"number": 3}

    def op_description(self) -> dict[str, Any]:
        registers = table_to_data(Uart16550.registers)
        com1 = {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8}
        return {"devices": [{**com1, "registers": registers}]}

    def op_console(self, since: int) -> dict[str, Any]:
        return {"data": to_text(self.output[since:]), "end": len(self.output), "start": since}

    def op_screen(self) -> dict[str, Any]:
        return {"columns": 80, "rows": 25, "cells": to_text(self.cells), "cursor": 81,
                "blinks": True}  # fmt: skip

    def op_stats(self) -> dict[str, Any]:
        return self.counters

    def op_explanation(self) -> dict[str, Any]:
        return self.ended

    def op_registers(self) -> dict[str, Any]:
        regs, sregs = kvm_regs(), kvm_sregs()
        regs.rip, regs.rsp, regs.rflags = 0x7C02, 0x7000, 2
        return {"vcpus": [{"regs": to_text(bytes(regs)), "sregs": to_text(bytes(sregs)),
                           "mp_state": 3, "exits": 1}]}  # fmt: skip

    def op_memory(self, gpa: int, size: int) -> dict[str, Any]:
        if gpa >= 0x10000:
            raise ControlError(f"{gpa:#x} is not in guest memory")
        memory = bytearray(0x10000)
        memory[0x7C00 : 0x7C00 + len(CODE)] = CODE
        return {"data": to_text(bytes(memory[gpa : gpa + size]))}

    def op_pause(self) -> dict[str, Any]:
        self.phase = "paused"
        return {"phase": "paused"}

    def op_resume(self) -> dict[str, Any]:
        self.phase = "running"
        return {"phase": "running"}

    def op_step_exit(self, vcpu: int = 0) -> dict[str, Any]:
        self.exit(0x77)
        return {"stepped": True}

    def op_input(self, data: str) -> dict[str, Any]:
        return {}

    def op_save(self, path: str) -> dict[str, Any]:
        raise ControlError("no room")


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def source(client: FakeClient) -> Iterator[LiveSource]:
    made = LiveSource(client)  # type: ignore[arg-type]
    yield made
    made.close()
    assert client.closed


def until(source: LiveSource, condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        source.poll()
        time.sleep(0.01)


def test_exits_come_out_of_shared_memory(source, client):
    for byte in b"hello":
        client.exit(byte)
    source.poll()
    assert source.status.exits == 5
    assert [(row.name, row.count) for row in source.reasons] == [("IO", 5)]
    assert [(row.name, row.where) for row in source.places] == [("com1", "out 0x3f8")]
    entry = source.entry(source.records[-1])
    assert (entry.kind, entry.device, entry.value) == ("IO out", "com1", "0x6f 'o'")
    client.exit(0x21)
    source.poll()
    assert len(source.records) == 6


def test_accesses_are_told_by_what_was_selected_then(client):
    client.exit(0x41)
    client.lcr = 0x83
    source = LiveSource(client)

    def meanings(*accesses):
        for value, port in accesses:
            client.exit(value, port)
        source.poll()
        return [source.entry(record).meaning for record in source.records[-len(accesses) :]]

    # LCR was set before the first exit that is still there.
    assert meanings((0x01, 0x3F8)) == ["DLL = 0x1"]
    assert source.entry(source.records[0]).meaning == "DLL = 0x41"
    assert meanings((0x03, 0x3FB), (0x42, 0x3F8)) == ["LCR = WLS=8", "THR = 0x42"]
    assert source.entry(source.records[0]).meaning == "DLL = 0x41"
    assert [row.what for row in source.places if row.where == "out 0x3f8"] == ["THR = 0x42"]
    # What came meanwhile is lost, and with it what LCR was set to.
    lost = [(n & 0xFF, 0x80) for n in range(2000)]
    assert meanings(*lost, (0x43, 0x3F8))[-1] == "THR/DLL = 0x43"
    assert meanings((0x83, 0x3FB), (0x44, 0x3F8))[-1] == "DLL = 0x44"
    source.close()


def test_what_was_overwritten_is_told(source, client):
    client.exit(1)
    source.poll()
    for value in range(3000):
        client.exit(value & 0xFF)
    source.poll()
    assert source.status.exits == 3001
    assert source.status.lost > 1900
    assert source.status.lost + len(source.records) == 3001


def test_only_what_is_looked_at_is_asked_for(source, client):
    for _ in range(5):
        source.poll()
        time.sleep(0.02)
    asked = {op for op, _ in client.calls}
    assert asked <= {"info", "attend", "symbols", "selected", "description", "explanation"}


def test_the_console_comes_once(source, client):
    source.want(frozenset({"console"}))
    client.output = b"login: "
    seen = bytearray()
    until(source, lambda: seen.extend(source.console()) or seen == b"login: ")
    client.output += b"root"
    until(source, lambda: seen.extend(source.console()) or seen == b"login: root")


def test_registers_are_shown_with_the_instruction(source, client):
    source.want(frozenset({"cpus"}))
    until(source, lambda: source.cpus)
    (view,) = source.cpus
    assert view.state.rip == 0x7C02
    assert view.instruction == "out 0xe9, al"
    assert view.activity == "halted"


def test_counters_of_nothing_are_left_out(source, client):
    source.want(frozenset({"counters"}))
    until(source, lambda: source.counters)
    assert {(c.name, c.value) for c in source.counters} == {("exits", 10), ("vm pages", 3)}


def test_a_page_is_shown_when_something_is_on_it(source, client):
    source.want(frozenset({"page"}))
    until(source, lambda: any(op == "screen" for op, _ in client.calls))
    assert source.page is None
    client.cells = b"H\x07i\x07" + bytes(3996)
    until(source, lambda: source.page)
    assert source.page.rows[0].startswith(b"H\x07i\x07")
    assert source.page.cursor == (1, 1)


def test_pausing_stepping_and_going_on(source, client):
    assert "paused" in source.do("pause").result(PATIENCE_S)
    assert source.status.phase == "paused"
    assert "next exit" in source.do("step_exit").result(PATIENCE_S)
    source.poll()
    assert int(source.records[-1]["value"]) == 0x77
    source.do("resume").result(PATIENCE_S)
    assert source.status.phase == "running"


def test_a_step_pauses_first(source, client):
    source.do("step_exit").result(PATIENCE_S)
    assert [op for op, _ in client.calls if op in ("pause", "step_exit")] == ["pause", "step_exit"]


def test_a_refusal_is_passed_on(source, client):
    with pytest.raises(VmmError, match="no room"):
        source.do("save").result(PATIENCE_S)
    (path,) = (arguments["path"] for op, arguments in client.calls if op == "save")
    assert os.path.isabs(path)
    assert os.path.basename(path).startswith("tiny-")


def test_the_newest_exit_of_a_paused_guest_is_known_best(source, client):
    client.exit(0x41)
    client.exit(0x42)
    source.do("pause").result(PATIENCE_S)
    source.poll()
    titles = [s.title for s in source.detail(source.records[-1]).result(PATIENCE_S)]
    assert titles[:2] == ["the exit", "code around RIP, behind this exit"]
    sections = source.detail(source.records[0]).result(PATIENCE_S)
    assert sections[1].title == "where the vCPU is now"
    code = next(s for s in sections if s.title.startswith("code"))
    assert any(line.startswith("->") and "out 0xe9, al" in line for line in code.lines)


def test_the_end_is_explained(source, client):
    client.phase = "paused"
    client.ended = {"text": "guest died: triple fault", "died": True, "reason": "shutdown"}
    until(source, lambda: source.explanation)
    assert source.explanation == "guest died: triple fault"
    assert (source.status.phase, source.status.note) == ("died", "shutdown")


def test_a_machine_that_goes_away_is_gone(source, client):
    client.exit(1)
    client.gone = True
    until(source, lambda: source.status.phase == "gone")
    assert source.status.exits == 1
    with pytest.raises(VmmError, match="is gone"):
        source.do("pause").result(PATIENCE_S)
    source.type(b"x")


def test_input_goes_to_the_guest(source, client):
    source.type(b"ls\r")
    until(source, lambda: ("input", {"data": to_text(b"ls\r")}) in client.calls)


def test_stops_are_set_and_listed(source, client):
    assert source.do("stop_at", condition="exits=9").result(PATIENCE_S) == "stop 3 is set"
    with pytest.raises(ControlError, match="condition no: it is none"):
        source.do("stop_at", condition="no").result(PATIENCE_S)
    assert source.stops().result(PATIENCE_S) == [Stopping(3, "exits=9", 2)]


def test_names_come_from_the_file_that_the_machine_has(client, tmp_path):
    names = tmp_path / "names.map"
    names.write_text("6c00 T start\n")
    made = LiveSource(client, str(names))
    assert ("symbols", {"path": str(names)}) in client.calls
    made.want(frozenset({"cpus"}))
    until(made, lambda: made.cpus and made.cpus[0].location)
    assert made.cpus[0].location == "start+0x2"  # the machine has moved its image by 0x1000
    made.close()
