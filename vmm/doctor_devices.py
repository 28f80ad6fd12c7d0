"""What of the host helps virtio devices along: the kernel's vhost, taps, and three programs.

Nothing of it is needed: whatever is missing is a note, with what takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from vmm.findings import Finding, Host
from vmm.host.storage_daemon import NAME as DAEMON
from vmm.host.virtiofsd import PLACES

__all__ = ["devices"]

_TOPIC = "virtio devices"

# Node, what it is for, the module that makes it, and what there is without it.
_NODES = (
    ("net/tun", "--net tap=NAME", "tun", "--net user does without"),
    ("vhost-net", "--net tap=NAME at the kernel's speed", "vhost_net", "frames pass through vmm"),
    ("vhost-vsock", "--vsock CID", "vhost_vsock", "--vsock CID,unix=PATH does without"),
)


def devices(host: Host) -> Iterator[Finding]:
    """What there is, and how to get the rest."""
    for name, use, module, otherwise in _NODES:
        node = host.root / "dev" / name
        if not node.exists():
            value, fix = f"missing: {otherwise}", f"sudo modprobe {module}"
        elif not os.access(node, os.R_OK | os.W_OK):
            value, fix = (
                f"not for this user: {otherwise}",
                f"sudo setfacl -m u:$USER:rw /dev/{name}",
            )
        else:
            value, fix = f"there: {use}", ""
        yield Finding(_TOPIC, f"/dev/{name}", value, "note" if fix else "ok", fix)
    yield _program(host.which("passt"), "passt", "--net user", "sudo apt-get install passt")
    found = host.which("virtiofsd") or next((p for p in PLACES if os.access(p, os.X_OK)), None)
    package = "sudo apt-get install virtiofsd (Debian 12, Ubuntu 22.04: qemu-system-common)"
    yield _program(found, "virtiofsd", "--share DIR", package)
    package = "sudo apt-get install qemu-utils (Debian 12, Ubuntu 22.04: qemu-system-common)"
    yield _program(host.which(DAEMON), DAEMON, "--disk FILE.qcow2", package)


def _program(path: str | None, name: str, use: str, fix: str) -> Finding:
    if path is None:
        return Finding(_TOPIC, name, f"missing: no {use}", "note", fix)
    return Finding(_TOPIC, name, f"there: {use}")
