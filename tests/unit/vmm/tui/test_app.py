"""The application, driven by keys and the mouse, without a terminal and without a machine."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual import events

from vmm.tui.app import DETACH, END, PROMPT, ScreenApp
from vmm.tui.source import Status

SNAPSHOTS = Path(__file__).with_name("snapshots")


def compare(name: str, lines: list[str]) -> None:
    """Compare with what was kept; GLASSVM_SNAPSHOTS=new keeps what is there now."""
    path = SNAPSHOTS / f"{name}.txt"
    shown = "\n".join(lines) + "\n"
    if os.environ.get("GLASSVM_SNAPSHOTS") == "new":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (90, 45), (200, 24)])
def test_the_panes_at_some_sizes(drive, source, size):
    async def script(app, press):
        compare("{}x{}".format(*size), await press())

    drive(source, script, size)


@pytest.mark.parametrize("size", [(1, 1), (40, 12), (250, 70)])
def test_no_size_is_refused(drive, source, size):
    async def script(app, press):
        await press("1", "2", "3", "4", "5", "ctrl+a", "w", "w", "question_mark", "escape")
        await app.pilot.resize_terminal(120, 40)
        assert "1 exits" in "\n".join(await press())
        await app.pilot.resize_terminal(*size)
        await press()

    drive(source, script, size)


def test_a_recording_has_a_time_line(drive, recording):
    async def script(app, press):
        compare("recording", await press())
        await press("right", "shift+left", "full_stop", "comma", "0", "ctrl+end")

    drive(recording, script)
    step = 20_000_000
    now = 500_000_000
    assert recording.sought == [now + step, now - 10 * step, now - 1000 * step, now + 1000 * step]
    assert recording.steps == [1, -1]


def test_a_click_on_the_time_line_goes_there(drive, recording):
    async def script(app, press):
        await press()
        await app.pilot.click("#timeline", offset=(60, 0))
        await press()

    drive(recording, script)
    (sought,) = recording.sought
    assert sought == pytest.approx(1_000_000_000, rel=0.05)


def test_help_names_every_key_of_the_footer(drive, source):
    async def script(app, press):
        compare("help", await press("question_mark"))
        await press("escape")
        assert len(app.screen_stack) == 1

    drive(source, script, (110, 50))


def test_pause_and_resume(drive, source):
    async def script(app, press):
        shown = await press("space")
        assert "paused" in shown[0]
        assert app.footer.message == "paused"
        shown = await press("space")
        assert "running" in shown[0]

    drive(source, script)
    assert [name for name, _ in source.done] == ["pause", "resume"]


def test_steps_and_saving(drive, source):
    async def script(app, press):
        await press("s", "i", "S")
        assert app.footer.message == "save done"

    drive(source, script)
    assert [name for name, _ in source.done] == ["step_exit", "step", "save"]


def test_a_refusal_is_a_line(drive, source):
    source.refuses = "the machine is gone"

    async def script(app, press):
        shown = await press("s")
        assert shown[-1] == " the machine is gone"

    drive(source, script)


def test_nothing_of_a_recording_is_paused(drive, recording):
    async def script(app, press):
        await press("s", "S")
        assert app.footer.message == "this is a recording"

    drive(recording, script)
    assert recording.done == []
    assert recording.steps == [1]


def test_the_log_is_filtered_and_the_filter_undone(drive, source):
    async def script(app, press):
        shown = await press("f", *"0x3f8 -0x50", "enter")
        assert "filter: 0x3f8 -0x50" in shown[0]
        # 250 letters, of which "P" comes in every 26th from the 16th on.
        assert app.log_pane.total() == 250 - 10
        assert all(e.where == "0x3f8" for e in map(app.log_pane.entry, records(app)))
        await press("escape")
        assert app.log_pane.total() == 500

    drive(source, script)


def records(app):
    return [app.log_pane._at(index) for index in range(app.log_pane.total())]


def test_the_log_is_searched_upwards_and_downwards(drive, source):
    async def script(app, press):
        await press("slash", *"0x50", "enter")
        newest = app.log_pane.cursor
        assert int(app.log_pane.chosen["value"]) == 0x50
        await press("n")
        older = app.log_pane.cursor
        assert newest - older == 52  # the alphabet, with a line status before each letter
        await press("N")
        assert app.log_pane.cursor == newest
        await press("slash", *"nowhere", "enter")
        assert app.footer.message == "no exit in the log has 'nowhere'"

    drive(source, script)


def test_the_log_follows_until_it_is_moved(drive, source, make_records):
    async def script(app, press):
        await press("3", "up", "up")
        assert "standing" in str(app.log_pane.border_title)
        source.records = make_records(600)
        await press()
        assert app.log_pane.cursor == 497
        await press("end")
        assert app.log_pane.cursor == 599
        source.records = make_records(700)
        await press()
        assert app.log_pane.cursor == 699

    drive(source, script)


def test_an_exit_is_looked_into(drive, source):
    async def script(app, press):
        shown = "\n".join(await press("3", "enter"))
        assert "number 499" in shown
        assert "-> 7c05" in shown
        await press("escape")
        assert len(app.screen_stack) == 1

    drive(source, script)


def test_a_row_of_a_table_filters_the_log(drive, source):
    async def script(app, press):
        await press("2", "down", "enter")
        assert app.log_pane.filter == "0x3fd"
        assert app.log_pane.total() == 250

    drive(source, script)


def test_tables_are_sorted_by_keys_and_by_clicks(drive, source):
    async def script(app, press):
        await press("less_than_sign")
        assert app.reasons.sorted_by == "reason"
        assert [row.name for row in app.reasons._rows] == ["HLT", "IO", "MMIO"]
        await press("r")
        assert [row.name for row in app.reasons._rows] == ["MMIO", "IO", "HLT"]
        await app.pilot.click("#reasons", offset=(27, 1))
        await press()
        assert app.reasons.sorted_by == "rate/s"
        assert app.reasons._rows[0].name == "IO"
        await app.pilot.click("#reasons", offset=(27, 1))
        await press()
        assert app.reasons._rows[0].name == "HLT"

    drive(source, script)


def test_a_frozen_view_stands_and_catches_up(drive, source, make_records):
    async def script(app, press):
        await press("z")
        source.records = make_records(900)
        source.output = b"later"
        await app.pilot.pause(0.5)
        assert app.log_pane.total() == 500
        assert "FROZEN" in str(app.status._flags)
        await press("z")
        assert app.log_pane.total() == 900
        assert "> later" in app.guest_console.lines

    drive(source, script)


def test_two_marks_show_the_difference(drive, source):
    async def script(app, press):
        await press("m")
        source.counted = {"exits: IO": 1750.0, "exits: HLT": 3.0, "time: IO": 500_000_000.0}
        source.status = Status("tiny", "running", uptime_ns=13_300_000_000)
        shown = "\n".join(await press("m"))
        assert "1.00s lie between the marks" in shown
        assert "+      750" in shown
        assert "+        3" in shown
        assert "50.0%" in shown

    drive(source, script)
    assert [name for name, _ in source.done] == ["mark", "mark"]


def test_what_is_typed_goes_to_the_guest_until_ctrl_a(drive, source):
    async def script(app, press):
        await press("5", *"q s", "enter", "up", "ctrl+c", "tab", "escape")
        assert source.typed == b"q s\r\x1b[A\x03\t\x1b"
        await press("ctrl+a")
        assert app.focused is app.log_pane
        await press("ctrl+a")  # back, and it is sent
        assert source.typed.endswith(b"\x1b\x01")
        assert app.focused is app.guest_console
        await press("ctrl+a", "up", "ctrl+a")  # back, and it is not
        assert source.typed.endswith(b"\x1b\x01")
        assert app.focused is app.guest_console

    drive(source, script)
    assert source.done == []


def test_a_key_right_behind_ctrl_a_is_not_for_the_guest(drive, source):
    async def script(app, press):
        await press("5")
        for key, character in (("ctrl+a", "\x01"), ("question_mark", "?")):
            app.post_message(events.Key(key, character))
        assert "pause the guest; resume it" in "\n".join(await press())

    drive(source, script)
    assert source.typed == b""


@pytest.fixture
def tick(monkeypatch):
    """The timer's call, which comes only when a test makes it, and a clock that stands."""
    monkeypatch.setattr(ScreenApp, "set_interval", lambda app, period_s, call: calls.append(call))
    calls: list[Any] = []
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("vmm.tui.base.time", clock)
    return lambda: calls[-1](), clock


