"""What is plugged into a machine's buses, without KVM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vmm.backplane import Backplane
from vmm.errors import ConfigError, LifecycleError, MappingOverlap
from vmm.late import LateDevice


class Rig:
    """A backplane with RAM below 0x1000, which counts what KVM and the trace are told."""

    def __init__(self) -> None:
        self.coalesced: list[tuple[int, int, bool]] = []
        self.told = 0
        self.open = True
        trace = SimpleNamespace(devices_changed=self.changed)
        self.backplane = Backplane(self.hardware, strict=False, trace=trace)  # type: ignore[arg-type]

    def changed(self) -> None:
        self.told += 1

    def hardware(self):
        if not self.open:
            raise LifecycleError("closed")
        ram = SimpleNamespace(gpa=0, end=0x1000, what="RAM")

        def coalesce(start: int, size: int, *, pio: bool) -> None:
            self.coalesced.append((start, size, pio))

        return SimpleNamespace(memory=[ram], coalesce=coalesce)


class Chip:
    name = "chip"

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        pass

    def reset(self) -> None:
        pass


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_device_is_on_the_bus_has_its_name_and_watchers_know(rig):
    chip = rig.backplane.make(Chip)
    rig.backplane.add(chip, pio=range(0x10, 0x18), base=0x8)
    assert rig.backplane.pio.read(0x12, 1) == 0xA
    assert rig.backplane.devices["chip"] is chip
    assert (rig.told, rig.coalesced) == (1, [])


@pytest.mark.parametrize(("space", "pio"), [("pio", True), ("mmio", False)])
def test_kvm_is_told_of_what_it_may_collect(rig, space, pio):
    rig.backplane.add(Chip(), **{space: range(0x4000, 0x4010)}, coalesced=True)
    assert rig.coalesced == [(0x4000, 0x10, pio)]


@pytest.mark.parametrize("places", [{}, {"pio": range(4), "mmio": range(0x4000, 0x4004)}])
def test_a_device_is_at_ports_or_at_addresses(rig, places):
    with pytest.raises(ConfigError, match="chip: give either"):
        rig.backplane.add(Chip(), **places)
    assert not rig.backplane.devices


@pytest.mark.parametrize(("start", "lies"), [(0xFFC, True), (0x1000, False)])
def test_there_is_no_device_where_memory_is(rig, start, lies):
    if lies:
        with pytest.raises(MappingOverlap, match=r"overlaps RAM at 0x0\.\.0xfff"):
            rig.backplane.add(Chip(), mmio=range(start, start + 8))
    else:
        rig.backplane.add(Chip(), mmio=range(start, start + 8))
    assert ("chip" in rig.backplane.devices) is not lies


def test_a_late_device_is_not_made_by_being_added(rig):
    late = LateDevice("chip", Chip, rig.backplane.lock)
    rig.backplane.add(late, pio=range(0x10, 0x11))
    assert not late.made
    assert rig.backplane.pio.read(0x10, 1) == 0
    assert late.made


def test_two_functions_on_a_port_are_one_device(rig):
    written = []
    rig.backplane.on_out(0x20, lambda value, size: written.append((value, size)), coalesced=True)
    rig.backplane.on_in(0x20, lambda: 7)
    rig.backplane.pio.write(0x20, 2, 0x1234)
    assert written == [(0x1234, 2)]
    assert rig.backplane.pio.read(0x20, 1) == 7
    assert list(rig.backplane.devices) == ["function at 0x20"]
    assert rig.coalesced == [(0x20, 1, True)]


def test_an_input_function_is_asked_with_the_size_if_it_wants_it(rig):
    rig.backplane.on_in(0x20, lambda size: size)
    assert rig.backplane.pio.read(0x20, 4) == 4


def test_nothing_is_told_to_kvm_when_it_is_gone(rig):
    rig.open = False
    with pytest.raises(LifecycleError):
        rig.backplane.add(Chip(), mmio=range(0x4000, 0x4001))
    assert not rig.backplane.devices
