"""Devices that were handed over: a real virtiofsd serves requests of a driver in this process, and
a server that the test plays shows what is asked of it."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from devices.virtio.driver import Driver
from devices.virtio.mmio import VirtioMmio
from devices.wiring import StateError
from kvm_bindings import KvmError
from vmm.errors import ConfigError, GuestMemoryError
from vmm.host.virtiofsd import start_virtiofsd
from vmm.layout import MemoryLayout
from vmm.memory import GuestMemory
from vmm.virtio.handed_over import HandedOver
from vmm.virtio.handed_types import FS_QUEUES, HandedFs
from vmm.virtio.servers import UserServer

REQUESTS = 1
VERSION_1, EVENT_IDX = 1 << 32, 1 << 29
FUSE_LOOKUP, FUSE_INIT = 1, 26


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory(MemoryLayout.for_size(1 << 20))
    yield made
    made.close()


class Playing:
    """A server that keeps what it is told, and refuses what it is told to."""

    name = "played"
    queue_sizes: tuple[int, ...] = (64, 64)
    served: Sequence[int] = (0, 1)

    def __init__(self, features: int = VERSION_1 | 1 << 5) -> None:
        self.features = features
        self.told: list[tuple[object, ...]] = []
        self.refuses = ""

    def share(self, memory: GuestMemory) -> None:
        self._note("share", memory.size)

    def set_features(self, bits: int) -> None:
        self._note("features", bits)

    def set_vring(self, index: int, *, size: int, desc: int, avail: int, used: int) -> None:
        self._note("vring", index, size, avail - desc, used - desc)

    def set_vring_base(self, index: int, base: int) -> None:
        self._note("base", index, base)

    def vring_base(self, index: int) -> int:
        self._note("ask", index)
        return 7 + index

    def set_kick(self, index: int, eventfd: int) -> None:
        self._note("kick", index, eventfd)

    def set_call(self, index: int, eventfd: int) -> None:
        self._note("call", index, eventfd)

    def start(self, queues: Sequence[int]) -> None:
        self._note("start", *queues)

    def stop(self, queues: Sequence[int]) -> None:
        self._note("stop", *queues)

    def close(self) -> None:
        self._note("close")

    def _note(self, *what: object) -> None:
        if what[0] == self.refuses:
            raise KvmError("VHOST_SOMETHING", 22)
        self.told.append(what)


class Made:
    """A played device in front of a driver."""

    def __init__(self, memory: GuestMemory, server: Playing) -> None:
        self.server = server
        self.device = HandedOver(server, own=1 << 16, passed=1 << 5 | 1 << 7)
        self.registers = VirtioMmio(self.device, memory=memory)
        self.device.connect(memory, [11, 12], 13)
        self.driver = Driver(self.registers, memory, 0x1000, room=0x4000)


def test_what_is_handed_over(memory: GuestMemory) -> None:
    made = Made(memory, Playing())
    assert made.driver.offered() == VERSION_1 | 1 << 16 | 1 << 5
    assert made.driver.start(1 << 5 | 1 << 16, queue_size=16)
    queue = made.driver.queues[0]
    at = queue.avail - queue.desc, queue.used - queue.desc
    assert made.server.told == [
        ("share", 1 << 20),
        ("features", VERSION_1 | 1 << 5),
        *(("vring", 0, 16, *at), ("base", 0, 0), ("call", 0, 13), ("kick", 0, 11)),
        *(("vring", 1, 16, *at), ("base", 1, 0), ("call", 1, 13), ("kick", 1, 12)),
        ("start", 0, 1),
    ]
    # Whoever asks what the interrupt was for has to look into the queues.
    assert made.registers.read(0x060, 4) == 1
    assert memory.unseen_writers == ["played"]


def test_a_reset_takes_the_queues_back(memory: GuestMemory) -> None:
    made = Made(memory, Playing())
    made.driver.start()
    del made.server.told[:]
    made.driver.write(0x070, 0)
    assert made.server.told == [("stop", 0, 1), ("ask", 0), ("ask", 1)]
    made.driver.start()
    assert ("base", 0, 0) in made.server.told
    made.device.close()
    made.device.close()
    assert made.server.told[-4:] == [("stop", 0, 1), ("ask", 0), ("ask", 1), ("close",)]


def test_a_pause_and_a_copy_go_on_where_the_queues_were(memory: GuestMemory) -> None:
    made = Made(memory, Playing())
    made.driver.start(queue_size=16)
    memory.write(made.driver.queues[1].used + 2, b"\5\0")
    made.device.pause()
    state = made.registers.save()
    del made.server.told[:]
    made.device.resume()
    assert ("base", 1, 8) in made.server.told
    other = Made(memory, Playing())
    other.registers.load(state)
    assert other.server.told == [("share", 1 << 20)]  # not before it is resumed
    other.device.resume()
    assert ("base", 0, 7) in other.server.told
    assert ("base", 1, 8) in other.server.told
    assert other.registers.transport.queues[1].next_used == 5
    lacking = Made(memory, Playing(VERSION_1))
    made.driver.start(1 << 5)
    made.device.pause()
    with pytest.raises(StateError, match="lacks the features 0x20"):
        lacking.registers.load(made.registers.save())


@pytest.mark.parametrize("what", ["features", "vring", "kick", "start"])
def test_a_server_that_refuses_breaks_the_device_only(memory: GuestMemory, what: str) -> None:
    made = Made(memory, Playing())
    made.server.refuses = what
    made.driver.start()
    assert made.driver.read(0x070) & 64
    assert "VHOST_SOMETHING" in made.registers.transport.fault
    made.server.refuses = ""
    assert made.driver.start()
    assert not made.driver.read(0x070) & 64


def test_a_server_of_old_devices(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match="no devices of virtio 1"):
        HandedOver(Playing(1 << 5))


def test_a_guest_that_changes_its_mind_about_rings(memory: GuestMemory) -> None:
    made = Made(memory, Playing())
    made.driver.start()
    for _ in range(3):
        made.driver.write(0x030, 0)
        made.driver.write(0x044, 0)
        made.driver.write(0x080, 0xFFFF_FFF0)
        made.driver.write(0x044, 1)
        made.driver.write(0x050, 0)
    assert made.server.told.count(("start", 0, 1)) == 1


def test_memory_that_is_shared_stays_where_it_is(memory: GuestMemory) -> None:
    assert memory.shared_fd("virtiofsd") == memory.fd
    with pytest.raises(ConfigError, match="shared with virtiofsd"):
        memory.freeze()
    with pytest.raises(ConfigError, match="shared with virtiofsd"):
        memory.map_privately(memory.fd, 0)


def test_a_private_copy_cannot_be_shared(memory: GuestMemory) -> None:
    memory.freeze()
    with pytest.raises(ConfigError, match="out of a snapshot"):
        memory.shared_fd("virtiofsd")


def test_files_in_the_address_space_are_shared_as_memory_is(
    memory: GuestMemory, tmp_path: Path
) -> None:
    """But not what is a copy of this process's own, which no other sees."""

    class Connection:
        name, features = "played", VERSION_1
        shared: ClassVar[list[tuple[int, int, int, int]]] = []

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments: -1

        def set_memory(self, regions: Iterable[Any]) -> None:
            self.shared += [(r.gpa, r.size, r.fd, r.offset) for r in regions]

    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 21))
    with path.open("r+b") as file:
        memory.add_file(1 << 32, file.fileno(), 1 << 21, "writable")
        memory.add_file(1 << 33, file.fileno(), 1 << 21, "private")
        memory.add_file(1 << 34, file.fileno(), 1 << 21, "read-only")
        memory.add_rom(1 << 31, b"rom")
        UserServer(Connection(), (64,)).share(memory)  # type: ignore[arg-type]
        assert Connection.shared == [
            (0, 1 << 20, memory.fd, 0),
            (1 << 32, 1 << 21, file.fileno(), 0),
        ]
        memory.dma(1 << 33, 4, write=True)[:] = b"mine"
        with pytest.raises(GuestMemoryError, match="read-only"):
            memory.dma(1 << 34, 4, write=True)
    assert path.read_bytes() == bytes(1 << 21)


