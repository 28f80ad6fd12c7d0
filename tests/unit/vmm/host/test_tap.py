"""Tap devices: real ones, in a network namespace of the test's own."""

from __future__ import annotations

import os

import pytest

from tests.unit.vmm.host.netns import run_in_netns
from vmm.errors import ConfigError
from vmm.host.tap import Tap

needs_tun = pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK), reason="no /dev/net/tun")

UP = """
import select, socket, struct, subprocess
from devices.virtio.net import HEADER_SIZE
from vmm.host.tap import Tap

def arp(sender, target):
    hardware = b"\\x52\\x54\\0\\0\\0\\x01"
    body = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
    body += hardware + bytes(sender) + bytes(6) + bytes(target)
    return b"\\xff" * 6 + hardware + b"\\x08\\x06" + body

def frames(tap, seconds=10):
    room = memoryview(bytearray(70_000))
    ready = select.poll()
    ready.register(tap.fd, select.POLLIN)
    while ready.poll(seconds * 1000):
        size = tap.receive([room[:100], room[100:]])
        yield bytes(room[HEADER_SIZE:size])

tap = Tap("gv0")
subprocess.run("ip addr add 10.9.0.1/24 dev gv0 && ip link set gv0 up", shell=True, check=True)
"""


@needs_tun
def test_a_frame_each_way() -> None:
    # The kernel answers an ARP request for its own address: that took a frame in and one out.
    told = run_in_netns(
        UP
        + """
assert tap.name == "gv0"
assert tap.send([bytes(HEADER_SIZE), arp([10, 9, 0, 2], [10, 9, 0, 1])])
answer = next(f for f in frames(tap) if f[12:14] == b"\\x08\\x06" and f[21] == 2)
print(answer[28:32].hex(), answer[:6].hex())
""",
        "ip",
    )
    assert told.split() == ["0a090001", "525400000001"]


@needs_tun
def test_checksums_are_left_to_the_guest_only_where_it_takes_them() -> None:
    told = run_in_netns(
        UP
        + """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.9.0.1", 0))
subprocess.run("ip neigh add 10.9.0.2 lladdr 52:54:00:00:00:01 dev gv0", shell=True, check=True)

def ask():
    # The sum over pseudo header and datagram: all ones where the checksum is complete.
    s.sendto(b"x" * 100, ("10.9.0.2", 9))
    udp = next(f for f in frames(tap) if f[12:14] == b"\\x08\\0" and f[23] == 17)
    total = 17 + len(udp) - 34 + sum(struct.unpack(">4H", udp[26:34]))
    total += sum(struct.unpack(f">{len(udp[34:]) // 2}H", udp[34:]))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total

tap.agree(tap.offloads)
left = ask()
tap.agree(0)
print(left == 0xffff, ask() == 0xffff)
""",
        "ip",
    )
    assert told.split() == ["False", "True"]


@needs_tun
def test_what_cannot_be_sent_is_dropped() -> None:
    told = run_in_netns(
        """
from devices.virtio.net import HEADER_SIZE
from vmm.host.tap import Tap
tap = Tap("gv0")
room = memoryview(bytearray(2000))
print(tap.send([bytes(HEADER_SIZE), bytes(60)]))  # the interface is down
print(tap.send([bytes(4)]))  # no header, no frame
print(tap.send([b"\\x01" + b"\\xff" * 11, bytes(60)]))  # a header that contradicts the frame
print(tap.receive([room]))
tap.close()
tap.close()
"""
    )
    assert told.split() == ["False", "False", "False", "0"]


@needs_tun
def test_the_cable_of_an_interface_that_is_removed_is_cut() -> None:
    told = run_in_netns(
        UP
        + """
subprocess.run("ip link del gv0", shell=True, check=True)
ready = select.poll()
ready.register(tap.fd, select.POLLIN)
print(bool(ready.poll(10_000)))
print(tap.send([bytes(HEADER_SIZE), bytes(60)]))
print(tap.receive([memoryview(bytearray(2000))]), tap.fd)
print(tap.send([bytes(HEADER_SIZE), bytes(60)]), tap.receive([memoryview(bytearray(2000))]))
""",
        "ip",
    )
    assert told.split() == ["True", "False", "0", "-1", "False", "0"]


@needs_tun
def test_a_tap_that_is_in_use() -> None:
    told = run_in_netns(
        """
from vmm.errors import ConfigError
from vmm.host.tap import Tap
first = Tap("gv0")
for name in ("gv0", "lo"):
    try:
        Tap(name)
    except ConfigError as error:
        print(error)
"""
    )
    assert told.splitlines() == [
        "tap gv0: another program uses it",
        "tap lo: it is an interface of another kind",
    ]


@pytest.mark.parametrize("name", ["", "sixteen_letters_", "a/b", "a b"])
def test_names_that_no_interface_has(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 15 bytes"):
        Tap(name)