def test_a_slow_host_is_left_to_its_guest(drive, source, tick):
    tick, clock = tick
    passed = []

    def poll():
        clock.now += 0.4

    async def script(app, press):
        app.ticked = passed.append
        source.poll = poll
        tick()
        while not app._rest_until:  # until it is drawn
            await app.pilot.pause(0.01)
        assert app._rest_until == pytest.approx(clock.now + 0.8)  # twice as long as that took
        for _ in range(5):
            tick()
        assert passed == [1]
        clock.now += 0.81
        tick()
        assert passed == [1, 6]

    drive(source, script)


def test_panes_under_a_dialog_are_drawn_seldom(drive, source, tick):
    tick, _ = tick
    shown = []

    async def script(app, press):
        app.log_pane.show = lambda records: shown.append(records)
        for _ in range(20):
            tick()
        assert len(shown) == 10
        await press("question_mark")
        shown.clear()
        for _ in range(20):
            tick()
        assert len(shown) == 2

    drive(source, script)


def test_a_recordings_console_is_not_typed_to(drive, recording):
    async def script(app, press):
        await press("5", "m", "1")
        assert app.focused is app.reasons

    drive(recording, script)
    assert recording.typed == b""


def test_a_pane_alone(drive, source):
    async def script(app, press):
        shown = await press("4")
        assert any(line.startswith("─ 4 vCPU") or "4 vCPU" in line for line in shown[1:2])
        assert app.cpu.size.height == 21
        assert source.wanted >= {"cpus"}
        await press("escape")
        assert not app.cpu.display
        assert app.log_pane.display

    drive(source, script, (80, 24))


