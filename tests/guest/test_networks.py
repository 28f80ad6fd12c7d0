"""Debian's kernel on a network: through the kernel's vhost, through this process, and without
privileges. Each test has a network namespace of its own."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import vmm

Linux = Callable[..., Any]
Modules = Callable[..., Mapping[str, bytes]]

LOAD = "for module in /modules/*.ko; do insmod $module || echo cannot load $module; done\n"
POWER_OFF = "poweroff -f\n"
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|virtio.*(fail|broken)|virtio_net.*(bad|error)"


ON_A_TAP = f"""\
{LOAD}
ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up
ping -c 3 -W 10 10.9.0.1
echo sum; wget -q -O - http://10.9.0.1:8000/file | md5sum; echo end of sum
echo address $(cat /sys/class/net/eth0/address)
ping -c 1 -s 20000 -W 10 10.9.0.1 > /dev/null && echo long pings pass
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""


@pytest.mark.parametrize("words", ["", ",vhost=off"], ids=["vhost", "without vhost"])
def test_a_tap(
    linux: Linux,
    modules: Modules,
    served: Callable[[str], str],
    busybox: Callable[[str], None],
    download_size: int,
    words: str,
) -> None:
    if not words and not Path("/dev/vhost-net").exists():
        pytest.skip("no /dev/vhost-net")
    sums: list[str] = []

    def prepare(machine: vmm.Machine) -> None:
        busybox("ip addr add 10.9.0.1/24 dev gv0; ip link set gv0 up")
        sums.append(served("10.9.0.1"))

    guest = linux(
        ON_A_TAP,
        files=modules("virtio_mmio", "virtio_net"),
        net=[f"tap=gv0,mac=52:54:00:12:34:56{words}"],
        prepare=prepare,
        cpus=2,
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    assert "3 packets received" in guest.text, guest.text
    assert guest.between("sum", "end of sum") == [f"{sums[0]}  -"]
    assert "address 52:54:00:12:34:56" in guest.text
    assert "long pings pass" in guest.text
    assert guest.between("complaints", "end of complaints") == []
    (place,) = [place for place in guest.machine.virtio if place.device.device_id == 1]
    assert bool(place.device.handed_over) is not bool(words)
    if words:
        assert place.device.received_bytes > download_size
        assert place.device.sent_frames > 0


FOR_A_USER = f"""\
{LOAD}
ip link set eth0 up
udhcpc -i eth0 -n -q -s /udhcpc > /dev/null 2>&1 || echo no lease
ip addr show dev eth0 | grep "inet "
echo sum; wget -q -O - http://192.0.2.1:8000/file | md5sum; echo end of sum
echo listening; echo hello from the guest | nc -l -p 22 > /heard; echo heard $(cat /heard)
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
{POWER_OFF}"""

LEASE = b"""\
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
"""


def test_a_network_without_privileges(
    linux: Linux, modules: Modules, served: Callable[[str], str], uplink: str
) -> None:
    # The gateway's address is the host's loopback.
    expected = served("127.0.0.1")
    answers: list[bytes] = []

    def prepare(machine: vmm.Machine) -> None:
        # Made on this thread, so that it is in the test's namespace.
        client = socket.socket()

        def talk() -> None:
            while "\nlistening" not in machine.console.text.replace("\r", ""):
                if machine.last_result is not None:
                    return
                threading.Event().wait(0.1)
            threading.Event().wait(1)
            with client:
                client.settimeout(60)
                client.connect(("127.0.0.1", 2222))
                client.sendall(b"hello from the host\n")
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(100):
                    answers.append(piece)

        threading.Thread(target=talk, daemon=True).start()

    guest = linux(
        FOR_A_USER,
        files={**modules("virtio_mmio", "virtio_net", "af_packet"), "udhcpc": LEASE},
        net=["user,tcp=2222:22"],
        prepare=prepare,
    )
    assert guest.result.reason == "poweroff", guest.result.report()
    assert re.search(rf"inet {re.escape(uplink)}/24", guest.text), guest.text
    assert guest.between("sum", "end of sum") == [f"{expected}  -"]
    assert b"".join(answers) == b"hello from the guest\n"
    assert "heard hello from the host" in guest.text
    assert guest.between("complaints", "end of complaints") == []
