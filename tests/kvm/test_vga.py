"""The VGA's registers as guests meet them: retrace waits, and the cursor beside the BIOS's."""

from __future__ import annotations

import pytest

import vmm
from vmm.host.textscreen import LiveScreen

pytestmark = pytest.mark.kvm

# Wait three times for the vertical retrace to end and to begin, then for the display to be on.
RETRACE_WAITS = bytes.fromhex(
    "bada03 b90300 ec a808 75fb ec a808 74fb e2f4 ec a801 74fb ec a801 75fb e6f4"
)

# Print "ab", a new line and "c" with the BIOS; ask the CRT controller where the cursor is, and
# draw a "!" there; move the cursor with one word to column 82, and switch it off with another.
FINDS_THE_CURSOR = bytes.fromhex(
    "31c0 8ed8 b8610e cd10 b8620e cd10 b80d0e cd10 b80a0e cd10 b8630e cd10"
    "bad403 b00e ee 42 ec 88c7 4a b00f ee 42 ec 88c3 d1e3 b800b8 8ec0 26c707212f"
    "4a b80f52 ef b80a20 ef f4"
)

# Draw "OK" in yellow on blue at row 2 and wait for ever.
DRAWS = bytes.fromhex("b800b8 8ec0 26c70640014f1e 26c70642014b1e fb f4 ebfd")


@pytest.fixture
def boot(tmp_path):
    machines = []

    def make(code: bytes, *, irqchip: bool = False):
        path = tmp_path / "guest.img"
        path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
        machine = vmm.boot(str(path), memory="2M", irqchip=irqchip)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()


def test_retrace_waits_end(boot):
    result = boot(RETRACE_WAITS).run(timeout=30)
    assert result.reason == "debug_exit", result.report()
    assert result.exits > 6


def test_the_cursor_is_where_the_bios_left_it(boot):
    machine = boot(FINDS_THE_CURSOR)
    result = machine.run(timeout=30)
    assert result.reason == "halt", result.report()
    assert machine.bios.screen[:2] == ["ab", "c!"]
    vga = machine.devices["vga"]
    assert vga.cursor is None
    vga.set_crtc(0x0A, 0x0D)
    assert vga.cursor == 0x52


def test_a_drawn_screen_is_seen_while_the_guest_runs(boot, background, until):
    machine = boot(DRAWS, irqchip=True)
    terminal = bytearray()
    screen = LiveScreen(machine, terminal.extend, size=lambda: (80, 25))
    screen.start()
    run = background(lambda: machine.run(timeout=60))
    until(lambda: b"\x1b[0;93;44mOK" in terminal)
    machine.stop()
    assert run.result().reason == "stopped"
    assert terminal.startswith(b"\x1b[?1049h")
    assert b"\x1b[3;1H" in terminal[: terminal.index(b"OK")]
    assert screen.stop().endswith(b"\x1b[?1049l")
    length = len(terminal)
    assert machine.run(timeout=0.2).reason == "timeout"
    assert len(terminal) == length
