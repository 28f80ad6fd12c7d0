"""Devices that others serve, in a machine: what a snapshot asks of them, and what cannot be had."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

import vmm
from devices.virtio.device import VERSION_1, VirtioDevice
from devices.virtio.driver import Driver
from vmm.errors import ConfigError, SnapshotError
from vmm.memory import GuestMemory
from vmm.virtio import networks
from vmm.virtio.handed_over import HandedOver
from vmm.virtio_slots import SLOTS

pytestmark = pytest.mark.kvm


class Playing:
    """A server that keeps what it is told."""

    name = "played"
    features = VERSION_1
    queue_sizes: tuple[int, ...] = (64,)
    served: Sequence[int] = (0,)
    hangup_fd = -1

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kick = -1

    def share(self, memory: GuestMemory) -> None:
        self.told.append("share")

    def set_features(self, bits: int) -> None:
        pass

    def set_vring(self, index: int, *, size: int, desc: int, avail: int, used: int) -> None:
        pass

    def set_vring_base(self, index: int, base: int) -> None:
        self.told.append(f"from {base}")

    def vring_base(self, index: int) -> int:
        return 5

    def set_kick(self, index: int, eventfd: int) -> None:
        self.kick = eventfd

    def set_call(self, index: int, eventfd: int) -> None:
        pass

    def start(self, queues: Sequence[int]) -> None:
        self.told.append("start")

    def stop(self, queues: Sequence[int]) -> None:
        self.told.append("stop")

    def close(self) -> None:
        self.told.append("close")


class Registers:
    """A device's registers, as a guest reaches them over the bus."""

    def __init__(self, machine: vmm.Machine, base: int) -> None:
        self.bus, self.base = machine.mmio, base

    def read(self, offset: int, size: int) -> int:
        return self.bus.read(self.base + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.bus.write(self.base + offset, size, value)


def test_a_snapshot_takes_the_queues_back_for_its_time_and_a_reset_is_refused() -> None:
    server = Playing()
    with vmm.Machine(memory="1M", irqchip=True) as machine:
        place = machine.add_virtio(HandedOver(server))
        driver = Driver(Registers(machine, place.gpa), machine.memory, 0x1000, room=0x4000)
        assert driver.start()
        assert server.told == ["share", "from 0", "start"]
        assert os.eventfd_read(server.kick) >= 1  # what waits already is looked for
        del server.told[:]
        with machine.snapshot() as snapshot:
            assert server.told == ["stop", "from 5", "start"]
            # Pages that the server wrote are in no log: they would stay as they are.
            with pytest.raises(SnapshotError, match="what played writes to its memory"):
                machine.reset_to(snapshot)
    assert server.told[-1] == "close"


def test_it_needs_interrupt_controllers() -> None:
    with (
        vmm.Machine(memory="1M") as machine,
        pytest.raises(ConfigError, match="needs interrupt controllers"),
    ):
        machine.add_virtio(HandedOver(Playing()))


def test_a_cable_is_pulled_where_there_is_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Cable:
        offloads, header, mtu, fd = 0, False, 0, -1

        def __init__(self, **_: object) -> None:
            pass

        def agree(self, features: int) -> None:
            pass

        def send(self, parts: object) -> bool:
            return False

        def receive(self, parts: object) -> int:
            return 0

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(networks, "Passt", Cable)
    with vmm.Machine(memory="1M", irqchip=True) as machine:
        for _ in SLOTS:
            machine.add_virtio(VirtioDevice())
        with pytest.raises(ConfigError, match="room for"):
            networks.add_net(machine, "user")
    assert closed == [True]
