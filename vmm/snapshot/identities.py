"""What a copy of a machine is to have of its own: where its cables lead, and who it says it is.

Both stand in the settings by which a machine is furnished. So a copy is given others before its
devices are made, and whatever is made of the copy in its turn has them as well.

A guest learns of another address of its network card by an interrupt (its configuration has
changed), and Linux takes it when the driver is bound again; a disk's serial number is asked for
whenever somebody looks at it; connections of sockets are gone, and the address is read again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["own_settings"]

_SERIAL_DIGITS = 20


def own_settings(
    settings: Mapping[str, Any],
    *,
    net: Sequence[str] | None = None,
    vsock: str | None = None,
    new_identity: bool = False,
) -> dict[str, Any]:
    """The settings of a copy.

    Args:
        settings: of the machine that is copied.
        net: where the cables of its network cards lead, as `--net` has it, a text a card; a card
            keeps its address unless the text has another. None: where they led.
        vsock: the guest's address, as `--vsock` has it; None: what it was.
        new_identity: draw addresses of network cards and serial numbers of disks anew, but those
            that `net` gives.

    Raises:
        ConfigError: the machine has no such devices, or another number of them.
    """
    changed = dict(settings)
    cards, sockets = settings.get("net") or [], settings.get("vsock")
    if net is not None:
        if len(net) != len(cards):
            raise ConfigError(
                f"--net: the machine of the snapshot has {len(cards)} network cards, and "
                f"{len(net)} are given; all or none can be led elsewhere"
            )
        changed["net"] = cards = list(net)
    if vsock is not None:
        if not sockets:
            raise ConfigError(f"--vsock {vsock}: the machine of the snapshot has no sockets")
        changed["vsock"] = vsock
    if new_identity:
        given = net or ()
        changed["net"] = [
            card if card in given and _has(card, "mac") else _with(card, "mac", _new_mac())
            for card in cards
        ]
        if not settings.get("bios"):  # a boot sector's disks have no serial numbers
            changed["disks"] = [
                _with(disk, "serial", os.urandom(_SERIAL_DIGITS // 2).hex())
                for disk in settings.get("disks") or []
            ]
    return changed


def _new_mac() -> str:
    return ":".join(f"{byte:02x}" for byte in b"\x52\x54" + os.urandom(4))


def _has(text: str, key: str) -> bool:
    return any(word.startswith(f"{key}=") for word in text.split(",")[1:])


def _with(text: str, key: str, value: str) -> str:
    """The text of an option with one of its keys set, or set otherwise."""
    first, *words = text.split(",")
    kept = [word for word in words if not word.startswith(f"{key}=")]
    return ",".join([first, *kept, f"{key}={value}"])
