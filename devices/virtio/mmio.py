"""virtio over MMIO: the registers in front of a transport, and the configuration space behind them.

Modelled: version 2 of the layout, all of it. Control registers answer 32-bit accesses at their own
offset only, which is all that a driver may make; the configuration space takes any width. Left out:
the legacy layout (version 1) and VIRTIO_F_NOTIFICATION_DATA, which is not offered.

A queue is set up while it is not ready: writes to its size and addresses are ignored afterwards, as
are all writes to features once FEATURES_OK is set. Resetting a queue has been done when
the write to QueueReset returns, so that QueueReset always reads as 0.

Spec: virtio 1.2, "Virtio Over MMIO".
"""

from __future__ import annotations

from functools import partial

from devices.registers import Register, RegisterDevice, RegisterTable, bits
from devices.virtio.transport import USED_BUFFER, Transport
from devices.wiring import Signal, StateError, no_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from devices.protocols import DmaMemory, State
    from devices.virtio.device import VirtioDevice
    from devices.virtio.queue import Queue
    from devices.virtio.transport import TransportState

__all__ = ["CONFIG", "NOTIFY", "REGISTERS", "SIZE", "VENDOR", "VirtioMmio"]

SIZE = 0x1000
"""The bytes that a device is given: registers, configuration space, and room."""
NOTIFY = 0x050
"""The offset of QueueNotify."""
CONFIG = 0x100
"""Where the configuration space begins."""
VENDOR = int.from_bytes(b"GLSS", "little")

_STATUS = bits(ACKNOWLEDGE=0, DRIVER=1, DRIVER_OK=2, FEATURES_OK=3, NEEDS_RESET=6, FAILED=7)
_EVENTS = bits(USED_BUFFER=0, CONFIG_CHANGED=1)


def _control(name: str, offset: int, access: str, **more: object) -> Register:
    return Register(name, offset, 4, access, exact=True, **more)  # type: ignore[arg-type]


CONTROL = (
    _control("MagicValue", 0x000, "r", reset=int.from_bytes(b"virt", "little")),
    _control("Version", 0x004, "r", reset=2),
    _control("DeviceID", 0x008, "r"),
    _control("VendorID", 0x00C, "r", reset=VENDOR),
    _control("DeviceFeatures", 0x010, "r", doc="32 bits of them: word DeviceFeaturesSel."),
    _control("DeviceFeaturesSel", 0x014, "w"),
    _control("DriverFeatures", 0x020, "w", doc="32 bits of them: word DriverFeaturesSel."),
    _control("DriverFeaturesSel", 0x024, "w"),
    _control("QueueSel", 0x030, "w", doc="The queue that the Queue registers belong to."),
    _control("QueueNumMax", 0x034, "r", doc="0 where there is no such queue."),
    _control("QueueNum", 0x038, "w"),
    _control("QueueReady", 0x044, "rw"),
    _control("QueueNotify", NOTIFY, "w", doc="The number of a queue that has new buffers."),
    _control("InterruptStatus", 0x060, "r", fields=_EVENTS),
    _control("InterruptACK", 0x064, "w", fields=_EVENTS),
    _control("Status", 0x070, "rw", fields=_STATUS, doc="Writing 0 resets the device."),
    _control("QueueDescLow", 0x080, "w"),
    _control("QueueDescHigh", 0x084, "w"),
    _control("QueueDriverLow", 0x090, "w", doc="The available ring."),
    _control("QueueDriverHigh", 0x094, "w"),
    _control("QueueDeviceLow", 0x0A0, "w", doc="The used ring."),
    _control("QueueDeviceHigh", 0x0A4, "w"),
    _control("SHMSel", 0x0AC, "w", doc="The shared memory region that the next four tell of."),
    _control("SHMLenLow", 0x0B0, "r", doc="All ones where there is no such region."),
    _control("SHMLenHigh", 0x0B4, "r"),
    _control("SHMBaseLow", 0x0B8, "r"),
    _control("SHMBaseHigh", 0x0BC, "r"),
    _control("QueueReset", 0x0C0, "rw"),
    _control("ConfigGeneration", 0x0FC, "r"),
)
REGISTERS = RegisterTable(*CONTROL)

_SELECTORS = ("DeviceFeaturesSel", "DriverFeaturesSel", "QueueSel", "SHMSel")
_ALL_ONES = (1 << 64) - 1
_LOW, _HIGH = 0, 32


