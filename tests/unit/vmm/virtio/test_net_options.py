"""What stands behind --net."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import ConfigError
from vmm.virtio.net_options import NetOptions, mac_of, parse_net


def test_user() -> None:
    assert parse_net("user") == NetOptions(tap=None, mac=None)
    found = parse_net("user,tcp=2222:22,tcp=80,udp=53:5353,interface=eth1,rate=10M")
    assert found.tcp == ("2222:22", "80")
    assert found.udp == ("53:5353",)
    assert (found.interface, found.rate) == ("eth1", 10 << 20)


def test_tap() -> None:
    found = parse_net("tap=tap0,mac=52:54:00:12:34:56,vhost=off")
    assert (found.tap, found.mac, found.vhost) == ("tap0", bytes.fromhex("525400123456"), False)
    assert parse_net("tap=tap0,vhost=on").vhost is True
    assert parse_net("tap=tap0").vhost is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "begins with user or with tap=NAME"),
        ("tap", "begins with"),
        ("tap=", "begins with"),
        ("user=1", "begins with"),
        ("bridge", "begins with"),
        ("user,speed=1", "'speed=1' is none of mac="),
        ("user,mac", "'mac' is none of"),
        ("user,mac=", "is none of"),
        ("user,mac=52:54:00:12:34:56,mac=52:54:00:12:34:57", "given 2 times"),
        ("user,mac=53:54:00:12:34:56", "the first one even"),
        ("user,mac=52:54:00:12:34", "six bytes"),
        ("user,mac=525400123456", "six bytes"),
        ("user,mac=52:54:00:12:34:xx", "six bytes"),
        ("user,tcp=22:", "two ports"),
        ("user,tcp=0:22", "two ports"),
        ("user,udp=65536", "two ports"),
        ("user,tcp=a:b", "two ports"),
        ("user,vhost=on", "only to a tap"),
        ("tap=t,vhost=maybe", "on or off"),
        ("tap=t,tcp=1:2", "user-mode networking"),
        ("user,rate=fast", "bytes a second"),
        ("user,rate=0", "bytes a second"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse_net(text)
    assert str(caught.value).startswith(f"--net {text}: ")


@given(st.text())
def test_nothing_else_is_raised(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_net(text)


def test_addresses_belong_to_names() -> None:
    one = mac_of("web", 0)
    assert one == mac_of("web", 0)
    assert len({one, mac_of("web", 1), mac_of("db", 0)}) == 3
    assert mac_of("", 0) != mac_of("", 0)
    # Of one owner only, and locally administered.
    assert (len(one), one[0] & 1, one[0] & 2) == (6, 0, 2)
