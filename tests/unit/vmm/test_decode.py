"""Accesses in the words of register tables; the registers are declared again here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import acpi_pm, cmos_rtc, fw_cfg, i8042, pci_host, uart16550, vga_text
from devices.registers import Register, RegisterTable, When, bits
from vmm.decode import decode_access

UART = uart16550.Uart16550.registers
TABLE = RegisterTable(
    Register("CTRL", 0, fields=bits(EN=0, MODE=(3, 2))),
    Register("STATUS", 1, access="r", fields=bits(READY=7)),
    Register("COUNT", 4, size=4),
    Register("WIDE", 0, size=4, exact=True),
)


@pytest.mark.parametrize(
    ("offset", "write", "value", "text"),
    [
        (5, False, 0x60, "LSR = THRE|TEMT"),
        (5, False, 0x61, "LSR = DR|THRE|TEMT"),
        (3, True, 0x83, "LCR = WLS=8|DLAB"),
        (2, True, 0xC7, "FCR = ENABLE|CLEAR_RX|CLEAR_TX|TRIGGER=14"),
        (0, True, 0x41, "THR/DLL = 0x41"),
        (0, False, 0x41, "RBR/DLL = 0x41"),
        (1, True, 0x01, "IER/DLM = 0x1"),
    ],
)
def test_the_serial_port(offset, write, value, text):
    assert decode_access(UART, offset, 1, write, value) == text


def test_a_condition_that_is_known_decides():
    assert decode_access(UART, 0, 1, True, 0x41, values={"LCR": 0x03}) == "THR = 0x41"
    assert decode_access(UART, 0, 1, True, 0x41, values={"LCR": 0x83}) == "DLL = 0x41"
    assert decode_access(UART, 1, 1, True, 0x05, values={"LCR": 0x03}) == "IER = RDI|RLSI"


def test_an_access_wider_than_its_registers_is_told_in_parts():
    assert decode_access(TABLE, 0, 2, False, 0x8005) == "CTRL = EN|MODE=0x1, STATUS = READY"
    assert decode_access(TABLE, 0, 2, True, 0x8005) == "CTRL = EN|MODE=0x1"


def test_a_part_of_a_register_is_told_with_its_bits():
    assert decode_access(TABLE, 4, 4, True, 0x12345678) == "COUNT = 0x12345678"
    assert decode_access(TABLE, 5, 2, True, 0x3456) == "COUNT[23:8] = 0x3456"
    assert decode_access(TABLE, 7, 1, False, 0x12) == "COUNT[31:24] = 0x12"


def test_an_exact_register_answers_its_own_width_only():
    assert decode_access(TABLE, 0, 4, True, 0xCAFE) == "WIDE = 0xcafe"
    assert decode_access(TABLE, 0, 1, True, 0x01) == "CTRL = EN"


def test_many_registers_behind_an_index_are_told_by_the_index():
    table = RegisterTable(
        Register("INDEX", 0, access="w"),
        *(Register(f"R{n}", 1, when=When("INDEX", 0xFF, n)) for n in range(8)),
    )
    assert decode_access(table, 1, 1, False, 0x26) == "[INDEX] = 0x26"
    assert decode_access(table, 1, 1, False, 0x26, values={"INDEX": 3}) == "R3 = 0x26"
    assert decode_access(table, 1, 1, False, 0x26, values={"INDEX": 9}) is None


def test_no_table_no_words():
    assert decode_access(object(), 0, 1, True, 1) is None
    assert decode_access(SimpleNamespace(registers=[1]), 0, 1, True, 1) is None
    assert decode_access(TABLE, 99, 1, True, 1) is None
    assert decode_access(TABLE, 0, 0, True, 1) is None


def test_a_device_or_what_stands_before_it_has_the_table():
    assert decode_access(SimpleNamespace(registers=UART), 5, 1, False, 0) == "LSR = 0x0"


DEVICES = (
    uart16550.Uart16550, cmos_rtc.CmosRtc, i8042.I8042, pci_host.PciHost, fw_cfg.FwCfg,
    acpi_pm.AcpiPm, vga_text.VgaText,
)  # fmt: skip


@given(
    st.sampled_from(DEVICES),
    st.integers(-4, 0x40),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.integers(0, (1 << 64) - 1),
)
def test_any_access_is_told_or_is_not_there(device, offset, size, write, value):
    text = decode_access(device, offset, size, write, value)
    assert text is None or (" = " in text and "\n" not in text)
    known = decode_access(device, offset, size, write, value, values=device.registers.resets())
    assert (known is None) or text is not None
