"""The vhost-user messages, against a server that the test scripts, and a real one."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm.errors import ConfigError
from vmm.host.vhost_user import SharedRegion, VhostUser, VhostUserError

# The numbers once more, from the specification.
PROTOCOL_FEATURES = 1 << 30
MQ, REPLY_ACK, CONFIG = 1 << 0, 1 << 3, 1 << 9
REPLY = 1 | 4
U64 = struct.Struct("<Q")

Message = tuple[int, int, bytes, list[int]]


class Server:
    """A server that answers what it was told to answer, and keeps what it was sent."""

    def __init__(self, answers: dict[int, bytes]) -> None:
        self.answers = answers
        self.got: list[Message] = []
        self.ours, theirs = socket.socketpair()
        self._socket = theirs
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def of(self, request: int) -> list[Message]:
        return [message for message in self.got if message[0] == request]

    def close(self) -> None:
        self.ours.close()
        self._thread.join()
        self._socket.close()
        for *_, fds in self.got:
            for fd in fds:
                os.close(fd)

    def _serve(self) -> None:
        while True:
            try:
                head, fds, _, _ = socket.recv_fds(self._socket, 12, 8)
            except ConnectionResetError:  # closed with an answer unread
                return
            if len(head) < 12:
                return
            request, flags, size = struct.unpack("<III", head)
            payload = self._socket.recv(size) if size else b""
            self.got.append((request, flags, payload, list(fds)))
            answer = self.answers.get(request)
            if answer is None and flags & 8:
                answer = U64.pack(0)
            if answer == b"hang up":
                self._socket.shutdown(socket.SHUT_RDWR)
                return
            if answer is not None:
                raw = answer.startswith(b"raw:")
                message = struct.pack("<III", request, REPLY, len(answer)) + answer
                self._socket.sendall(answer[4:] if raw else message)


def offering(protocol: int = MQ | REPLY_ACK | CONFIG, features: int = 1 << 32) -> dict[int, bytes]:
    return {1: U64.pack(features | PROTOCOL_FEATURES), 15: U64.pack(protocol | 1 << 12)}


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(getattr(request, "param", None) or offering())
    yield server
    server.close()


def test_greeting(served: Server) -> None:
    made = VhostUser(served.ours)
    assert made.features == 1 << 32
    made.set_features(0)  # is answered, so that the server has seen all that was before
    assert [number for number, *_ in served.got] == [3, 1, 15, 16, 2]
    # Of the protocol's features, those that are known here.
    assert served.of(16)[0][2] == U64.pack(MQ | REPLY_ACK | CONFIG)
    assert all(flags == 1 for _, flags, _, _ in served.got[:4])


def test_features_keep_the_protocols_bit(served: Server) -> None:
    made = VhostUser(served.ours)
    made.set_features(1 << 32)
    assert served.of(2)[0][1:3] == (9, U64.pack(1 << 32 | PROTOCOL_FEATURES))


def test_memory_goes_with_its_descriptors(served: Server) -> None:
    made = VhostUser(served.ours)
    with open("/dev/null") as one, open("/dev/zero") as two:
        made.set_memory(
            [
                SharedRegion(0, 0x1000, 0x7000_0000, one.fileno(), 0),
                SharedRegion(1 << 32, 0x2000, 0x7100_0000, two.fileno(), 0x1000),
            ]
        )
        ((_, _, payload, fds),) = served.of(5)
        assert payload == struct.pack(
            "<II8Q", 2, 0, 0, 0x1000, 0x7000_0000, 0, 1 << 32, 0x2000, 0x7100_0000, 0x1000
        )
        files = [os.fstat(fd).st_rdev for fd in fds]
        assert files == [os.fstat(one.fileno()).st_rdev, os.fstat(two.fileno()).st_rdev]
    with pytest.raises(ConfigError, match="9 regions"):
        made.set_memory([SharedRegion(0, 0x1000, 0, 0, 0)] * 9)


@pytest.mark.parametrize(
    "answer", [None, b"hang up", b"raw:" + struct.pack("<III", 99, REPLY, 0), b"short"]
)
def test_a_connection_that_went_wrong_is_over(answer: bytes | None) -> None:
    server = Server(offering())
    made = VhostUser(server.ours, timeout=0.2)
    assert not made.gone()
    if answer is not None:
        server.answers[24] = answer
    with pytest.raises(VhostUserError):
        made.config(8)
    # A late answer is not taken for that to something else.
    assert made.gone()
    with pytest.raises(VhostUserError, match="ended the connection at SET_FEATURES"):
        made.set_features(0)
    assert made.fileno() >= 0
    server.close()


def test_queues(served: Server) -> None:
    served.answers |= {11: struct.pack("<II", 1, 77), 17: U64.pack(4)}
    made = VhostUser(served.ours)
    assert made.queues == 4
    made.set_vring(1, size=128, desc=0x1000, avail=0x2000, used=0x3000)
    made.set_vring_base(1, 5)
    event = os.eventfd(0)
    made.set_kick(1, event)
    made.set_call(1, -1)
    made.enable(1)
    os.close(event)
    assert served.of(8)[0][2] == struct.pack("<II", 1, 128)
    assert served.of(9)[0][2] == struct.pack("<IIQQQQ", 1, 0, 0x1000, 0x3000, 0x2000, 0)
    assert served.of(10)[0][2] == struct.pack("<II", 1, 5)
    assert (served.of(12)[0][2], len(served.of(12)[0][3])) == (U64.pack(1), 1)
    assert (served.of(13)[0][2], served.of(13)[0][3]) == (U64.pack(1 | 1 << 8), [])
    assert served.of(18)[0][2] == struct.pack("<II", 1, 1)
    assert made.vring_base(1) == 77


def test_configuration(served: Server) -> None:
    served.answers[24] = struct.pack("<III", 0, 8, 0) + b"capacity"
    made = VhostUser(served.ours)
    assert made.config(8) == b"capacity"
    made.set_config(32, b"\1")
    assert served.of(25)[0][2] == struct.pack("<III", 32, 1, 0) + b"\1"


@pytest.mark.parametrize("served", [{1: U64.pack(1 << 32)}], indirect=True)
def test_a_server_of_the_first_protocol(served: Server) -> None:
    made = VhostUser(served.ours)
    assert made.queues == 1
    made.set_features(1 << 32)
    made.enable(0)
    served.answers[11] = bytes(8)
    assert made.vring_base(0) == 0
    assert [number for number, *_ in served.got] == [3, 1, 2, 11]
    with pytest.raises(VhostUserError, match="no configuration"):
        made.config(8)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"hang up", "ended the connection at GET_FEATURES"),
        (b"1234", "its answer to GET_FEATURES is none"),
        (b"raw:" + struct.pack("<III", 2, REPLY, 8) + bytes(8), "is none"),
        (b"raw:" + struct.pack("<III", 1, 1, 8) + bytes(8), "is none"),
        (b"raw:" + struct.pack("<III", 1, REPLY, 1 << 30), "is none"),
        (b"raw:" + struct.pack("<III", 1, REPLY, 8) + bytes(3), "no answer to GET_FEATURES"),
    ],
)
def test_a_server_that_does_not_keep_to_it(answer: bytes, told: str) -> None:
    server = Server({1: answer})
    with pytest.raises(VhostUserError, match=told):
        VhostUser(server.ours, "srv", timeout=0.2)
    assert server.ours.fileno() == -1
    server.close()


def test_a_refusal_is_named(served: Server) -> None:
    served.answers[5] = U64.pack(1)
    made = VhostUser(served.ours, "srv")
    with pytest.raises(VhostUserError, match="srv: refused SET_MEM_TABLE"):
        made.set_memory([])


def test_a_real_disk_server(tmp_path: Path) -> None:
    daemon = shutil.which("qemu-storage-daemon")
    if daemon is None:
        pytest.skip("no qemu-storage-daemon (Debian: qemu-system-common)")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    ours = socket.socket(socket.AF_UNIX)
    export = f"type=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str={listener.fileno()}"
    process = subprocess.Popen(
        [
            *(daemon, "--blockdev", f"driver=file,node-name=d,filename={image}"),
            *("--export", export + ",writable=on,num-queues=2"),
        ],
        pass_fds=[listener.fileno()],
    )
    try:
        ours.connect(str(tmp_path / "socket"))
        made = VhostUser(ours, "qemu-storage-daemon")
        assert made.features >> 32 & 1  # VIRTIO_F_VERSION_1
        assert made.queues == 2
        assert struct.unpack_from("<Q", made.config(8))[0] == (1 << 20) // 512
        memory = os.memfd_create("ram")
        os.ftruncate(memory, 1 << 20)
        made.set_features(1 << 32)
        made.set_memory([SharedRegion(0, 1 << 20, 0x7000_0000, memory, 0)])
        made.set_vring(0, size=8, desc=0x7000_0000, avail=0x7000_1000, used=0x7000_2000)
        made.set_vring_base(0, 3)
        assert made.vring_base(0) == 3
        os.close(memory)
        made.close()
    finally:
        listener.close()
        process.terminate()
        assert process.wait(10) == 0
