"""virtio devices in a machine: notified by ioeventfd, heard by irqfd, saved and forked."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import time

import pytest

import vmm
from devices.virtio.blk import Blk
from devices.virtio.device import VirtioDevice
from devices.virtio.driver import Driver
from devices.virtio.rng import Rng
from tests.kvm.virtio_rig import GUEST, GUEST_CODE, ROOM, Registers, Rig
from vmm.errors import ConfigError, DeviceFault, LifecycleError
from vmm.host.block import BlockFile
from vmm.trace.layout import QUEUE
from vmm.virtio.disks import add_console, add_disk

pytestmark = pytest.mark.kvm


class Reverse(VirtioDevice):
    """Gives back what it gets, the other way round."""

    device_id = 0x1234
    queue_sizes = (64, 64)
    name = "reverse"

    def serve(self, queue):
        for chain in queue:
            self.thread = threading.current_thread().name
            queue.push(chain, chain.write(chain.read()[::-1]))


class Slow(Reverse):
    blocks = True
    name = "slow"


@pytest.fixture
def rig(vm_factory):
    def make(device, requests, *, irqchip=True, before=0, **options):
        machine = vm_factory(memory="2M", irqchip=irqchip)
        for _ in range(before):
            machine.add_virtio(Rng())
        place = machine.add_virtio(device, **options)
        made = Rig(machine, place, requests)
        made.place_guest()
        return made

    return make


REQUESTS = [(0, b"hello", 16), (1, b"there", 16), (0, b"again", 3), (1, bytes(range(200)), 200)]
ANSWERS = [(n, data[::-1][:room]) for n, data, room in REQUESTS]


def notify_exits(machine, place):
    """How often the guest left KVM to notify the device."""
    return sum(
        one.address == place.gpa + 0x50 and one.write
        for vcpu in machine.vcpus
        for one in vcpu.last_exits(10_000)
    )


@pytest.mark.parametrize("device", [Reverse, Slow])
def test_a_guest_notifies_without_an_exit_and_is_interrupted(rig, device):
    r = rig(device(), REQUESTS)
    result = r.machine.run(timeout=30)
    assert r.answers == ANSWERS
    assert (result.reason, result.value) == ("debug_exit", len(REQUESTS)), "interrupts"
    assert r.place.eventfds
    assert notify_exits(r.machine, r.place) == 0
    wanted = "host-events" if device is Reverse else "slow.1"
    assert r.place.device.thread == wanted
    assert r.place.transport.interrupts == len(REQUESTS)


def test_notifications_can_be_exits(rig):
    r = rig(Slow(), REQUESTS, exits=True)
    assert r.machine.run(timeout=30).value == len(REQUESTS)
    assert r.answers == ANSWERS
    assert notify_exits(r.machine, r.place) == len(REQUESTS)


def test_what_was_served_is_in_the_trace(rig):
    r = rig(Reverse(), REQUESTS)
    r.machine.run(timeout=30)
    events = r.machine.trace.read().events
    served = [(e["value"], e["count"]) for e in events if e["kind"] == QUEUE and e["count"]]
    assert served == [(n, 1) for n, _, _ in REQUESTS]
    assert {e["address"] for e in events if e["kind"] == QUEUE} == {r.place.gpa}


@pytest.mark.parametrize("before", [1, 8, 12])
def test_every_slot_has_its_line(rig, before):
    r = rig(Reverse(), REQUESTS, before=before)
    assert r.machine.run(timeout=30).value == len(REQUESTS)
    assert r.answers == ANSWERS


def test_random_numbers_come_from_the_source(rig):
    r = rig(Rng(source=lambda size: b"r" * size), [(0, b"", 100), (0, b"", 7)])
    assert r.machine.run(timeout=30).value == 2
    assert r.answers == [(0, b"r" * 100), (0, b"r" * 7)]


POLLING = """
    mov ebx, [0x900]
again:
    mov dx, 0x10
    in eax, dx
    cmp eax, -1
    je over
    mov [rbx + 0x50], eax
    jmp again
over:
    out 0xF4, eax
    hlt
"""
POLLING_CODE = bytes.fromhex("""
    8b 1c250009 000066ba 1000ed83 f8ff7405 894350eb f1e7f4f4
