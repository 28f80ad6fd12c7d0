"""What a machine's devices are made with, and where they are put."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar

    from devices.protocols import Device
    from devices.virtio.device import VirtioDevice
    from devices.wiring import IrqLine
    from vmm.backplane import Backplane
    from vmm.bus import Mapping
    from vmm.hardware import Hardware
    from vmm.late import LateDevice
    from vmm.machine import Machine
    from vmm.virtio.place import VirtioPlace

    InFunction = TypeVar("InFunction", bound=Callable[[int], int])
    P = ParamSpec("P")
    AnyDevice = TypeVar("AnyDevice", bound=Device)
    OutFunction = TypeVar("OutFunction", bound=Callable[[int, int], None])

__all__ = ["MachineDevices"]


class MachineDevices:
    """The part of a machine that puts devices on its buses."""

    if TYPE_CHECKING:
        _backplane: Backplane

        def _open(self) -> Hardware: ...

    def make(self, cls: Callable[P, AnyDevice], /, *args: P.args, **kwargs: P.kwargs) -> AnyDevice:
        """Make a device model of this machine: `cls` called with the arguments.

        Where a journal is kept it has everything that passes through the functions and the memory
        among the arguments, so that the device can be replayed.
        """
        return self._backplane.make(cls, *args, **kwargs)

    def add_device(
        self,
        device: Device | LateDevice,
        *,
        pio: range | None = None,
        mmio: range | None = None,
        base: int | None = None,
        coalesced: bool = False,
        default: bool = False,
    ) -> Mapping:
        """Let a device answer at a range of ports or of guest-physical addresses.

        Args:
            device: anything with `name`, `read(offset, size)`, `write(offset, size, value)` and
                `reset()`; or the place of one that is made when it is first wanted.
            pio: its ports; or
            mmio: its guest-physical addresses.
            base: the address that is its offset 0; the range's start unless given.
            coalesced: let KVM collect writes, which the device then sees in order, but only
                when the guest next exits for another reason. For registers where a write
                needs no answer.
            default: give way to a device mapped over it later.

        Raises:
            ConfigError: neither or both of `pio` and `mmio`; a range outside of the bus.
            MappingOverlap: another device, or guest memory, is there.
        """
        return self._backplane.add(
            device, pio=pio, mmio=mmio, base=base, coalesced=coalesced, default=default
        )

    def add_virtio(
        self, device: VirtioDevice, name: str | None = None, *, exits: bool = False
    ) -> VirtioPlace:
        """Put a virtio device into the next free slot: registers, interrupt, and who serves it.

        Args:
            device: the device type.
            name: its name in the machine; its own unless given, with a number behind it where
                that is taken.
            exits: let every notification be an exit, so that the trace has it as one.

        Raises:
            ConfigError: all slots are taken.
            MappingOverlap: something else is there.
        """
        from vmm.virtio.attach import attach

        return attach(self._whole, device, name, exits=exits)

    @property
    def saved_states(self) -> dict[str, dict[str, Any]]:
        """States out of a snapshot, by the names of devices that have not been added yet."""
        return self._backplane.saved

    def claim(self, device: Device | LateDevice) -> None:
        """Give a device that is on a bus already its state out of the snapshot, if it has one."""
        self._backplane.claim(device)

    def on_out(self, port: int, *, coalesced: bool = False) -> Callable[[OutFunction], OutFunction]:
        """Decorate a function that takes what the guest writes to a port: `f(value, size)`."""

        def decorate(function: OutFunction) -> OutFunction:
            self._backplane.on_out(port, function, coalesced=coalesced)
            return function

        return decorate

    def on_in(self, port: int) -> Callable[[InFunction], InFunction]:
        """Decorate a function that answers when the guest reads a port: `f(size) -> value`.

        A function without parameters will do as well.
        """

        def decorate(function: InFunction) -> InFunction:
            self._backplane.on_in(port, function)
            return function

        return decorate

    def irq(self, gsi: int) -> IrqLine:
        """The interrupt line `gsi` as something a device can drive; not connected where the
        machine has no interrupt controller."""
        return self._open().irq(gsi)

    @property
    def _whole(self) -> Machine:
        """The machine that this is a part of."""
        return self  # type: ignore[return-value]