class Fs:
    """A shared folder, and a driver that speaks FUSE as far as a test needs it."""

    def __init__(self, memory: GuestMemory, folder: Path) -> None:
        self.memory = memory
        connection, process = start_virtiofsd(str(folder))
        self.process = process
        self.device = HandedFs(UserServer(connection, FS_QUEUES, process), "things")
        self.kicks = [os.eventfd(0), os.eventfd(0)]
        self.call = os.eventfd(0)
        self.registers = VirtioMmio(
            self.device, memory=memory, kick=lambda n: os.eventfd_write(self.kicks[n], 1)
        )
        self.device.connect(memory, self.kicks, self.call)
        self.driver = Driver(self.registers, memory, 0x1000, room=0x4000)
        assert self.driver.start()

    def ask(self, opcode: int, node: int, body: bytes, room: int) -> tuple[int, bytes]:
        request = struct.pack("<IIQQIIII", 40 + len(body), opcode, 99, node, 0, 0, 0, 0) + body
        self.memory.write(0x8000, request)
        queue = self.driver.queues[REQUESTS]
        queue.want_interrupts()
        queue.add([(0x8000, len(request))], [(0x9000, 16 + room)])
        self.driver.notify(REQUESTS)
        ready = select.poll()
        ready.register(self.call, select.POLLIN)
        for _ in range(3):
            assert ready.poll(10_000), "no interrupt"
            os.eventfd_read(self.call)
            if finished := queue.finished():
                break
        answer = self.memory.read(0x9000, finished[0][1])
        size, error, unique = struct.unpack_from("<IiQ", answer)
        assert (size, unique) == (len(answer), 99)
        return error, answer[16:]

    def close(self) -> None:
        self.device.close()
        for fd in (*self.kicks, self.call):
            os.close(fd)


