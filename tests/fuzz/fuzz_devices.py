"""Fuzz every device model and the Python BIOS: no access and no register raises or hangs.

    python tests/fuzz/fuzz_devices.py -max_total_time=60

Arguments are libFuzzer's. The first byte of an input chooses a device of the conformance catalogue
or the BIOS; the rest is what a guest does to it.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris

with atheris.instrument_imports(include=["devices", "vmm.bios"]):
    import vmm.bios  # noqa: F401  (for what it imports)
    from devices.wiring import StateError

from vmm.host.disk import floppy_geometry, hard_disk_geometry

ROOT = Path(__file__).resolve().parents[2]


def _conftest(folder: str) -> ModuleType:
    """The helpers that tests of a folder share."""
    spec = importlib.util.spec_from_file_location(
        f"fuzz_{folder.replace('/', '_')}", ROOT / "tests" / folder / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


CATALOGUE = _conftest("conformance").CATALOGUE
with atheris.instrument_imports(include=["devices"]):
    for one in CATALOGUE:
        one.cls()
BIOS = _conftest("unit/vmm/bios")

_SIZES = (1, 2, 4, 8)
_MOST_STEPS = 200
_VECTORS = (0x05, 0x08, *range(0x10, 0x1D), 0x4A, 0x70)
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@cache
def _contents(sectors: int) -> bytes:
    return bytes(BIOS.FakeDisk(sectors).data)


class CheapDisk(BIOS.FakeDisk):  # type: ignore[misc, name-defined]
    """A disk that forgets what is written: to copy its contents takes longer than all the calls."""

    def __post_init__(self) -> None:
        self.data = _contents(self.sectors)
        self.geometry = hard_disk_geometry(self.sectors)
        self.floppy_geometry = floppy_geometry(self.sectors)

    def write(self, lba: int, data: bytes) -> None:
        assert lba * 512 + len(data) <= len(self.data)


class Source:
    """Numbers out of an input; zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> int:
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little")

    def bytes(self, size: int) -> bytes:
        return self.take(size).to_bytes(size, "little")


def test_one_input(data: bytes) -> None:
    """Do to one device what the input says; raise if it breaks a rule."""
    source = Source(data)
    which = source.take(1) % (len(CATALOGUE) + 1)
    if which == len(CATALOGUE):
        use_bios(source)
    else:
        use_device(CATALOGUE[which], source)


def use_device(model: Any, source: Source) -> None:
    """Read, write, feed, reset, save and load in any order."""
    device, _ = model.connected()
    for _ in range(_MOST_STEPS):
        if source.left <= 0:
            break
        step = source.take(1)
        size = _SIZES[step >> 4 & 3]
        if step & 15 < 6:
            offset = source.take(2) % (model.span + 9)
            device.write(offset, size, source.take(size))
        elif step & 15 < 11:
            answer = device.read(source.take(2) % (model.span + 9), size)
            assert type(answer) is int
            assert 0 <= answer < 1 << 8 * size, f"{answer:#x} in {size} bytes"
        elif step & 15 == 11 and model.feed is not None:
            model.feed(device, source.bytes(source.take(1) % 20))
        elif step & 15 == 12:
            device.reset()
        elif step & 15 == 13:
            device = go_on_elsewhere(model, device)
        else:
            load_nonsense(device, source)


def go_on_elsewhere(model: Any, device: Any) -> Any:
    """Move a device's state to a new one, which must be the same."""
    state = device.save()
    successor, _ = model.connected()
    successor.load(state)
    assert successor.save() == state
    return successor


def load_nonsense(device: Any, source: Source) -> None:
    """Load a state in which one field is something else: it is refused, or is a state like any."""
    before = device.save()
    names = [one.name for one in fields(before)]
    if not names:
        return
    name = names[source.take(1) % len(names)]
    old = getattr(before, name)
    if isinstance(old, bool):
        new: Any = not old
    elif isinstance(old, int):
        new = source.take(8) - (1 << 63) * (source.take(1) & 1)
    elif isinstance(old, bytes):
        new = source.bytes(source.take(1))
    else:
        return
    try:
        device.load(replace(before, **{name: new}))
    except StateError:
        assert device.save() == before, f"{name} was refused, but something changed"


def use_bios(source: Source) -> None:
    """Call services with any registers, stack and memory."""
    pc = BIOS.Pc(terminal=bool(source.take(1) & 1))
    for _ in range(8):
        if source.left <= 0:
            break
        how = source.take(1)
        if how & 1:
            pc.typed += source.bytes(source.take(1) % 16)
        if how & 2:
            pc.memory.write(source.take(2), source.bytes(32))
        pc.disk.broken = bool(how & 4)
        pc.uart.received = source.bytes(how >> 3 & 3)
        values = {name: register(source) for name in ("bx", "cx", "dx", "si", "di", "bp")}
        segments = {name: source.take(2) for name in ("ds", "es")}
        vector = _VECTORS[source.take(1) % len(_VECTORS)]
        ax = source.take(4)
        pc.call(vector, ax, flags=source.take(2), repeat=bool(how & 32), **values, **segments)
        assert all("\n" not in note for note in pc.bios.notes)


def register(source: Source) -> int:
    """Any 32-bit value, often one at an edge."""
    choice = source.take(1)
    return _EDGES[choice] if choice < len(_EDGES) else source.take(4)


def main() -> None:
    """Run libFuzzer with the arguments of the command line."""
    _contents(2880), _contents(4096)
    BIOS.FakeDisk = CheapDisk
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
