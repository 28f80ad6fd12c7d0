"""A trace is decoded by what it says of its devices itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.cmos_rtc import CmosRtc
from devices.i8042 import I8042
from devices.pci_host import PciHost
from devices.registers import RegisterTable
from devices.uart16550 import Uart16550
from devices.vga_text import VgaText
from vmm.decode import decode_access
from vmm.trace.devicemap import DeviceMap
from vmm.trace.tables import table_from_data, table_to_data

IO, HLT, MMIO = 2, 5, 6
TABLES = {kind.__name__: kind.registers for kind in (Uart16550, CmosRtc, I8042, PciHost, VgaText)}


def through_json(table: RegisterTable) -> RegisterTable:
    return table_from_data(json.loads(json.dumps(table_to_data(table))))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_comes_back_as_it_was(name):
    table = TABLES[name]
    again = through_json(table)
    assert len(again) == len(table) > 0
    for one, two in zip(table, again, strict=True):
        assert (one.name, one.offset, one.size, one.access, one.reset, one.exact) == (
            *(two.name, two.offset, two.size, two.access, two.reset, two.exact),
        )
        assert (one.when, one.fields) == (two.when, two.fields)


@pytest.mark.parametrize("name", TABLES)
@given(st.integers(0, 16), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 2**32 - 1))
def test_it_decodes_as_the_device_does(name, offset, size, write, value):
    table = TABLES[name]
    expected = decode_access(table, offset, size, write, value)
    assert decode_access(through_json(table), offset, size, write, value) == expected


META = {
    "devices": [
        {"name": "com1", "bus": "port", "start": 0x3F8, "end": 0x400, "base": 0x3F8,
         "registers": table_to_data(Uart16550.registers)},
        {"name": "apic", "bus": "MMIO", "start": 0x3F8, "end": 0x3FA, "base": 0},
    ],
}  # fmt: skip


def test_who_answered():
    devices = DeviceMap.from_meta(META)
    assert [devices.name_at(IO, a) for a in (0x3F7, 0x3F8, 0x3FF, 0x400)] == [
        *("nobody", "com1", "com1", "nobody"),
    ]
    assert devices.name_at(MMIO, 0x3F9) == "apic"
    assert devices.name_at(HLT, 0x3F8) == ""
    assert devices.names == ["apic", "com1"]
    assert DeviceMap().name_at(IO, 0x3F8) == ""


def test_names_from_a_file_do_not_move_the_cursor():
    entry = {"name": "a\x1b[2Jb", "bus": "port", "start": 1, "end": 2, "base": 1}
    assert DeviceMap.from_meta({"devices": [entry]}).name_at(IO, 1) == r"a\x1b[2Jb"
    register = {"name": "R\n", "offset": 0, "size": 1, "access": "rw", "reset": 0}
    (table,) = table_from_data([register])
    assert table.name == r"R\n"


GOOD = META["devices"][0]
REGISTER = {"name": "R", "offset": 0, "size": 1, "access": "rw", "reset": 0}


@pytest.mark.parametrize(
    "devices",
    [
        {},
        5,
        [5],
        [{}],
        [GOOD | {"bus": "ISA"}],
        [GOOD | {"name": 1}],
        [GOOD | {"name": []}],
        [GOOD | {"start": -1}],
        [GOOD | {"start": "0"}],
    ],
)
def test_what_is_no_list_of_devices_is_refused(devices):
    with pytest.raises(ValueError, match=r"no device|no list of devices"):
        DeviceMap.from_meta({"devices": devices})


@pytest.mark.parametrize(
    "table",
    [
        5,
        [5],
        [REGISTER | {"access": "x"}],
        [REGISTER | {"size": 1 << 40}],
        [REGISTER | {"fields": [["F", 0, 1 << 40]]}],
        [REGISTER | {"fields": [["F"]]}],
        [REGISTER | {"when": ["R"]}],
        [REGISTER, REGISTER],
    ],
)
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ValueError, match=r"\w"):
        DeviceMap.from_meta({"devices": [GOOD | {"registers": table}]})
