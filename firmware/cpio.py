"""An archive that Linux unpacks as its initial file system.

Spec: Linux, initramfs buffer format ("newc").
"""

from __future__ import annotations

__all__ = ["Archive"]


class Archive:
    """A cpio archive in the "newc" format, built in memory."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """Append an entry. `mode` has the file's type and permissions, `device` is major, minor."""
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            *(self._inode, mode, 0, 0, 1, 0),  # inode, mode, uid, gid, links, mtime
            *(len(content), 0, 0, *device, len(encoded), 0),
        )
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._pad()
        self._data += content
        self._pad()

    def finish(self) -> bytes:
        """The whole archive, with its trailer."""
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)
