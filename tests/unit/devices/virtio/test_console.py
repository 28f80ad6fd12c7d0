from __future__ import annotations

import struct

import pytest

from devices import StateError
from devices.virtio.console import ConsolePort, VirtioConsole
from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio

READY, ADD, PORT_READY, CONSOLE, RESIZE, OPEN, NAME = 0, 1, 3, 4, 5, 6, 7


class Bench:
    def __init__(self, ports=None, **more):
        self.memory = Ram(1 << 20)
        self.out = []
        self.room = []
        made = [ConsolePort(self.out.append, lambda: self.room.append(1), console=True)]
        self.console = VirtioConsole(ports or made, **more)
        self.device = VirtioMmio(self.console, memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1000)
        assert self.driver.start((1 << 40) - 1)
        self.buffers = {}

    def give(self, queue, size=16, count=1):
        """Give the device buffers to fill."""
        for _ in range(count):
            at = self.driver.buffers + 0x1000 + 64 * sum(map(len, self.buffers.values()))
            head = self.driver.queues[queue].add([], [(at, size)])
            self.buffers.setdefault(queue, {})[head] = at
        self.driver.notify(queue)

    def got(self, queue):
        """What was filled, one after the other."""
        return [
            self.memory.read(self.buffers[queue][head], size)
            for head, size in self.driver.queues[queue].finished()
        ]

    def tell(self, port, event, value=0):
        self.driver.ask(3, struct.pack("<IHH", port, event, value))


def test_the_configuration_space():
    bench = Bench(size=(132, 43))
    assert bench.device.read(0x008, 4) == 3
    assert bench.device.read(0x100, 2) == 132
    assert bench.device.read(0x102, 2) == 43
    assert len(bench.driver.queues) == 2
    assert bench.driver.offered() & 7 == 5


def test_output_is_sent():
    bench = Bench()
    bench.driver.ask(1, b"hello, ")
    bench.driver.ask(1, b"world")
    assert b"".join(bench.out) == b"hello, world"


def test_output_of_one_request_has_a_bound():
    bench = Bench()
    bench.driver.queues[1].add([(0, 1 << 19)] * 5)
    bench.driver.notify(1)
    assert sum(map(len, bench.out)) == 1 << 20


def test_input_waits_for_buffers():
    bench = Bench()
    assert bench.console.receive(b"x") == 0
    bench.give(0, 4, 2)
    assert bench.room == [1, 1], "once when the driver was ready"
    assert bench.console.receive(b"abcdefghij") == 8
    assert bench.got(0) == [b"abcd", b"efgh"]
    assert bench.driver.interrupts() == 1


def test_input_before_there_is_a_driver():
    console = VirtioConsole()
    assert console.receive(b"x") == 0
    VirtioMmio(console, memory=Ram(4096))
    assert console.receive(b"x") == 0


@pytest.mark.parametrize("readable", [True, False])
def test_a_receive_buffer_that_cannot_be_filled_needs_a_reset(readable):
    bench = Bench()
    at = bench.driver.buffers
    bench.driver.queues[0].add([(at, 4)], [(at, 4)] if readable else [])
    bench.driver.notify(0)
    assert bench.console.receive(b"x") == 0
    assert bench.device.read(0x070, 4) & 64


def test_a_new_size_is_a_change_of_configuration():
    bench = Bench()
    generation = bench.device.read(0x0FC, 4)
    bench.console.resize(100, 50)
    assert bench.device.read(0x100, 4) == 100 | 50 << 16
    assert bench.device.read(0x0FC, 4) == generation + 1
    assert bench.driver.interrupts() == 2


def test_emergency_writes_need_no_driver():
    out = []
    device = VirtioMmio(VirtioConsole([ConsolePort(out.append, console=True)]))
    for byte in b"dying":
        device.write(0x108, 4, byte)
    assert b"".join(out) == b"dying"


class Ports(Bench):
    def __init__(self):
        self.streams = [[], []]
        super().__init__(
            [
                ConsolePort(self.streams[0].append, console=True),
                ConsolePort(self.streams[1].append, name="org.example.0"),
            ]
        )

    def messages(self):
        return [(*struct.unpack("<IHH", one[:8]), one[8:]) for one in self.got(2)]

    def bring_up(self):
        self.give(2, 64, 10)
        self.tell(0, READY, 1)
        self.tell(0, PORT_READY, 1)
        self.tell(1, PORT_READY, 1)


def test_ports_are_announced():
    bench = Ports()
    assert bench.device.read(0x104, 4) == 2
    assert len(bench.driver.queues) == 6
    bench.give(2, 64, 10)
    bench.tell(0, READY, 1)
    assert bench.messages() == [(0, ADD, 0, b""), (1, ADD, 0, b"")]
    bench.tell(0, PORT_READY, 1)
    assert bench.messages() == [
        (0, CONSOLE, 1, b""),
        (0, RESIZE, 0, struct.pack("<HH", 80, 25)),
        (0, OPEN, 1, b""),
    ]
    bench.tell(1, PORT_READY, 1)
    assert bench.messages() == [(1, NAME, 1, b"org.example.0"), (1, OPEN, 1, b"")]


def test_ports_are_streams_of_their_own():
    bench = Ports()
    bench.bring_up()
    bench.driver.ask(1, b"console")
    bench.driver.ask(5, b"port")
    assert bench.streams == [[b"console"], [b"port"]]
    bench.give(4, 16)
    assert bench.console.receive(b"in", 1) == 0, "nobody has opened it"
    bench.tell(1, OPEN, 1)
    assert bench.console.receive(b"in", 1) == 2
    assert bench.got(4) == [b"in"]
    bench.tell(1, OPEN, 0)
    bench.give(4, 16)
    assert bench.console.receive(b"in", 1) == 0


def test_what_the_host_does_is_told():
    bench = Ports()
    bench.bring_up()
    bench.messages()
    bench.console.set_open(1, False)
    bench.console.set_open(1, False)
    bench.console.resize(1, 2)
    assert bench.messages() == [(1, OPEN, 0, b""), (0, RESIZE, 0, struct.pack("<HH", 1, 2))]


def test_messages_wait_for_buffers_and_have_a_bound():
    bench = Ports()
    for _ in range(100):
        bench.tell(0, PORT_READY, 1)
    assert len(bench.console.save().waiting) == 16
    bench.give(2, 64, 20)
    assert len(bench.messages()) == 16


def test_messages_that_mean_nothing():
    bench = Ports()
    for port in (0, 1, 2, 0xFFFF_FFFF):
        for event in (1, 2, 4, 5, 7, 99):
            bench.tell(port, event, 1)
    assert bench.device.read(0x070, 4) & 64 == 0
    bench.driver.queues[3].add([(bench.driver.buffers, 7)])
    bench.driver.notify(3)
    assert bench.device.read(0x070, 4) & 64


def test_a_saved_console_goes_on():
    bench = Ports()
    bench.tell(0, READY, 1)
    bench.tell(1, OPEN, 1)
    state = bench.device.save()
    other = Ports()
    other.device.load(state)
    assert other.device.save() == state
    assert other.console.ports[1].guest_open
    small = Bench()
    with pytest.raises(StateError):
        small.device.load(state)
