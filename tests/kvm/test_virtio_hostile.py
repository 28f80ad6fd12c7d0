"""A guest that means harm (`firmware/payloads/hostile.S`): it writes anything to the registers and
rings of every virtio device, for GLASSVM_HOSTILE_SECONDS; `make hostile` gives it minutes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter

import pytest

from devices.virtio import net
from devices.virtio.balloon import Balloon
from devices.virtio.blk import Blk
from devices.virtio.console import ConsolePort, VirtioConsole
from devices.virtio.net import Net
from devices.virtio.rng import Rng
from devices.virtio.vsock import Vsock
from devices.wiring import discard
from tests.kvm.qcow2 import write_qcow2
from vmm.errors import ConfigError
from vmm.host.block import BlockFile
from vmm.mapping import map_over
from vmm.virtio.disks import add_disk
from vmm.virtio.others import add_share
from vmm.virtio.pmem import add_pmem

SECONDS = float(os.environ.get("GLASSVM_HOSTILE_SECONDS", "3"))
pytestmark = [pytest.mark.kvm, pytest.mark.timeout(SECONDS + 120)]

SEED, MORE = 0x10, 0x14
RAM = 2 << 20
PAGE = 4096
DISK = 1 << 16
ROUNDS = 30
"""At the least, on a slow host."""
GROWTH = 32 << 20
"""What the monitor may need for itself, in bytes, over any time."""


class Link:
    """A cable that takes everything, and has a frame now and then."""

    offloads = net.OFFLOADS
    header = False
    mtu = 0

    def __init__(self):
        self._asked = 0
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)

    def agree(self, features):
        pass

    def send(self, parts):
        return sum(map(len, parts)) % 16 != 0

    def receive(self, parts):
        self._asked += 1
        if self._asked % 3:
            return 0
        parts[0][:60] = bytes(60)[: len(parts[0])]
        return min(60, len(parts[0]))

    def close(self):
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Echo:
    """The host's end of a connection: gives back what it took."""

    def __init__(self):
        self._kept = b""

    def read(self, size):
        given, self._kept = self._kept[:size], self._kept[size:]
        return given or None

    def write(self, data):
        taken = bytes(data[: 4096 - len(self._kept)])
        self._kept += taken
        return len(taken)

    def connected(self, port):
        pass

    def end_of_input(self):
        pass

    def close(self):
        pass


def devices(machine, disk):
    """One of each type that is served here, with all that it can."""
    ports = [ConsolePort(discard, console=True), ConsolePort(discard, name="second")]
    return (
        *(Rng(), Blk(disk, queues=2), VirtioConsole(ports), Net(Link(), b"\2\0\0\0\0\1")),
        *(Vsock(3, lambda port: Echo() if port < 16 else None), Balloon(machine.memory.discard)),
    )


def held():
    """Descriptors, threads, and bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * PAGE
    return len(os.listdir("/proc/self/fd")), threading.active_count(), resident


class Canaries:
    """What lies on both sides of a machine's RAM in this process, and that nobody may touch."""

    def __init__(self, memory):
        (ram,) = [region for region in memory if region.kind == "ram"]
        sides = [(ram.hva - ram.skipped, ram.skipped)]
        sides += [(ram.hva + ram.size, len(ram.map) - ram.skipped - ram.size)]
        self._bytes = os.urandom(PAGE) * (sum(size for _, size in sides) // PAGE)
        self._file = os.memfd_create("canaries")
        os.write(self._file, self._bytes)
        offset = 0
        for address, size in sides:
            if size:
                map_over(address, size, self._file, offset, shared=True)
                offset += size

    def live(self):
        return os.pread(self._file, len(self._bytes) + 1, 0) == self._bytes

    def close(self):
        os.close(self._file)


@pytest.fixture
def attacked(vm_factory, tmp_path):
    """A machine with the guest, and with a device of each type."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(DISK))
    with contextlib.ExitStack() as at_end:

        def make(**options):
            machine = vm_factory("payload:hostile", memory=RAM, **options)
            disk = at_end.enter_context(BlockFile(image, access="writable"))
            at_end.callback(machine.close)
            for device in devices(machine, disk):
                machine.add_virtio(device)
            storage = tmp_path / "pmem.img"
            storage.write_bytes(bytes(2 << 20))
            add_pmem(machine, str(storage))
            if machine.irqchip:
                # Not everywhere are there virtiofsd and qemu-storage-daemon.
                with contextlib.suppress(ConfigError):
                    add_share(machine, str(tmp_path))
                with contextlib.suppress(ConfigError):
                    add_disk(machine, str(write_qcow2(tmp_path / "disk.qcow2")))
            return machine

        yield make


@pytest.mark.parametrize("irqchip", [True, False])
@pytest.mark.parametrize("seed", [1, 0xDEADBEEF])
def test_the_monitor_lives(attacked, vm_factory, tmp_path, irqchip, seed):
    outside = tmp_path / "outside"
    outside.write_bytes(os.urandom(PAGE))
    kept = outside.read_bytes()
    other = vm_factory(memory=RAM, irqchip=irqchip)
    alone = threading.active_count()
    other.memory.write(0, kept * (RAM // PAGE))
    actions, before = Counter(), []
    machine = attacked(irqchip=irqchip, console=lambda text: actions.update(text.decode()))
    canaries = Canaries(machine.memory)
    machine.on_in(SEED)(lambda: seed)
    end = time.monotonic() + SECONDS

    @machine.on_in(MORE)
    def more():
        actions["rounds"] += 1
        if actions["rounds"] == 10:
            before.extend(held()[::2])
        return int(time.monotonic() < end or actions["rounds"] < ROUNDS)

    result = machine.run(timeout=SECONDS + 90)
    descriptors, threads, resident = held()
    print(f"{result.exits:,} exits; {dict(actions)}; {list(machine.notes)}")
    print({place.name: place.counters() for place in machine.virtio})
    assert result.reason == "debug_exit", result.report()
    gone = list(machine.notes)  # other processes may leave when they are attacked
    assert result.value == len(gone), "every device serves a driver that behaves"
    assert actions["x"] == 0 or gone
    assert min(actions[letter] for letter in ("rounds", "k", "s", "r", "o")) >= 10
    assert all(
        place.transport.notifications for place in machine.virtio if not place.device.handed_over
    )
    # Nothing was touched that is not the guest's.
    assert canaries.live()
    assert other.memory.read(0, RAM) == kept * (RAM // PAGE)
    assert outside.read_bytes() == kept
    assert (tmp_path / "disk.img").stat().st_size == DISK
    # Nothing grows. Threads are those of queues and of host events, which come when first wanted.
    own = sum(len(place.device.queue_sizes) for place in machine.virtio if place.device.blocks)
    assert descriptors <= before[0]
    assert threads <= alone + own + 1
    assert resident - before[1] < GROWTH
    canaries.close()