""")


@pytest.mark.command
@pytest.mark.parametrize(("text", "code"), [(GUEST, GUEST_CODE), (POLLING, POLLING_CODE)])
def test_the_guests_are_what_their_texts_say(guest_asm, text, code):
    assert guest_asm(text) == code


@pytest.mark.parametrize("device", [Reverse, Slow])
def test_without_interrupt_controllers_queues_are_served_within_the_exit(vm_factory, device):
    machine = vm_factory(memory="2M", irqchip=False)
    place = machine.add_virtio(device())
    machine.memory.write(0x900, struct.pack("<Q", place.gpa))
    machine.memory.write(0x10_0000, POLLING_CODE)
    machine.start_at(0x10_0000, "long")
    r = Rig(machine, place, REQUESTS)
    machine.run(timeout=30)
    assert not place.eventfds
    assert r.answers == ANSWERS


class Fed(VirtioDevice):
    """Hands on what its host has for it."""

    device_id = 0x1234
    queue_sizes = (8,)
    blocks = True
    name = "fed"

    def __init__(self):
        super().__init__()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.passes = 0

    def serve(self, queue):
        self.passes += 1
        with contextlib.suppress(BlockingIOError):
            data = b"%d" % os.eventfd_read(self.fd)
            for chain in queue:
                queue.push(chain, chain.write(data))

    def input_fd(self, index):
        return self.fd

    def close(self):
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize("irqchip", [True, False])
def test_input_has_its_queue_served(vm_factory, until, irqchip):
    machine = vm_factory(memory="2M", irqchip=irqchip)
    device = Fed()
    r = Rig(machine, machine.add_virtio(device), [])
    queue = r.place.transport.queues[0]
    for number, value in enumerate((b"7", b"88"), 1):
        until(lambda: device.passes)  # it waits for input
        r.driver.queues[0].add(writable=[(r.driver.buffers, 4)])
        os.eventfd_write(device.fd, int(value))
        until(lambda number=number: queue.next_used == number)
        assert machine.memory.read(r.driver.buffers, len(value)) == value
    passes = device.passes
    with machine.lock:
        r.driver.write(0x070, 0)  # a reset
    os.eventfd_write(device.fd, 1)
    time.sleep(0.05)
    assert device.passes == passes, "nobody listens any more"


def test_a_device_that_raises_fails_the_machine(rig):
    class Broken(Slow):
        def serve(self, queue):
            if queue.refresh():
                raise ZeroDivisionError("a mistake")

    r = rig(Broken(), REQUESTS)
    with pytest.raises(DeviceFault, match="slow failed at queue 0: ZeroDivisionError: a mistake"):
        r.machine.run(timeout=30)


def test_a_hostile_ring_leaves_the_machine_alone(rig, until):
    r = rig(Reverse(), [])
    queue = r.driver.queues[1]
    queue.describe(0, 0xFFFF_FFFF_0000, 4096, 3, 0)
    queue.make_available(0)
    r.requests.append((0, b"x", 1))
    r.machine.mmio.write(r.place.gpa + 0x50, 4, 1)
    until(lambda: r.place.transport.fault)
    assert r.driver.read(0x070) & 64
    assert r.driver.read(0x060) == 2


def test_slots_and_names(vm_factory):
    machine = vm_factory(memory="2M", irqchip=True)
    places = [machine.add_virtio(Rng()) for _ in range(14)]
    assert machine.virtio == places
    assert [p.gpa for p in places] == [0xD000_0000 + n * 0x1000 for n in range(14)]
    assert [p.gsi for p in places] == [*range(16, 24), 5, 10, 11, 6, 7, 3]
    assert [p.name for p in places[:3]] == ["virtio-rng", "virtio-rng1", "virtio-rng2"]
    assert machine.devices["virtio-rng1"] is places[1].registers
    with pytest.raises(ConfigError, match="room for 14"):
        machine.add_virtio(Rng())
    other = vm_factory(memory="2M")
    with pytest.raises(ConfigError, match="already"):
        other.add_virtio(places[0].device)


# Snapshots.


def test_a_copy_goes_on_with_the_same_queues(rig):
    r = rig(Slow(), REQUESTS)
    r.machine.run(timeout=30, max_exits=5)
    state = r.machine.snapshot()
    copy = vmm.restore(state)
    try:
        place = copy.add_virtio(Slow())
        assert place.registers.save() == r.place.registers.save()
        r.driver.memory = copy.memory
        for queue in r.driver.queues:
            queue.memory = copy.memory
        r.connect(copy)
        assert copy.run(timeout=30).value == len(REQUESTS)
        assert r.answers == ANSWERS
    finally:
        copy.close()


def test_what_was_available_at_the_snapshot_is_served_afterwards(rig, until):
    """The notification was before the snapshot and reached nobody: the device is busy then."""
    r = rig(Slow(), [(0, b"abc", 3)])
    machine = r.machine
    machine.run(timeout=30, max_exits=1)  # in at port 0x10: a request is there, not notified
    state = machine.snapshot()
    copy = vmm.restore(state)
    try:
        place = copy.add_virtio(Slow())
        queue = place.transport.queues[0]
        until(lambda: queue.next_used == 1)
        used = r.driver.queues[0].used
        assert struct.unpack("<H", copy.memory.read(used + 2, 2))[0] == 1
    finally:
        copy.close()


def test_a_machine_can_be_reset_again_and_again(rig):
    r = rig(Slow(), REQUESTS)
    with r.machine.snapshot() as state:
        for _ in range(5):
            r.requests, r.answers = list(REQUESTS), []
            for queue in r.driver.queues:
                queue.avail_index = queue.used_index = queue._added = 0
                queue.free, queue._chains = list(range(63, -1, -1)), {}
            r.machine.reset_to(state)
            assert r.machine.run(timeout=30).value == len(REQUESTS)
            assert r.answers == ANSWERS


@pytest.mark.parametrize("device", [Reverse, Slow])
def test_snapshots_under_load(rig, background, device):
    """The queues are busy whenever one is taken; nothing hangs, and nothing is done twice."""
    in_lab = "GLASSVM_LAB" in os.environ
    count = 30 if in_lab else 300
    requests = [(n & 1, b"%04d" % n, 4) for n in range(count)]
    r = rig(device(), requests)
    line = r.machine.irq(r.place.gsi)
    run = background(lambda: r.machine.run(timeout=60))
    taken = 0
    while not run.done:
        try:
            r.machine.snapshot().close()
        except LifecycleError:
            break
        taken += 1
        if in_lab and taken % 50 == 0:
            # QEMU's VMRUN forgets the interrupt shadow of STI: the interrupt that the guest waits
            # for may come before its HLT, and then it waits for this one.
            line(True)
            line(False)
    assert run.result().value == count
    assert r.answers == [(n, data[::-1]) for n, data, _ in requests]
    assert taken > 0


# Disks.

IN, OUT = 0, 1


def asks(kind, sector, data=b"", room=0, queue=0):
    """A request of a disk: what is sent, and room for data and status."""
    return queue, struct.pack("<IIQ", kind, 0, sector) + data, room + 1


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(bytes([n]) * 512 for n in range(64)))
    return path


@pytest.fixture
def opened():
    """Opens disks, which are closed behind the machines."""
    made = []

    def open_(path, access="writable"):
        made.append(BlockFile(path, access=access))
        return made[-1]

    yield open_
    for disk in made:
        disk.close()


def test_a_guest_reads_and_writes_a_disk(rig, image, opened):
    requests = [
        asks(IN, 3, room=1024),
        asks(OUT, 5, b"w" * 512, queue=1),
        asks(IN, 5, room=512),
        asks(IN, 64, room=512),
    ]
    r = rig(Blk(opened(image), queues=2), requests)
    result = r.machine.run(timeout=30)
    assert result.value == len(requests)
    read, written, again, outside = r.answers
    assert read == (0, b"\3" * 512 + b"\4" * 512 + b"\0")
    assert written == (1, b"\0")
    assert again == (0, b"w" * 512 + b"\0")
    assert outside == (0, b""), "nothing of the buffer is valid"
    assert image.read_bytes()[5 * 512 : 6 * 512] == b"w" * 512
    counters = r.place.counters()
    assert (counters["reads"], counters["writes"], counters["errors"]) == (2, 1, 1)
    assert counters["interrupts"] == len(requests)


def test_what_is_written_privately_is_in_snapshots(vm_factory, image):
    machine = vm_factory(memory="2M")
    add_disk(machine, f"{image}:cow")
    disk = machine.virtio[0].device.disk
    disk.write_from(512, [memoryview(b"p" * 512)])
    with machine.snapshot() as state:
        disk.write_from(1024, [memoryview(b"q" * 512)])
        machine.reset_to(state)
        buffer = memoryview(bytearray(1024))
        disk.read_into(512, [buffer])
        assert bytes(buffer) == b"p" * 512 + b"\2" * 512
    assert image.read_bytes()[512] == 1


def test_a_disk_for_guests_without_a_bios(boot, image):
    machine = boot("payload:hello64", disks=[f"{image},serial=S-1"], irqchip=True)
    assert [place.name for place in machine.virtio] == ["virtio-blk"]
    disk = machine.virtio[0].device.disk
    assert (disk.serial, disk.access) == (b"S-1", "writable")
    assert machine.run(timeout=30).reason == "halt"
    copy = machine.fork()
    try:
        assert copy.virtio[0].device.disk.access == "private"
    finally:
        copy.close()
    with pytest.raises(ConfigError, match="--irqchip on"):
        boot("payload:hello64", disks=[str(image)])


def test_a_boot_sectors_disks_are_the_bioss(boot, image):
    machine = boot("payload:bootsector", disks=[str(image)], rng=True, virtio_console=True)
    assert [place.name for place in machine.virtio] == ["virtio-rng", "virtio-console"]
    assert machine.bios.host.disks[0x80].path == image


def test_a_virtio_console_is_the_machines(boot):
    machine = boot("payload:hello64", irqchip=True, virtio_console=True)
    place = machine.virtio[0]
    driver = Driver(Registers(machine, place), machine.memory, 0x10_0000 + 0x1_0000, ROOM)
    with machine.lock:
        assert driver.start()
        driver.write(0x108, ord("!"))
        assert place.registers.read(0x100, 2) == 80
    assert machine.console.output == b"!"


def test_the_guest_is_told_the_terminals_size(vm_factory, monkeypatch, until):
    sizes = [os.terminal_size((100, 30))]
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: sizes[-1])
    before = signal.getsignal(signal.SIGWINCH)
    machine = vm_factory(memory="2M")
    values = add_console(machine, terminal=True).device.values
    assert (values["cols"], values["rows"]) == (100, 30)
    sizes.append(os.terminal_size((132, 50)))
    os.kill(os.getpid(), signal.SIGWINCH)
    until(lambda: (values["cols"], values["rows"]) == (132, 50))
    machine.close()
    assert signal.getsignal(signal.SIGWINCH) == before
