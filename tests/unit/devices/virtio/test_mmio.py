from __future__ import annotations

import dataclasses
import struct

import pytest

from devices import StateError
from devices.registers import Register, RegisterTable
from devices.virtio.device import VirtioDevice
from devices.virtio.driver import Driver, DriverQueue, Ram
from devices.virtio.mmio import VirtioMmio
from devices.virtio.queue import RingError

VERSION_1, INDIRECT, EVENT_IDX, RING_RESET = 1 << 32, 1 << 28, 1 << 29, 1 << 40
ACK, DRV, OK, FEAT, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
LAYOUT = {
    "MagicValue": (0x000, "r"),
    "Version": (0x004, "r"),
    "DeviceID": (0x008, "r"),
    "VendorID": (0x00C, "r"),
    "DeviceFeatures": (0x010, "r"),
    "DeviceFeaturesSel": (0x014, "w"),
    "DriverFeatures": (0x020, "w"),
    "DriverFeaturesSel": (0x024, "w"),
    "QueueSel": (0x030, "w"),
    "QueueNumMax": (0x034, "r"),
    "QueueNum": (0x038, "w"),
    "QueueReady": (0x044, "rw"),
    "QueueNotify": (0x050, "w"),
    "InterruptStatus": (0x060, "r"),
    "InterruptACK": (0x064, "w"),
    "Status": (0x070, "rw"),
    "QueueDescLow": (0x080, "w"),
    "QueueDescHigh": (0x084, "w"),
    "QueueDriverLow": (0x090, "w"),
    "QueueDriverHigh": (0x094, "w"),
    "QueueDeviceLow": (0x0A0, "w"),
    "QueueDeviceHigh": (0x0A4, "w"),
    "SHMSel": (0x0AC, "w"),
    "SHMLenLow": (0x0B0, "r"),
    "SHMLenHigh": (0x0B4, "r"),
    "SHMBaseLow": (0x0B8, "r"),
    "SHMBaseHigh": (0x0BC, "r"),
    "QueueReset": (0x0C0, "rw"),
    "ConfigGeneration": (0x0FC, "r"),
}
ONES = 0xFFFF_FFFF


class Echo(VirtioDevice):
    """Gives back what it gets, and writes down what is done to it."""

    device_id = 0x1234
    queue_sizes = (16, 8)
    features = 0b101
    config = RegisterTable(
        Register("wide", 0, 8, "r"), Register("half", 8, 2, writable=0x0F0F), Register("byte", 10)
    )
    name = "echo"

    def __init__(self):
        super().__init__()
        self.values["wide"] = 0x1122_3344_5566_7788
        self.done = []
        self.picky = False

    def accepts(self, features):
        return not (self.picky and features & 1)

    def activate(self, features):
        self.done.append(("activate", features))

    def reset(self):
        self.done.append("reset")

    def serve(self, queue):
        for chain in queue:
            data = chain.read()
            if data == b"nonsense":
                raise RingError("no request of ours")
            queue.push(chain, chain.write(data))


class Bench:
    def __init__(self, **more):
        self.memory = Ram(1 << 20)
        self.echo = Echo()
        self.raised = []
        self.device = VirtioMmio(
            self.echo, memory=self.memory, interrupt=lambda: self.raised.append(1), **more
        )
        self.driver = Driver(self.device, self.memory, 0x1000)

    def get(self, name):
        return self.device.read(LAYOUT[name][0], 4)

    def put(self, name, value):
        self.device.write(LAYOUT[name][0], 4, value)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def running(bench):
    assert bench.driver.start(wanted=INDIRECT | EVENT_IDX | RING_RESET, queue_size=8)
    return bench


def test_the_layout_is_the_specifications():
    registers = {r.name: (r.offset, r.access) for r in VirtioMmio.registers}
    assert registers == LAYOUT
    assert all(r.size == 4 for r in VirtioMmio.registers)


def test_the_device_is_found(bench):
    assert bench.get("MagicValue").to_bytes(4, "little") == b"virt"
    assert bench.get("Version") == 2
    assert bench.get("DeviceID") == 0x1234
    assert bench.device.name == "echo"


def test_without_a_device_type_there_is_none():
    device = VirtioMmio()
    assert device.read(0x000, 4).to_bytes(4, "little") == b"virt"
    assert device.read(0x008, 4) == 0
    assert device.read(0x034, 4) == 0


def test_control_registers_take_32_bits_only(bench):
    bench.put("QueueSel", 1)
    bench.device.write(0x030, 1, 0)
    bench.device.write(0x030, 8, 0)
    assert bench.get("QueueNumMax") == 8
    assert bench.device.read(0x034, 1) == 0xFF


