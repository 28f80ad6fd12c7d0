"""Devices of the user's own, from Python files: `--device my_dev.py:MyDevice@pio:0x10`.

    FILE:CLASS@pio:START[-END | +SIZE][,irq=GSI][,name=NAME]
    FILE:CLASS@mmio:...

The constructor is given what it asks for by the names of its parameters: `irq` (the line that the
option names), `memory`, `clock` (monotonic nanoseconds), `out` (takes bytes for the console) and
`name`.

A file is read anew by `UserDevice.reload`. The device that lives on then gets the new class: what
it is and whom it knows stay as they are, only what it does changes. One that can be saved (`save`
and `load`) is made anew from its state instead.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.records import Record
from devices.registers import RegisterDevice, RegisterTable
from vmm.errors import ConfigError
from vmm.late import LateDevice
from vmm.usercode import load_class, refused

if TYPE_CHECKING:
    from devices.protocols import Device
    from vmm.machine import Machine

__all__ = ["DeviceSpec", "UserDevice", "add_user_device", "parse_spec", "user_devices"]

_FORM = "FILE.py:CLASS@pio:0x10[-0x17][,irq=5]"
_OFFERED = ("irq", "memory", "clock", "out", "name")
_NEEDED = ("read", "write", "reset")


class DeviceSpec(Record):
    """What one `--device` asks for."""

    text: str
    path: str
    cls: str
    bus: str
    """"pio" or "mmio"."""
    start: int
    size: int | None = None
    """Bytes; None: as many as the class's registers take."""
    irq: int | None = None
    name: str | None = None


def parse_spec(text: str) -> DeviceSpec:
    """Read `FILE:CLASS@pio:START[-END | +SIZE][,irq=GSI][,name=NAME]`.

    Raises:
        ConfigError: it is something else.
    """
    what, at, where = text.rpartition("@")
    path, colon, cls = what.rpartition(":")
    place, *extras = where.split(",")
    bus, _, span = place.partition(":")
    if not (at and colon and path and cls.isidentifier() and bus in ("pio", "mmio") and span):
        raise ConfigError(f"--device {text}: give {_FORM}, or @mmio:0xd0000000")
    options: dict[str, str] = {}
    for extra in extras:
        key, _, value = extra.partition("=")
        if key not in ("irq", "name") or not value:
            raise ConfigError(f"--device {text}: {extra!r}: give irq=GSI or name=NAME")
        options[key] = value
    start, size = _span(text, span)
    irq = _number(text, options["irq"]) if "irq" in options else None
    return DeviceSpec(text, path, cls, bus, start, size, irq, options.get("name"))


def _span(text: str, span: str) -> tuple[int, int | None]:
    if "+" in span:
        first, _, count = span.partition("+")
        start, size = _number(text, first), _number(text, count)
    elif "-" in span:
        first, _, last = span.partition("-")
        start = _number(text, first)
        size = _number(text, last) - start + 1
    else:
        return _number(text, span), None
    if size < 1:
        raise ConfigError(f"--device {text}: {span} is empty: the end is the last address")
    return start, size