@pytest.fixture
def shared(memory: GuestMemory, tmp_path: Path) -> Iterator[Fs]:
    (tmp_path / "hello.txt").write_text("hello")
    try:
        made = Fs(memory, tmp_path)
    except ConfigError as error:
        pytest.skip(str(error))
    yield made
    made.close()
    assert made.process.poll() == 0


def test_a_real_folder(shared: Fs) -> None:
    assert shared.registers.read(0x008, 4) == 26
    tag = bytes(shared.registers.read(0x100 + n, 1) for n in range(36))
    assert tag == b"things".ljust(36, b"\0")
    assert shared.registers.read(0x124, 4) == 1
    error, answer = shared.ask(FUSE_INIT, 0, struct.pack("<IIII", 7, 31, 0, 0), 64)
    assert (error, struct.unpack_from("<I", answer)[0]) == (0, 7)
    error, entry = shared.ask(FUSE_LOOKUP, 1, b"hello.txt\0", 128)
    assert error == 0
    size = struct.unpack_from("<Q", entry, 40 + 8)[0]  # fuse_entry_out.attr.size
    assert size == 5
    assert shared.ask(FUSE_LOOKUP, 1, b"nothing\0", 128)[0] == -2


def test_a_real_folder_over_a_pause(shared: Fs) -> None:
    assert shared.ask(FUSE_INIT, 0, struct.pack("<IIII", 7, 31, 0, 0), 64)[0] == 0
    for _ in range(3):
        shared.device.pause()
        shared.device.resume()
        assert shared.ask(FUSE_LOOKUP, 1, b"hello.txt\0", 128)[0] == 0
