"""What a machine's devices are plugged into: its two buses, and who is on them.

Whatever comes onto a bus goes through here, so that it also has its name in `Machine.devices`, its
accesses are in the journal where one is kept, what watches accesses knows of it, and it lies where
no memory is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmm.bus import Bus, FunctionPort, Mapping
from vmm.errors import ConfigError, MappingOverlap
from vmm.late import Devices, LateDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar

    from devices.protocols import Device
    from vmm.hardware import Hardware
    from vmm.trace.recorder import Journal
    from vmm.trace.trace import Trace

    P = ParamSpec("P")
    AnyDevice = TypeVar("AnyDevice", bound=Device)

__all__ = ["Backplane"]

_PIO_LIMIT = 0x1_0000
_MMIO_LIMIT = 1 << 52


class Backplane:
    """The buses of one machine, and the devices on them.

    Args:
        hardware: gives what KVM holds of the machine; raises when that is gone.
        strict: an access that nobody claims ends the run.
        trace: told when a device was added.
    """

    def __init__(self, hardware: Callable[[], Hardware], *, strict: bool, trace: Trace | None):
        self.lock = threading.RLock()
        """Held while a device is called."""
        self.pio = Bus("port", _PIO_LIMIT, strict=strict)
        self.mmio = Bus("MMIO", _MMIO_LIMIT, strict=strict)
        self.devices = Devices()
        self.journal: Journal | None = None
        """What devices are given and what they do, where that is kept."""
        self.saved: dict[str, dict[str, Any]] = {}
        """States out of a snapshot that no device has claimed yet, by name."""
        self._hardware = hardware
        self._trace = trace

    def make(self, cls: Callable[P, AnyDevice], /, *args: P.args, **kwargs: P.kwargs) -> AnyDevice:
        """Make a device model: `cls` called with the arguments, and the journal in between."""
        if self.journal is None:
            return cls(*args, **kwargs)
        with self.lock:
            return self.journal.make(cls, *args, **kwargs)

    def add(
        self,
        device: Device | LateDevice,
        *,
        pio: range | None = None,
        mmio: range | None = None,
        base: int | None = None,
        coalesced: bool = False,
        default: bool = False,
    ) -> Mapping:
        """Let a device answer at a range of ports or of guest-physical addresses
        (`Machine.add_device`).

        Raises:
            ConfigError: neither or both of `pio` and `mmio`; a range outside of the bus.
            MappingOverlap: another device, or guest memory, is there.
        """
        if (pio is None) == (mmio is None):
            raise ConfigError(f"{device.name}: give either pio=range(...) or mmio=range(...)")
        bus, addresses = (self.pio, pio) if pio is not None else (self.mmio, mmio)
        assert addresses is not None
        if mmio is not None:
            self._refuse_ram(mmio, device.name)
        mapping = bus.map(addresses, self._noted(device), base=base, default=default)
        if self.journal is not None:
            with self.lock:
                self.journal.map(device.name, bus.name, mapping.start, mapping.end, mapping.base)
        if coalesced:
            size = mapping.end - mapping.start
            self._hardware().coalesce(mapping.start, size, pio=pio is not None)
        self.devices.add(device)
        self.claim(device)
        if self._trace is not None:
            self._trace.devices_changed()
        return mapping

    def claim(self, device: Device | LateDevice) -> None:
        """Give a device the state that a snapshot has of it, where it has one.

        Raises:
            SnapshotError: the state does not fit.
        """
        state = self.saved.pop(device.name, None)
        if state is not None:
            from vmm.device_states import load_state

            with self.lock:
                load_state(device.device if isinstance(device, LateDevice) else device, state)

    def on_out(self, port: int, function: Callable[[int, int], None], *, coalesced: bool) -> None:
        """Have `function` take what the guest writes to a port."""
        device, journal = self._function_port(port), self.journal
        device.on_out = function if journal is None else journal.foreign_out(device, function)
        self.pio.forget()
        if coalesced:
            self._hardware().coalesce(port, 1, pio=True)

    def on_in(self, port: int, function: Callable[..., int]) -> None:
        """Have `function` answer when the guest reads a port."""
        device, answer, journal = self._function_port(port), _accept_size(function), self.journal
        device.on_in = answer if journal is None else journal.foreign_in(device, answer)
        self.pio.forget()

    def flush_journal(self) -> None:
        """Write what waits to be put into the journal."""
        if self.journal is not None:
            with self.lock:
                self.journal.flush()

    def _function_port(self, port: int) -> FunctionPort:
        mapping = self.pio.find(port) if 0 <= port < _PIO_LIMIT else None
        if mapping is not None and isinstance(mapping.device, FunctionPort):
            return mapping.device
        device = FunctionPort(f"function at {port:#x}")
        self.pio.map(range(port, port + 1), device, whole=True)
        self.devices.add(device)
        return device

    def _refuse_ram(self, mmio: range, name: str) -> None:
        for region in self._hardware().memory:
            if mmio.start < region.end and region.gpa < mmio.stop:
                raise MappingOverlap(
                    f"{name} at MMIO {mmio.start:#x}..{mmio.stop - 1:#x} overlaps {region.what} "
                    f"at {region.gpa:#x}..{region.end - 1:#x}"
                )

    def _noted(self, device: Device | LateDevice) -> Device | LateDevice:
        """What to put on a bus for a device, so that the journal has its accesses."""
        journal = self.journal
        if journal is None:
            return device
        if isinstance(device, LateDevice):
            late = device
            return LateDevice(device.name, lambda: journal.noted(late.device), self.lock)
        return journal.noted(device)


def _accept_size(function: Callable[..., int]) -> Callable[[int], int]:
    """Let an input function leave out the size."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_argcount - hasattr(function, "__self__") == 0:
        return lambda size: function()
    return function
