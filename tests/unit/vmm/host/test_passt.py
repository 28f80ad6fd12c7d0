"""User-mode networking: the framing against a socket, and the real passt in a namespace."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.vmm.host.netns import run_in_netns
from vmm.errors import ConfigError
from vmm.host.passt import Passt

FRAME = bytes(range(60))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Passt, socket.socket]:
    """A Passt whose other end is the test: the program is one that hands its descriptor over."""
    path = tmp_path / "hand-over"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    fake = tmp_path / "passt"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import socket, sys\n"
        "fd = int(sys.argv[sys.argv.index('--fd') + 1])\n"
        "control = socket.socket(socket.AF_UNIX)\n"
        f"control.connect({str(path)!r})\n"
        "socket.send_fds(control, [b'x'], [fd])\n"
        "socket.socket(fileno=fd).close()\n"
        "control.recv(1)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = Passt()
    connection, _ = listener.accept()
    _, fds, _, _ = socket.recv_fds(connection, 1, 1)
    other = socket.socket(fileno=fds[0])
    other.settimeout(10)
    yield made, other
    for end in (other, connection, listener):
        end.close()
    made.close()


def framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


def test_frames_have_their_length_before_them(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    assert passt.send([FRAME[:14], memoryview(FRAME)[14:]])
    assert other.recv(1000) == framed(FRAME)


def test_frames_come_in_any_pieces(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    room = bytearray(100)
    views = [memoryview(room)[:10], memoryview(room)[10:]]
    assert passt.receive(views) == 0
    stream = framed(FRAME) + framed(FRAME[::-1]) + framed(FRAME)
    got = []
    for start in range(0, len(stream), 7):
        other.sendall(stream[start : start + 7])
        while size := passt.receive(views):
            got.append(bytes(room[:size]))
    assert got == [FRAME, FRAME[::-1], FRAME]


def test_what_does_not_fit_is_lost(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    other.sendall(framed(FRAME) + framed(FRAME[:20]))
    small = bytearray(20)
    assert passt.receive([memoryview(small)]) == 20
    assert passt.receive([memoryview(small)]) == 20
    assert passt.receive([memoryview(small)]) == 0


def test_frames_of_a_full_buffer_are_all_there(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    frame, room = os.urandom(65_534), memoryview(bytearray(65_534))
    other.setblocking(False)
    sent = got = 0
    rest = b""
    while got < 40:
        while sent < 40 or rest:
            rest = rest or framed(frame)
            try:
                done = other.send(rest)
            except BlockingIOError:
                break
            rest = rest[done:]
            sent += not rest
        while passt.receive([room]):
            got += 1
            assert room == frame
    assert got == sent == 40


def test_frames_that_are_none_are_not_sent(pair: tuple[Passt, socket.socket]) -> None:
    passt, _ = pair
    assert not passt.send([b""])
    assert not passt.send([bytes(13)])
    assert not passt.send([bytes(65_535)])


def test_a_busy_passt_loses_frames_and_no_step(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    sent = 0
    while passt.send([os.urandom(1000)]):
        sent += 1
    got = b""
    other.settimeout(0.2)
    try:
        while piece := other.recv(1 << 20):
            got += piece
    except TimeoutError:
        pass
    assert len(got) == sent * 1004 > 0


def test_a_passt_that_is_gone(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    other.close()
    assert passt.receive([memoryview(bytearray(100))]) == 0
    assert not passt.send([FRAME])
    assert passt.fd == -1


def test_a_stream_that_is_out_of_step_is_cut(pair: tuple[Passt, socket.socket]) -> None:
    passt, other = pair
    other.sendall(b"\xff" * 100)
    assert passt.receive([memoryview(bytearray(100))]) == 0
    assert passt.fd == -1


def test_without_passt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt install passt"):
        Passt()


def test_a_passt_that_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "passt"
    fake.write_text(
        "#!/bin/sh\necho 'Failed to send 3 bytes to syslog' >&2\necho no route >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="did not start: no route"):
        Passt()


def test_the_real_one_answers_for_the_gateway_and_forwards_a_port() -> None:
    told = run_in_netns(
        """
import select, socket, struct, subprocess
from vmm.host.passt import Passt

up = "ip tuntap add d0 mode tap && ip addr add 192.0.2.5/24 dev d0 && ip link set d0 up"
up += " && ip route add default via 192.0.2.1 && ip link set lo up"
if subprocess.run(up, shell=True).returncode:
    print("no-tap")
    raise SystemExit
passt = Passt(tcp=["8022:22"])

hardware = b"\\x52\\x54\\0\\0\\0\\x01"
body = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
body += hardware + bytes([192, 0, 2, 5]) + bytes(6) + bytes([192, 0, 2, 1])
assert passt.send([b"\\xff" * 6 + hardware + b"\\x08\\x06" + body])

def frames():
    room = memoryview(bytearray(70_000))
    ready = select.poll()
    ready.register(passt.fd, select.POLLIN)
    while ready.poll(10_000):
        while size := passt.receive([room]):
            yield bytes(room[:size])

answer = next(f for f in frames() if f[12:14] == b"\\x08\\x06")
print(answer[28:32].hex())
client = socket.socket()
client.setblocking(False)
client.connect_ex(("127.0.0.1", 8022))
syn = next(f for f in frames() if f[12:14] == b"\\x08\\0" and f[23] == 6)
print(struct.unpack_from(">H", syn, 36)[0])
process = passt._process
passt.close()
print(process.returncode)
""",
        "ip",
        "passt",
    )
    if told == "no-tap\n":
        pytest.skip("no tap interfaces here")
    assert told.split() == ["c0000201", "22", "0"]


def test_passt_ends_with_whoever_started_it() -> None:
    told = run_in_netns(
        """
import os, signal, subprocess, sys, time
up = "ip tuntap add d0 mode tap && ip addr add 192.0.2.5/24 dev d0 && ip link set d0 up"
up += " && ip route add default via 192.0.2.1"
if subprocess.run(up, shell=True).returncode:
    print("no-tap")
    raise SystemExit
code = '''
import os, signal
from vmm.host.passt import Passt
passt = Passt()
print(passt._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
'''
pid = int(subprocess.run([sys.executable, "-c", code], text=True, capture_output=True).stdout)
for _ in range(100):
    try:
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        state = "gone"
    if state in ("gone", "Z"):
        break
    time.sleep(0.1)
print(state in ("gone", "Z"))
""",
        "ip",
        "passt",
    )
    if told == "no-tap\n":
        pytest.skip("no tap interfaces here")
    assert told == "True\n"


def test_subprocess_is_in_a_session_of_its_own(pair: tuple[Passt, socket.socket]) -> None:
    passt, _ = pair
    process: subprocess.Popen[bytes] = passt._process
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