def test_features_are_read_by_words(bench):
    assert bench.driver.offered() == 0b101 | VERSION_1 | INDIRECT | EVENT_IDX | RING_RESET
    bench.put("DeviceFeaturesSel", 2)
    assert bench.get("DeviceFeatures") == 0
    bench.put("DeviceFeaturesSel", ONES)
    assert bench.get("DeviceFeatures") == 0


# Status.


def test_a_device_starts(running):
    assert running.get("Status") == ACK | DRV | FEAT | OK
    assert running.echo.done == [
        "reset",
        ("activate", VERSION_1 | INDIRECT | EVENT_IDX | RING_RESET),
    ]


@pytest.mark.parametrize(
    "features", [VERSION_1 | 2, VERSION_1 | 1 << 63, 0, 0b101, INDIRECT | EVENT_IDX]
)
def test_features_that_were_not_offered_are_refused(bench, features):
    bench.put("Status", ACK | DRV)
    assert not bench.driver.negotiate(features)
    assert bench.get("Status") == ACK | DRV
    bench.put("Status", ACK | DRV | FEAT | OK)
    assert bench.get("Status") == ACK | DRV, "no driver is ready without features"
    assert bench.echo.done == []
    assert bench.driver.negotiate(VERSION_1), "it may try again"


def test_the_device_type_may_refuse(bench):
    bench.echo.picky = True
    assert not bench.driver.negotiate(VERSION_1 | 1)
    assert bench.driver.negotiate(VERSION_1 | 4)


def test_features_are_settled_once(bench):
    assert bench.driver.negotiate(VERSION_1 | 1)
    bench.put("DriverFeaturesSel", 0)
    bench.put("DriverFeatures", 4)
    bench.put("Status", ACK | DRV | FEAT | OK)
    assert bench.echo.done == [("activate", VERSION_1 | 1)]


def test_status_bits_stay_until_a_reset(running):
    running.put("Status", ACK)
    assert running.get("Status") == ACK | DRV | FEAT | OK
    running.put("Status", 0x30 | NEEDS_RESET)
    assert running.get("Status") == ACK | DRV | FEAT | OK, "they are not the driver's to set"
    running.put("Status", 0x100)
    assert running.get("Status") == ACK | DRV | FEAT | OK, "it is not 0"
    running.put("Status", 0)
    assert running.get("Status") == 0
    assert running.echo.done[-1] == "reset"


def test_a_device_that_was_given_up_is_quiet(running):
    running.put("Status", FAILED)
    assert running.get("Status") == ACK | DRV | FEAT | OK | FAILED
    with pytest.raises(RuntimeError):
        running.driver.ask(0, b"abc", 3)


def test_only_the_first_ready_activates(running):
    running.put("Status", ACK | DRV | FEAT | OK)
    assert [one[0] for one in running.echo.done if one != "reset"] == ["activate"]


# Queues.


def test_requests_are_served(running):
    assert running.driver.ask(0, b"hello", 16) == b"hello"
    assert running.driver.ask(1, b"there", 3, indirect=True) == b"the"
    assert running.get("InterruptStatus") == 1
    assert len(running.raised) == 2, "each is an edge"
    running.put("InterruptACK", 1)
    assert running.get("InterruptStatus") == 0


def test_nothing_is_served_before_the_driver_is_ready(bench):
    driver = bench.driver
    driver.negotiate(VERSION_1)
    queue = driver.set_up(0, 0x1000, 8)
    queue.add([(0x8000, 4)], [(0x9000, 4)])
    bench.put("QueueNotify", 0)
    assert queue.finished() == []
    bench.put("Status", ACK | DRV | FEAT | OK)
    assert len(queue.finished()) == 1, "what waits is seen then"


def test_queues_are_not_set_up_before_features(bench):
    bench.driver.set_up(0, 0x1000, 8)
    assert bench.get("QueueReady") == 0


def test_there_is_no_queue_behind_the_last(running):
    running.put("QueueSel", 2)
    for name in LAYOUT:
        if name.startswith("Queue") and "w" in LAYOUT[name][1] and name != "QueueSel":
            running.put(name, 1)
    assert running.get("QueueNumMax") == running.get("QueueReady") == 0
    running.put("QueueNotify", ONES)
    assert running.get("Status") == ACK | DRV | FEAT | OK


def test_a_queue_in_use_stays_where_it_is(running):
    running.put("QueueSel", 0)
    for name in ("QueueNum", "QueueDescLow", "QueueDriverHigh", "QueueDeviceLow"):
        running.put(name, 0)
    assert running.driver.ask(0, b"still", 5) == b"still"


