"""What a device type is to its transport.

A device type says what it offers: its number, features, queues and configuration space. The
transport agrees with the driver upon features, finds the queues, and then has them served. Of all
that a driver can do wrong with status, rings and registers a device type sees nothing; what it
gets are requests, as chains of buffers.

    class Reverse(VirtioDevice):
        device_id = 0x1234
        queue_sizes = (64,)

        def serve(self, queue):
            for chain in queue:
                queue.push(chain, chain.write(chain.read()[::-1]))

Spec: virtio 1.2, "Basic Facilities of a Virtio Device", "Device Types", "Reserved Feature Bits".
"""

from __future__ import annotations

from devices.records import Record
from devices.registers import RegisterTable
from devices.states import require
from devices.wiring import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from devices.protocols import State
    from devices.virtio.queue import Queue
    from devices.virtio.transport import Transport

__all__ = [
    "EVENT_IDX",
    "INDIRECT_DESC",
    "RING_RESET",
    "VERSION_1",
    "ConfigState",
    "NoDevice",
    "VirtioDevice",
]

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
RING_RESET = 1 << 40
"""Feature bits that belong to no device type."""


class ConfigState(Record):
    """The configuration space of a device type that has no other state."""

    kind: ClassVar[str] = "virtio-config"
    version: ClassVar[int] = 1

    values: tuple[int, ...]


class VirtioDevice:
    """The base of device types: offers nothing, and takes what a type does not care for.

    What is called here is called with the device's queues at rest, except `serve`.
    """

    device_id: ClassVar[int] = 0
    queue_sizes: tuple[int, ...] = ()
    """How many descriptors each queue has at most: powers of two."""
    features: int = 0
    """The bits of its own that it offers."""
    config: ClassVar[RegisterTable] = RegisterTable()
    """Its configuration space, offsets from the space's start. Only whoever may write to a
    register has it declared writable."""
    blocks: bool = False
    """Its requests may take long: they are served on threads of its own, one a queue, and not
    under the machine's lock."""
    handed_over: tuple[int, ...] = ()
    """The queues that others serve, who interrupt the driver past this process."""
    common: int = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET
    """The features that it offers and that belong to no device type."""
    name: str = "virtio"

    def __init__(self) -> None:
        self.values: dict[str, int] = self.config.resets()
        """What the configuration space holds."""
        self.transport: Transport | None = None
        """What it is behind, once it is."""

    def accepts(self, features: int) -> bool:
        """Whether the device can work with what the driver has chosen of its offer."""
        return True

    def activate(self, features: int) -> None:
        """The driver is ready (DRIVER_OK); `features` is what was agreed upon."""

    def reset(self) -> None:
        """Forget what the driver did; what the configuration space tells is kept."""

    def serve(self, queue: Queue) -> None:
        """Carry out what waits in a queue.

        Raises:
            RingError: a chain is none, or no request of this type; the device needs a reset.
        """

    def input_fd(self, index: int) -> int:
        """A file that, once it is readable, is a reason to serve a queue again; -1: none.

        Asked behind each pass over a queue, where requests may take long (`blocks`).
        """
        return -1

    def pause(self) -> None:
        """Have others serve its queues no more, for a while."""

    def resume(self) -> None:
        """Have them served again."""

    def close(self) -> None:
        """Give back what it holds outside. May be called twice."""

    def write_config(self, name: str, value: int) -> None:
        """The driver has written to a register of the configuration space."""
        self.values[name] = self.config[name].merge(self.values[name], value)

    def counters(self) -> dict[str, int]:
        """What it has done since it was made, by name; a name that ends in "bytes" counts those."""
        return {}

    def save(self) -> State:
        """Return all that a device of this type has to remember."""
        return ConfigState(tuple(self.values.values()))

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from.

        Raises:
            StateError: it does not fit; nothing has changed.
        """
        state = require(state, ConfigState)
        self.values = check_values(self.config, state.values)


def check_values(table: RegisterTable, values: object) -> dict[str, int]:
    """The values of a table's registers out of a state, by name.

    Raises:
        StateError: they are others.
    """
    registers = list(table)
    if type(values) is not tuple or len(values) != len(registers):
        raise StateError(f"a configuration space of {len(registers)} registers is something else")
    for register, value in zip(registers, values, strict=True):
        if type(value) is not int or not 0 <= value < 1 << 8 * register.size:
            raise StateError(f"register {register.name} = {value!r}: not {register.size} bytes")
    return {register.name: value for register, value in zip(registers, values, strict=True)}


class NoDevice(VirtioDevice):
    """Nothing: a place that is kept free. Drivers pass it by."""

    name = "virtio-none"
