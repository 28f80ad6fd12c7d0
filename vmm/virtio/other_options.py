"""What `--vsock`, `--share` and `--balloon` say.

--vsock 3                    sockets between guest and host; the guest's address is 3
--vsock 3,unix=/tmp/vsock    served here, on Unix sockets, and not by the kernel
--share DIR[,tag=NAME]       a folder, which the guest mounts: mount -t virtiofs NAME /mnt
"""

from __future__ import annotations

import os

from devices.records import Record
from vmm.virtio.words import Words

__all__ = ["ShareOptions", "VsockOptions", "parse_share", "parse_vsock"]

_FIRST_CID, _LAST_CID = 3, 0xFFFF_FFFE
_TAG_SIZE = 36


class VsockOptions(Record):
    """Sockets between guest and host."""

    cid: int
    unix: str | None = None
    """The socket that programs of the host connect to; None: the kernel serves."""


class ShareOptions(Record):
    """A folder of the host's."""

    folder: str
    tag: str


def parse_vsock(text: str) -> VsockOptions:
    """Read what stands behind `--vsock`.

    Raises:
        ConfigError: it is wrong.
    """
    words = Words("--vsock", text, ("unix",))
    digits = words.kind if words.kind.isascii() and words.kind.isdigit() else "0"
    if words.has_value or not _FIRST_CID <= int(digits) <= _LAST_CID:
        raise words.error(f"begins with the guest's address, {_FIRST_CID} to {_LAST_CID}")
    return VsockOptions(int(digits), words.one("unix"))


def parse_share(text: str) -> ShareOptions:
    """Read what stands behind `--share`; the tag is the folder's own name unless given.

    Raises:
        ConfigError: it is wrong.
    """
    words = Words("--share", text, ("tag",))
    folder = text.split(",")[0]
    if not folder:
        raise words.error("begins with a folder")
    tag = words.one("tag") or os.path.basename(os.path.abspath(folder)) or "root"
    if not 0 < len(tag.encode(errors="replace")) <= _TAG_SIZE or "\0" in tag:
        raise words.error(
            f"the tag {tag!r} is longer than {_TAG_SIZE} bytes; give a short one: tag="
        )
    return ShareOptions(folder, tag)