def test_a_queue_can_be_taken_out_of_use(running):
    running.put("QueueSel", 0)
    running.put("QueueReady", 0)
    assert running.get("QueueReady") == 0
    running.driver.queues[0].add([(0x8000, 4)])
    running.put("QueueNotify", 0)
    assert running.driver.queues[0].finished() == []
    assert running.driver.ask(1, b"other", 5) == b"other"


@pytest.mark.parametrize(
    ("size", "base"), [(0, 0x1000), (3, 0x1000), (16, 0x1000), (ONES, 0x1000), (8, 0x1001), (8, 0)]
)
def test_a_queue_that_cannot_be_needs_a_reset(bench, size, base):
    driver = bench.driver
    driver.negotiate(VERSION_1)
    for name, value in (
        ("QueueSel", 1),
        ("QueueNum", size),
        ("QueueDescLow", base),
        ("QueueDriverLow", 0x2000),
        ("QueueDeviceLow", 0x3000),
        ("QueueDeviceHigh", 0 if base else 1),
        ("QueueReady", 1),
    ):
        bench.put(name, value)
    assert bench.get("QueueReady") == 0
    assert bench.get("Status") & NEEDS_RESET
    assert bench.raised == [], "nobody is there to be interrupted"
    assert bench.device.transport.fault.startswith("queue 1: ")
    bench.put("Status", 0)
    assert driver.start(queue_size=8)


def test_a_hostile_chain_needs_a_reset(running):
    queue = running.driver.queues[0]
    queue.describe(0, 1 << 40, 4, 0)
    queue.make_available(0)
    running.put("QueueNotify", 0)
    assert running.get("Status") == ACK | DRV | FEAT | OK | NEEDS_RESET
    assert running.get("InterruptStatus") == 2
    assert running.raised == [1]
    assert "memory" in running.device.transport.fault
    running.put("QueueNotify", 1)
    with pytest.raises(RuntimeError):
        running.driver.ask(1, b"x", 1)
    assert running.driver.start(queue_size=8)
    assert running.driver.ask(0, b"again", 5) == b"again"


def test_what_is_no_request_needs_a_reset(running):
    with pytest.raises(RuntimeError):
        running.driver.ask(0, b"nonsense", 16)
    assert running.get("Status") & NEEDS_RESET


def test_rings_that_feed_themselves_end(bench):
    """The used ring lies over the available ring: whatever is used makes more available."""
    driver = bench.driver
    driver.negotiate(VERSION_1)
    queue = DriverQueue(bench.memory, 0x1000, 8)
    for name, value in (
        ("QueueSel", 0),
        ("QueueNum", 8),
        ("QueueDescLow", queue.desc),
        ("QueueDriverLow", 0x2000),
        ("QueueDeviceLow", 0x2000),
        ("QueueReady", 1),
    ):
        bench.put(name, value)
    bench.put("Status", ACK | DRV | FEAT | OK)
    for index in range(8):
        queue.describe(index, 0x3000, 4, 2)
    bench.memory.write(0x2002, struct.pack("<H", 8))
    bench.put("QueueNotify", 0)
    assert bench.device.transport.queues[0].next_used <= 64


def test_a_queue_is_reset_alone(running):
    assert running.driver.ask(0, b"one", 3) == b"one"
    running.put("QueueSel", 0)
    running.put("QueueReset", 1)
    assert running.get("QueueReset") == running.get("QueueReady") == 0
    assert running.driver.ask(1, b"two", 3) == b"two"
    running.driver.queues[0] = running.driver.set_up(0, 0x8000, 16)
    assert running.driver.ask(0, b"three", 5) == b"three"


def test_a_queue_reset_needs_the_feature(bench):
    assert bench.driver.start(wanted=0, queue_size=8)
    bench.put("QueueSel", 0)
    bench.put("QueueReset", 1)
    assert bench.get("QueueReady") == 1


def test_without_event_index(bench):
    assert bench.driver.start(wanted=0)
    assert bench.driver.ask(0, b"plain", 5) == b"plain"
    bench.driver.queues[0].want_interrupts(False)
    before = len(bench.raised)
    assert bench.driver.ask(0, b"quiet", 5) == b"quiet"
    assert len(bench.raised) == before


# The configuration space, and the rest.