def test_the_end_is_explained_once_and_again_when_asked(drive, source):
    source.explanation = "guest died: triple fault at 0000000000100008"
    source.status = Status("tiny", "died")

    async def script(app, press):
        await app.pilot.pause(0.3)
        assert "guest died: triple fault" in "\n".join(await press())
        await press("escape")
        await app.pilot.pause(0.3)
        assert len(app.screen_stack) == 1
        shown = "\n".join(await press("x"))
        assert "how it ended" in shown

    drive(source, script)


@pytest.mark.parametrize(("keys", "answer"), [("qd", DETACH), ("qe", END)])
def test_leaving_asks_what_becomes_of_ones_own_guest(drive, source, keys, answer):
    async def script(app, press):
        shown = "\n".join(await press("q"))
        assert "The guest still runs." in shown
        await press("escape")
        assert app.return_value is None
        await app.pilot.press(*keys)

    assert drive(source, script, owner=True).return_value == answer


def test_leaving_somebody_elses_guest_asks_nothing(drive, source):
    async def script(app, press):
        await app.pilot.press("q")

    assert drive(source, script).return_value == DETACH


def test_keys_of_the_footer_can_be_clicked(drive, source):
    async def script(app, press):
        shown = await press()
        await app.pilot.click("#footer", offset=(shown[-1].index("pause"), 0))
        await press()

    drive(source, script)
    assert [name for name, _ in source.done] == ["pause"]


def test_stops_are_set_listed_and_removed(drive, source):
    async def script(app, press):
        shown = "\n".join(await press("b"))
        assert "there is none; type a condition" in shown
        assert "reg=com1.THR=0x41" in shown
        await press(*"port=0x80", "enter")
        await press(*"rip=main", "enter")
        compare("stops", await press())
        source.refuses = "condition prot=1: 'prot=1' is no term"
        shown = "\n".join(await press(*"prot=1", "enter"))
        assert "condition prot=1: 'prot=1' is no term" in shown
        assert app.screen._entry.value == "prot=1"
        source.refuses = ""
        await press("delete")
        assert [stop.condition for stop in source.stopping] == ["rip=main"]
        await press("escape")
        assert len(app.screen_stack) == 1

    drive(source, script)
    assert [name for name, _ in source.done] == ["stop_at", "stop_at", "stop_at", "remove_stop"]


def test_the_last_line_says_where_the_guest_was_stopped(drive, source):
    async def script(app, press):
        where = "reg=com1.THR=0x48: vCPU 0, IO out 0x3f8"
        source.status = Status("tiny", "paused", note=where)
        await app.pilot.pause(0.3)
        assert (await press())[-1] == f" stopped at {where}"
        assert f"it stands at {where}" in "\n".join(await press("b"))
        await press("escape")
        assert app.footer.message == ""
        source.status = Status("tiny", "running")
        await app.pilot.pause(0.3)
        source.status = Status("tiny", "paused", note="exits=9: vCPU 0, HLT")
        await app.pilot.pause(0.3)
        assert app.footer.message == "stopped at exits=9: vCPU 0, HLT"

    drive(source, script)


def test_a_recording_is_stopped_nowhere(drive, recording):
    async def script(app, press):
        await press("b")
        assert app.footer.message == "this is a recording"

    drive(recording, script)


def test_the_prompt_is_opened_by_whoever_has_the_terminal(drive, source):
    async def script(app, press):
        await press("f", *"0x3f8", "enter")
        await press("w")
        await app.pilot.press("p")

    app = drive(source, script, owner=True)
    assert app.return_value == PROMPT
    assert app.left_view == {"alone": "log", "filter": "0x3f8", "pane": "log"}

    async def again(app, press):
        shown = await press()
        assert "filter: 0x3f8" in shown[0]
        assert app.alone == "log"
        assert app.focused is app.log_pane

    drive(source, again, owner=True, view=app.left_view)


def test_where_the_prompt_of_somebody_elses_machine_is(drive, source, recording):
    async def script(app, press):
        await press("p")
        assert "on the machine's own terminal: Ctrl-A p there" in app.footer.message

    assert drive(source, script).return_value is None

    async def of_a_recording(app, press):
        await press("p")
        assert "vmm.trace.load(FILE)" in app.footer.message

    drive(recording, of_a_recording)