def _number(text: str, number: str) -> int:
    try:
        value = int(number, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise ConfigError(f"--device {text}: {number!r} is not a number; write 16 or 0x10")
    return value


class UserDevice(LateDevice):
    """A device from a file, in its place on the bus.

    Raises:
        ConfigError: the file, the class or its constructor will not do; one line says why.
    """

    def __init__(self, spec: DeviceSpec, machine: Machine) -> None:
        self.spec = spec
        self.path = os.path.abspath(spec.path)
        self._machine = machine
        self._class = self._load()
        made = self._make_one(self._class)
        super().__init__(made.name, lambda: made, machine.lock)

    @property
    def file(self) -> str:
        """The file's name, without its directory."""
        return Path(self.path).name

    @property
    def size(self) -> int:
        """How many addresses it answers at."""
        if self.spec.size is not None:
            return self.spec.size
        table = getattr(self._class, "registers", None)
        return max(table.span, 1) if isinstance(table, RegisterTable) else 1

    def reload(self) -> None:
        """Read the file again and let the device go on as what its class is now.

        Raises:
            ConfigError: the new file will not do. The device is as it was.
        """
        fresh = self._load()
        # A device that cannot be made any more is better known now than at the next start.
        made = self._make_one(fresh)
        with self._machine.lock:
            self._swap(fresh, made)
            self._class = fresh
            self._machine.pio.forget()
            self._machine.mmio.forget()

    def _swap(self, fresh: type, made: Device) -> None:
        old: Any = self.device
        # A journal notes the device that it was shown first.
        saved = callable(getattr(old, "save", None)) and callable(getattr(made, "load", None))
        if saved and self._machine.journal is None:
            try:
                made.load(old.save())  # type: ignore[attr-defined]
            except Exception as error:
                raise refused(self.path, error, "its state does not fit") from None
            self.replace(made)
            return
        try:
            old.__class__ = fresh
        except TypeError as error:
            why = "the state of its instances has another layout, and it has no save and load"
            raise ConfigError(f"{self.path}: {self.spec.cls}: {why}: {error}") from None
        for name, value in getattr(made, "__dict__", {}).items():
            old.__dict__.setdefault(name, value)  # what the new constructor has more
        if isinstance(old, RegisterDevice):
            old.connect()

    def _load(self) -> type:
        """The class, from the file as it is now."""
        return load_class(self.path, self.spec.cls, "--device")

    def _make_one(self, cls: type) -> Device:
        given = self._arguments(cls)
        try:
            made = cls(**given)
        except Exception as error:
            raise refused(self.path, error, f"{self.spec.cls}()") from error
        name = self.spec.name
        if name is not None and getattr(made, "name", None) != name:
            made.name = name
        missing = [what for what in _NEEDED if not callable(getattr(made, what, None))]
        if missing or not isinstance(getattr(made, "name", None), str):
            what = ", ".join(f"{each}()" for each in missing) or "name"
            raise ConfigError(
                f"{self.path}: {self.spec.cls} has no {what}; a device has name, "
                "read(offset, size), write(offset, size, value) and reset()"
            )
        return made  # type: ignore[no-any-return]

    def _arguments(self, cls: type) -> dict[str, Any]:
        """What the constructor asks for, of what there is."""
        machine, spec = self._machine, self.spec
        there: dict[str, Callable[[], Any]] = {
            "memory": lambda: machine.memory,
            "clock": lambda: time.monotonic_ns,
            "out": lambda: machine.console.write,
        }
        if spec.irq is not None:
            if not machine.irqchip:
                raise ConfigError(
                    f"--device {spec.text}: the machine has no interrupt controllers; add "
                    "--irqchip on"
                )
            there["irq"] = lambda: machine.irq(spec.irq or 0)
        if spec.name is not None:
            there["name"] = lambda: spec.name
        try:
            parameters = inspect.signature(cls).parameters.values()
        except (TypeError, ValueError):
            return {}
        given: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if parameter.name in there:
                given[parameter.name] = there[parameter.name]()
            elif parameter.default is parameter.empty:
                hint = f"offered are {', '.join(_OFFERED)}"
                if parameter.name in ("irq", "name"):
                    hint = f"add ,{parameter.name}=... to the option"
                raise ConfigError(
                    f"{self.path}: {spec.cls} wants {parameter.name!r}, which nobody gives it; "
                    f"{hint}"
                )
        if spec.irq is not None and "irq" not in given:
            raise ConfigError(
                f"--device {spec.text}: the constructor of {spec.cls} takes no irq to be given"
            )
        return given


def add_user_device(machine: Machine, text: str) -> UserDevice:
    """Make the device that a `--device` asks for and let it answer.

    Raises:
        ConfigError: it cannot be made.
        MappingOverlap: another device is at its addresses.
    """
    spec = parse_spec(text)
    device = UserDevice(spec, machine)
    if device.name in machine.devices:
        raise ConfigError(
            f"--device {text}: there is a device called {device.name} already; add ,name=NAME"
        )
    place = range(spec.start, spec.start + device.size)
    if spec.bus == "pio":
        machine.add_device(device, pio=place)
    else:
        machine.add_device(device, mmio=place)
    return device


def user_devices(machine: Machine) -> list[UserDevice]:
    """The machine's devices that came from files."""
    return [place for place in machine.devices.places() if isinstance(place, UserDevice)]
