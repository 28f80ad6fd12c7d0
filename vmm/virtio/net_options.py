"""What `--net` says: which network card, and where its cable goes.

user                         a network without privileges, through passt
user,tcp=2222:22,udp=53:53   with ports of the host that lead to the guest
tap=tap0                     a tap device
...,mac=52:54:00:12:34:56    the card's address; otherwise the machine's name decides
...,vhost=on|off             let the kernel pass frames (default: where it can)
...,rate=10M                 bytes a second, each way
"""

from __future__ import annotations

import hashlib
import os

from devices.records import Record
from vmm.errors import ConfigError
from vmm.layout import parse_size
from vmm.virtio.words import Words

__all__ = ["NetOptions", "mac_of", "parse_net"]

_KEYS = ("mac", "tcp", "udp", "interface", "vhost", "rate")
_USER_ONLY = ("tcp", "udp", "interface")


class NetOptions(Record):
    """One network card."""

    tap: str | None
    """The tap's name; None: user-mode networking."""
    mac: bytes | None
    """6 bytes; None: one that belongs to the machine's name."""
    tcp: tuple[str, ...] = ()
    udp: tuple[str, ...] = ()
    """Port forwards, "HOST:GUEST"."""
    interface: str | None = None
    """The host's, whose addresses a user-mode network takes."""
    vhost: bool | None = None
    """Whether the kernel passes frames; None: where it can."""
    rate: int | None = None
    """Bytes a second, each way."""


def parse_net(text: str) -> NetOptions:
    """Read what stands behind `--net`.

    Raises:
        ConfigError: it is wrong.
    """
    words = Words("--net", text, _KEYS)
    if words.kind == "tap" and words.value:
        tap: str | None = words.value
        for key in _USER_ONLY:
            if words.all(key):
                raise words.error(f"{key}= is for user-mode networking; a tap leads where it leads")
    elif words.kind == "user" and not words.has_value:
        tap = None
    else:
        raise words.error("begins with user or with tap=NAME")
    vhost = words.one("vhost")
    if vhost not in (None, "on", "off"):
        raise words.error(f"vhost={vhost}: on or off")
    if vhost == "on" and tap is None:
        raise words.error("vhost=on: the kernel passes frames only to a tap")
    rate = words.one("rate")
    return NetOptions(
        tap=tap,
        mac=_mac(words),
        tcp=tuple(_forward(words, "tcp", value) for value in words.all("tcp")),
        udp=tuple(_forward(words, "udp", value) for value in words.all("udp")),
        interface=words.one("interface"),
        vhost=None if vhost is None else vhost == "on",
        rate=None if rate is None else _rate(words, rate),
    )


def mac_of(name: str, number: int) -> bytes:
    """The address of a machine's card by the machine's name: the same whenever it is started on
    this host, and locally administered.

    Args:
        name: the machine's; without one the address is drawn.
        number: the card's, from 0.
    """
    if not name:
        return b"\x52\x54" + os.urandom(4)
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            host = file.read().strip()
    except (OSError, ValueError):
        host = ""
    digest = hashlib.sha256(f"{host}\0{name}\0{number}".encode()).digest()
    return b"\x52\x54" + digest[:4]


def _mac(words: Words) -> bytes | None:
    text = words.one("mac")
    if text is None:
        return None
    try:
        mac = bytes(int(part, 16) for part in text.split(":") if len(part) == 2)
    except ValueError:
        mac = b""
    if len(mac) != 6 or text.count(":") != 5 or mac[0] & 1:
        raise words.error(f"mac={text}: six bytes as 52:54:00:12:34:56, the first one even")
    return mac


def _forward(words: Words, key: str, text: str) -> str:
    host, colon, guest = text.partition(":")
    for port in (host, guest) if colon else (host,):
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise words.error(f"{key}={text}: two ports, the host's and the guest's: 2222:22")
    return text


def _rate(words: Words, text: str) -> int:
    try:
        rate = parse_size(text)
    except ConfigError:
        rate = 0
    if rate < 1:
        raise words.error(f"rate={text}: bytes a second, for example 10M")
    return rate