class VirtioMmio(RegisterDevice):
    """A virtio device on the bus.

    Its name is the device type's unless another is given; the other arguments are those of
    `devices.virtio.transport.Transport`, which is its `transport`.
    """

    registers = REGISTERS

    def __init__(
        self,
        device: VirtioDevice | None = None,
        name: str | None = None,
        *,
        memory: DmaMemory | None = None,
        interrupt: Signal = no_signal,
        guard: AbstractContextManager[object] | None = None,
        still: AbstractContextManager[object] | None = None,
        kick: Callable[[int], None] | None = None,
    ) -> None:
        self.transport = Transport(
            device,
            memory=memory,
            interrupt=interrupt,
            guard=guard,
            still=still,
            kick=kick,
        )
        self.device = self.transport.device
        self.shared_memory: dict[int, tuple[int, int]] = {}
        """Shared memory regions by their ids: guest-physical address and size in bytes."""
        if len(self.device.config):
            space = [_moved(register) for register in self.device.config]
            self.registers = RegisterTable(*CONTROL, *space)
            for register in space:
                self._connect_config(register.name)
        super().__init__(self.device.name if name is None else name)

    # -- registers --------------------------------------------------------------------------

    def read_DeviceID(self) -> int:
        """Return the number of the device type."""
        return self.device.device_id

    def read_DeviceFeatures(self) -> int:
        """Return the chosen 32 bits of what is offered; 0 behind bit 63."""
        word = self.values["DeviceFeaturesSel"]
        return self.transport.offered >> 32 * word & 0xFFFF_FFFF if word < 2 else 0

    def write_DriverFeatures(self, value: int) -> None:
        """Take the chosen 32 bits of what the driver accepts."""
        self.transport.accept(self.values["DriverFeaturesSel"], value)

    def read_QueueNumMax(self) -> int:
        """Return how many entries the chosen queue can have."""
        queue = self._queue
        return 0 if queue is None else queue.max_size

    def write_QueueNum(self, value: int) -> None:
        """Take how many entries the chosen queue has."""
        queue = self._queue
        if queue is not None and not queue.ready:
            queue.size = min(value, 0xFFFF)  # which no queue can be

    def read_QueueReady(self) -> int:
        """Return whether the chosen queue is in use."""
        queue = self._queue
        return 0 if queue is None else int(queue.ready)

    def write_QueueReady(self, value: int) -> None:
        """Put the chosen queue into use, or out of it."""
        self.transport.set_ready(self.values["QueueSel"], bool(value & 1))

    def write_QueueNotify(self, value: int) -> None:
        """Serve a queue."""
        self.transport.notify(value)

    def read_InterruptStatus(self) -> int:
        """Return what the driver has been interrupted for."""
        # Of interrupts that others raise nothing is known: there may be used buffers.
        return self.transport.interrupt_status | (USED_BUFFER if self.device.handed_over else 0)

    def write_InterruptACK(self, value: int) -> None:
        """Take back what was handled."""
        self.transport.acknowledge(value)

    def read_Status(self) -> int:
        """Return how far driver and device have come."""
        return self.transport.status

    def write_Status(self, value: int) -> None:
        """Take a step, or begin again."""
        self.transport.set_status(value)

    def write_QueueDescLow(self, value: int) -> None:
        """Take half of the address of the descriptor table."""
        self._place("desc", _LOW, value)

    def write_QueueDescHigh(self, value: int) -> None:
        """Take the other half."""
        self._place("desc", _HIGH, value)

    def write_QueueDriverLow(self, value: int) -> None:
        """Take half of the address of the available ring."""
        self._place("avail", _LOW, value)

    def write_QueueDriverHigh(self, value: int) -> None:
        """Take the other half."""
        self._place("avail", _HIGH, value)

    def write_QueueDeviceLow(self, value: int) -> None:
        """Take half of the address of the used ring."""
        self._place("used", _LOW, value)

    def write_QueueDeviceHigh(self, value: int) -> None:
        """Take the other half."""
        self._place("used", _HIGH, value)

    def read_SHMLenLow(self) -> int:
        """Return half of the chosen region's size."""
        return self._region[1] & 0xFFFF_FFFF

    def read_SHMLenHigh(self) -> int:
        """Return the other half."""
        return self._region[1] >> 32

    def read_SHMBaseLow(self) -> int:
        """Return half of the chosen region's address."""
        return self._region[0] & 0xFFFF_FFFF

    def read_SHMBaseHigh(self) -> int:
        """Return the other half."""
        return self._region[0] >> 32

    def read_QueueReset(self) -> int:
        """Return 0: no reset of a queue lasts."""
        return 0

    def write_QueueReset(self, value: int) -> None:
        """Reset the chosen queue."""
        if value & 1:
            self.transport.reset_queue(self.values["QueueSel"])

    def read_ConfigGeneration(self) -> int:
        """Return a number that changes when the configuration space does."""
        return self.transport.generation

    # -- the machine ------------------------------------------------------------------------

    def reset(self) -> None:
        """Return to the state after power-on."""
        super().reset()
        self.transport.reset()
        self.transport.generation = 0

    def save(self) -> TransportState:
        """Return the transport's state, and what the selectors are set to."""
        return self.transport.save(tuple(self.values[name] for name in _SELECTORS))

    def load(self, state: State) -> None:
        """Become the device that `state` was saved from.

        Raises:
            StateError: it is another device's; nothing has changed.
        """
        selectors = getattr(state, "selectors", ())
        if type(selectors) is tuple and len(selectors) != len(_SELECTORS):
            raise StateError(f"'virtio' field selectors: there are {len(_SELECTORS)}")
        self.transport.load(state)
        self.values.update(zip(_SELECTORS, selectors, strict=True))

    # -- inside -----------------------------------------------------------------------------

    @property
    def _queue(self) -> Queue | None:
        queues, index = self.transport.queues, self.values["QueueSel"]
        return queues[index] if index < len(queues) else None

    @property
    def _region(self) -> tuple[int, int]:
        return self.shared_memory.get(self.values["SHMSel"], (_ALL_ONES, _ALL_ONES))

    def _place(self, ring: str, shift: int, value: int) -> None:
        queue = self._queue
        if queue is not None and not queue.ready:
            kept = getattr(queue, ring) & ~(0xFFFF_FFFF << shift)
            setattr(queue, ring, kept | value << shift)

    def _connect_config(self, name: str) -> None:
        device = self.device

        def read() -> int:
            return device.values[name]

        setattr(self, f"read_{name}", read)
        setattr(self, f"write_{name}", partial(device.write_config, name))


def _moved(register: Register) -> Register:
    """A register of the configuration space where it is on the bus."""
    return Register(**{**vars(register), "offset": register.offset + CONFIG})