def test_the_configuration_space_takes_any_width(bench):
    device = bench.device
    assert device.read(0x100, 8) == 0x1122_3344_5566_7788
    assert device.read(0x104, 4) == 0x1122_3344
    assert device.read(0x103, 1) == 0x55
    device.write(0x108, 2, 0xFFFF)
    assert device.read(0x108, 2) == 0x0F0F
    device.write(0x10A, 1, 0x7E)
    assert device.read(0x108, 4) == 0xFF7E_0F0F
    device.write(0x100, 8, 0)
    assert device.read(0x100, 4) == 0x5566_7788


def test_a_change_of_configuration_is_told(running):
    generation = running.get("ConfigGeneration")
    running.device.transport.config_changed()
    assert running.get("ConfigGeneration") == generation + 1
    assert running.get("InterruptStatus") == 2
    running.put("InterruptACK", 1)
    assert running.get("InterruptStatus") == 2
    running.put("InterruptACK", 2)
    assert running.get("InterruptStatus") == 0


def test_a_change_before_the_driver_is_ready_is_quiet(bench):
    bench.device.transport.config_changed()
    assert bench.get("ConfigGeneration") == 1
    assert bench.get("InterruptStatus") == 0
    assert bench.raised == []


def test_shared_memory_regions(bench):
    bench.device.shared_memory[3] = (0x1_2345_6000, 0x2_0000_1000)
    names = ("SHMLenLow", "SHMLenHigh", "SHMBaseLow", "SHMBaseHigh")
    assert [bench.get(name) for name in names] == [ONES] * 4
    bench.put("SHMSel", 3)
    assert [bench.get(name) for name in names] == [0x1000, 2, 0x2345_6000, 1]


def test_queues_are_kicked_where_somebody_else_serves_them():
    kicked = []
    bench = Bench(kick=kicked.append)
    bench.driver.start()
    assert kicked == [0, 1]
    bench.put("QueueNotify", 1)
    bench.put("QueueNotify", 2)
    assert kicked == [0, 1, 1]
    assert bench.device.transport.notifications == 0, "nobody has served any"
    assert not bench.device.transport.serve(1)
    assert bench.device.transport.notifications == 1


def test_resets_wait_until_no_queue_is_served():
    entered = []

    class Still:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *exception):
            entered.append("out")

    bench = Bench(still=Still())
    bench.driver.start(wanted=RING_RESET)
    bench.put("QueueSel", 0)
    entered.clear()
    for name, value in (("QueueReset", 1), ("QueueReady", 0), ("Status", 0)):
        bench.put(name, value)
        assert entered == ["in", "out"], name
        entered.clear()


# Snapshots.


def test_a_loaded_device_goes_on(running):
    assert running.driver.ask(0, b"before", 6) == b"before"
    state = running.device.save()
    other = Bench()
    other.memory.data[:] = running.memory.data
    other.device.load(state)
    assert other.device.save() == state
    driver = running.driver
    driver.registers, driver.memory = other.device, other.memory
    for queue in driver.queues:
        queue.memory = other.memory
    assert driver.ask(0, b"after", 5) == b"after"
    assert driver.ask(1, b"too", 3) == b"too"


def test_what_was_not_acknowledged_interrupts_again(running):
    running.driver.ask(0, b"x", 1)
    other = Bench()
    other.device.load(running.device.save())
    assert other.raised == []
    other.device.transport.interrupt_again()
    assert other.raised == [1]


def test_what_waits_is_served_when_all_are_kicked(running):
    running.driver.queues[0].add([(0x8000, 4)], [(0x9000, 4)])
    running.device.transport.kick_all()
    assert len(running.driver.queues[0].finished()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"status": 16},
        {"queues": ((0,) * 8,)},
        {"queues": ((0,) * 7, (0,) * 8)},
        {"queues": ((1 << 16, *(0,) * 7), (0,) * 8)},
        {"queues": ((8, 0, 0, 0, 2, 0, 0, 0), (0,) * 8)},
        {"device": ("virtio-config", 2, ())},
        {"device": ("virtio-config", 1)},
        {"device": ("virtio-config", 1, (0, 0))},
        {"device": ("virtio-config", 1, (0, 0, 256))},
        {"selectors": (0, 0, 0)},
    ],
)
def test_a_state_that_does_not_fit_is_refused(running, change):
    before = running.device.save()
    with pytest.raises(StateError):
        running.device.load(dataclasses.replace(before, **change))
    assert running.device.save() == before


def test_a_state_with_rings_that_cannot_be_needs_a_reset(running):
    state = running.device.save()
    queues = tuple((size, 8, *rest) for size, _, *rest in state.queues)
    running.device.load(dataclasses.replace(state, queues=queues))
    running.put("QueueNotify", 0)
    assert running.get("Status") & NEEDS_RESET
