"""An access is told by the registers that were selected at its time."""

from __future__ import annotations

import pytest

from devices.cmos_rtc import CmosRtc
from devices.pc_ports import CMOS_PORTS
from devices.uart16550 import Uart16550
from devices.vga_text import VgaText
from vmm.trace.reader import load
from vmm.trace.tables import table_to_data


def place(name: str, start: int, end: int, base: int | None = None) -> dict[str, object]:
    base = start if base is None else base
    return {"name": name, "bus": "port", "start": start, "end": end, "base": base}


META = {
    "devices": [
        place("com1", 0x3F8, 0x400) | {"registers": table_to_data(Uart16550.registers)},
        place("rtc", CMOS_PORTS.start, CMOS_PORTS.stop)
        | {"registers": table_to_data(CmosRtc.registers)},
        place("vga", 0x3C0, 0x3E0, 0x3B0) | {"registers": table_to_data(VgaText.registers)},
    ],
}


@pytest.fixture
def meanings(path, new_writer):
    """What a decoder says of accesses (address, value, write, size)."""

    def tell(*accesses, recorder=False):
        writer = new_writer(None if recorder else path)
        writer.trace.about = lambda: META
        if recorder:
            for _ in range(1000):
                writer.exit(address=0x80)
        writer.trace.describe()
        for address, value, write, size in accesses:
            writer.exit(address=address, value=value, write=write, size=size)
        if recorder:
            writer.trace.save(str(path))
        writer.close()
        trace = load(path)
        return [trace.decoder.meaning(event) for event in trace][-len(accesses) :]

    return tell


OUT = (0x3F8, 0x41, True, 1)


def test_the_divisor_latch(meanings):
    assert meanings(OUT, (0x3FB, 0x83, True, 1), OUT, (0x3FB, 0x03, True, 1), OUT) == [
        "THR = 0x41",
        "LCR = WLS=8|DLAB",
        "DLL = 0x41",
        "LCR = WLS=8",
        "THR = 0x41",
    ]


def test_the_index_of_the_clock(meanings):
    assert meanings((0x70, 0x80 | 0x0D, True, 1), (0x71, 0x80, False, 1))[1] == ("STATUS_D = VRT")
    assert meanings((0x70, 0x0A, True, 1), (0x71, 0x26, False, 1))[1].startswith("STATUS_A = ")


def test_what_was_set_before_a_recorder_began_is_not_known(meanings):
    assert meanings(OUT, (0x3FB, 3, True, 1), OUT, recorder=True) == [
        "THR/DLL = 0x41",
        "LCR = WLS=8",
        "THR = 0x41",
    ]


def test_a_write_that_selects_and_more_is_not_guessed_at(meanings):
    # LCR and MCR in one: LCR is told, and what it selects afterwards.
    wide = (0x3FB, 0x0B83, True, 2)
    assert meanings(wide, OUT) == ["LCR = WLS=8|DLAB, MCR = DTR|RTS|OUT2", "DLL = 0x41"]


def test_registers_that_hang_on_others_that_hang_on_others(meanings):
    # Which CRTC index is there depends on MISC, so the data port names nobody for certain.
    (_, data) = meanings((0x3D4, 0x0E, True, 1), (0x3D5, 0x05, True, 1))
    assert "=" in data
    assert "0x5" in data


def test_what_is_no_register(meanings):
    assert meanings((0x1234, 5, True, 1), (0x3F8, 0, True, 1)) == ["", "THR = 0x0"]
