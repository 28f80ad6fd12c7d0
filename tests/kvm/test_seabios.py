"""Real firmware: Debian's SeaBIOS, from the reset vector to its last boot attempt.

One recording of it serves everything that is told of a run afterwards: the summary, the exports,
the replay.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vmm
from devices.cmos_rtc import CmosRtc
from vmm.exits import exit_name
from vmm.trace.export import export
from vmm.trace.reader import device_map
from vmm.trace.source import TraceSource
from vmm.trace.summary import of_batches

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

FOLDER = Path("/usr/share/seabios")
DEBUGCON, PCI_ADDRESS, PCI_DATA, FW_CFG_DMA = 0x402, 0xCF8, 0xCFC, 0x518


class Boot(NamedTuple):
    """What a boot left."""

    path: Path
    """The recording."""
    text: str
    output: bytes
    exits: int
    made: dict[str, type]
    """The devices' classes by name."""


def no_look(machine: vmm.Machine) -> None:
    """Leave a machine alone."""


def boot(name: str, look: Callable[[vmm.Machine], None] = no_look, /, **options: Any) -> Boot:
    image = FOLDER / name
    if not image.exists():
        pytest.skip(f"{name} is not here: apt install seabios")
    exits = 0
    with vmm.boot(image, **options) as machine:
        assert machine.plan is not None
        assert machine.plan.format == "firmware"
        for _ in range(100):
            result = machine.run(timeout=2)
            exits += result.exits
            if "No bootable device." in machine.console.text:
                break
            assert result.reason == "timeout", result.report()
        look(machine)
        made = {name: type(device) for name, device in machine.devices.items()}
        console = machine.console
        return Boot(Path(options.get("record", "")), console.text, console.output, exits, made)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """SeaBIOS for i440FX boards, booted once and recorded."""
    return boot("bios-256k.bin", record=str(tmp_path_factory.mktemp("seabios") / "run.vtrace"))


def looked_for_something_to_boot(text: str) -> bool:
    assert text.index("SeaBIOS (version") < text.index("enter handle_19")
    assert "fw_cfg DMA interface supported" in text
    assert "PCI: init bdf=00:00.0 id=8086:1237" in text
    assert "Booting from Floppy..." in text
    assert "Booting from Hard Disk..." in text
    return text.rstrip().endswith("Retrying in 60 seconds.")


def test_the_image_of_128_kib_looks_for_something_to_boot() -> None:
    assert looked_for_something_to_boot(boot("bios.bin").text)


def test_the_image_of_256_kib_looks_for_something_to_boot(recorded: Boot) -> None:
    assert looked_for_something_to_boot(recorded.text)


def test_it_leaves_the_smbios_tables_that_it_was_given() -> None:
    """Where the guest's system will look for them; their place is SeaBIOS's choice."""
    said: list[bytes] = []

    def look(machine: vmm.Machine) -> None:
        area = machine.memory.read(0xF0000, 0x10000)
        (at,) = [at for at in range(0, 0x10000, 16) if area[at:].startswith(b"_SM3_")]
        assert sum(area[at : at + 0x18]) % 256 == 0
        size, gpa = struct.unpack_from("<IQ", area, at + 12)
        said.append(machine.memory.read(gpa, size))

    uuid = "12345678-9abc-def0-1122-334455667788"
    smbios = [f"serial=S-17,uuid={uuid}", "type=0,vendor=me"]
    text = boot("bios-256k.bin", look, smbios=smbios).text
    assert f"Machine UUID {uuid}" in text
    assert b"\0S-17\0" in said[0]
    assert b"me\0001.0\0" in said[0], "its own type 0 stays away"
    assert b"SeaBIOS" not in said[0]


def test_a_summary_names_the_devices_that_it_talked_to(recorded: Boot) -> None:
    with TraceSource.open(recorded.path) as source:
        summary = of_batches(records for _, records in source.batches())
        devices = device_map(source)
        assert source.notes == []
    assert summary.exits == recorded.exits
    rows = summary.rows()
    assert sum(row.count for row in rows) == recorded.exits
    where = {
        (row.key.address, row.key.write): (devices.name_at(row.key.reason, row.key.address), row)
        for row in rows
        if row.key.name == "IO"
    }
    # Nearly all of what it says goes out byte by byte, and most of the rest is asked of PCI.
    name, busiest = where[rows[0].key.address, rows[0].key.write]
    assert (name, rows[0].key.address, rows[0].key.write) == ("debugcon", DEBUGCON, True)
    assert busiest.count >= recorded.text.count("\n")
    assert {where[PCI_ADDRESS, True][0], where[PCI_DATA, False][0]} == {"pci"}
    assert {rows[1].key.address, rows[2].key.address} <= {PCI_ADDRESS, PCI_DATA, 0x70, 0x92}
    assert where[FW_CFG_DMA, True][0] == "fw_cfg"
    by_device = summary.rows(lambda key: devices.name_at(key.reason, key.address or 0))
    assert {"debugcon", "pci", "fw_cfg", "rtc", "i8042"} <= {row.key for row in by_device}
    assert sum(row.count for row in by_device) == recorded.exits


def test_an_export_is_what_viewers_read(recorded: Boot, tmp_path: Path, chrome_events) -> None:
    trace = vmm.trace.load(recorded.path)
    path = tmp_path / "run.json"
    export(trace, trace, str(path), "chrome")
    events = chrome_events(path)
    slices = events["X"]
    assert len(slices) == len(trace) == recorded.exits
    assert {event["tid"] for event in slices} == {1}
    assert {event["cat"] for event in slices} == {exit_name(n) for n in set(trace.exits["reason"])}
    sent = [e for e in slices if e["name"] == f"debugcon out {DEBUGCON:#x}"]
    assert bytes(int(e["args"]["value"], 16) for e in sent) in recorded.output
    dma = [e["args"]["meaning"] for e in slices if e["name"] == f"fw_cfg out {FW_CFG_DMA:#x}"]
    assert dma
    assert all(dma)


def test_a_replay_is_identical_and_finds_a_changed_bit(recorded: Boot, replay_alone) -> None:
    found = replay_alone(recorded.path)
    assert found.identical, found
    assert found.complete
    assert 1000 < found.accesses <= recorded.exits
    assert not found.skipped

    # What the guest printed is in the recording: a console of its own prints it again.
    class Prints(recorded.made["debugcon"]):  # type: ignore[misc]
        def write(self, offset: int, size: int, value: int) -> None:
            printed.append(value)
            super().write(offset, size, value)

    printed: list[int] = []
    assert replay_alone(recorded.path, device_overrides={"debugcon": Prints}).identical
    assert bytes(printed) in recorded.output

    class OtherOrder(CmosRtc):
        """One bit in one cell: SeaBIOS asks here what to boot from first."""

        def _read_cell(self, index: int) -> int:
            return super()._read_cell(index) ^ (0x02 if index == 0x3D else 0)

    difference = replay_alone(recorded.path, device_overrides={"rtc": OtherOrder}).difference
    assert difference.device == "rtc"
    assert difference.what == "read of rtc BOOT_ORDER_12 (port 0x71)"
    assert (difference.recorded, difference.replayed) == ("0x02", "0x00")
    # The exit that it names is the one in the trace.
    exit = vmm.trace.load(recorded.path)[difference.exit - 1]
    assert (exit.address, exit.write, exit.value) == (0x71, False, 0x02)
