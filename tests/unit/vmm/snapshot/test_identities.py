"""What a copy of a machine has of its own."""

from __future__ import annotations

import re

import pytest

from vmm.errors import ConfigError
from vmm.snapshot.identities import own_settings
from vmm.virtio.net_options import parse_net

SETTINGS = {
    "net": ["user,tcp=2222:22", "tap=tap0,mac=52:54:00:00:00:01,vhost=off"],
    "disks": ["root.img:ro,queues=2", "data.img,serial=OLD,bps=1M", "plain.img"],
    "vsock": "3",
    "bios": False,
    "name": "kept",
}


def test_nothing_changes_unless_it_is_asked_for():
    assert own_settings(SETTINGS) == SETTINGS
    assert own_settings({}) == {}


def test_identities_are_drawn_anew_and_nothing_else():
    before = repr(SETTINGS)
    one, other = (own_settings(SETTINGS, new_identity=True) for _ in range(2))
    assert repr(SETTINGS) == before
    macs = [parse_net(text).mac for copy in (one, other) for text in copy["net"]]
    assert len(set(macs)) == 4
    assert all(mac[0] & 3 == 2 for mac in macs)  # of one card, and locally administered
    assert re.fullmatch(r"user,tcp=2222:22,mac=[0-9a-f:]{17}", one["net"][0])
    assert re.fullmatch(r"tap=tap0,vhost=off,mac=[0-9a-f:]{17}", one["net"][1])
    assert re.fullmatch(r"root\.img:ro,queues=2,serial=[0-9a-f]{20}", one["disks"][0])
    assert re.fullmatch(r"data\.img,bps=1M,serial=[0-9a-f]{20}", one["disks"][1])
    assert not set(one["disks"]) & set(other["disks"])
    assert one["name"] == "kept"
    assert own_settings(SETTINGS | {"bios": True}, new_identity=True)["disks"] == SETTINGS["disks"]


def test_what_is_given_counts():
    net = ["tap=tap1,mac=52:54:00:00:00:09", "user"]
    assert own_settings(SETTINGS, net=net, vsock="7")["net"] == net
    drawn = own_settings(SETTINGS, net=net, vsock="7", new_identity=True)
    assert drawn["net"][0] == net[0]
    assert re.fullmatch(r"user,mac=[0-9a-f:]{17}", drawn["net"][1])
    assert drawn["vsock"] == "7"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"net": ["user"]}, "has 2 network cards, and 1 are given"),
        ({"net": []}, "has 2 network cards, and 0 are given"),
    ],
)
def test_what_the_machine_has_not_cannot_be_given(given, what):
    with pytest.raises(ConfigError, match=what):
        own_settings(SETTINGS, **given)
    with pytest.raises(ConfigError, match="--vsock 4: the machine of the snapshot has no sockets"):
        own_settings({}, vsock="4")
