"""What `--disk` says of a virtio disk.

--disk FILE[:ro|:cow|:rw]        an image, raw or of a format that its beginning and its name say
       ,format=qcow2             or of this one
       ,serial=TEXT,queues=N,iops=N,bps=SIZE
--disk vhost-user=SOCKET         a disk that another process serves
       ,readonly                 which must not let the guest write
"""

from __future__ import annotations

import os

from vmm.errors import ConfigError
from vmm.host.disk_formats import FORMATS, image_format
from vmm.host.drives import parse_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.token_bucket import RateLimit
    from vmm.host.disk import DiskAccess

__all__ = ["DiskSpec"]

_SERIAL_SIZE = 20
_MOST_QUEUES = 64
_KEYS = ("serial", "queues", "iops", "bps", "format")
_SOCKET = "vhost-user="
_READONLY = ",readonly"


class DiskSpec:
    """What the text of a virtio disk says.

    Raises:
        ConfigError: it says something else.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.serial = self.format = ""
        self.queues = 1
        self.iops = self.bps = 0
        """Requests and bytes a second at most; 0: any."""
        self.socket = ""
        """Of the process that serves it, where that is not for us to start."""
        if text.startswith(_SOCKET):
            self.socket = text.removeprefix(_SOCKET).removesuffix(_READONLY)
            self.path = ""
            self.access: DiskAccess = "read-only" if text.endswith(_READONLY) else "writable"
            if not self.socket or "," in self.socket:
                raise ConfigError(f"--disk {text}: takes {_SOCKET}SOCKET[{_READONLY}]")
            return
        rest = text
        while True:
            before, comma, last = rest.rpartition(",")
            key, equals, value = last.partition("=")
            if not (comma and equals and key in _KEYS):
                break
            self._set(key, value)
            rest = before
        self.path, self.access = parse_disk(rest)

    def within(self, folder: str) -> DiskSpec:
        """The same disk, with a relative name that begins in `folder`."""
        self.path = self.path and os.path.join(folder, self.path)
        self.socket = self.socket and os.path.join(folder, self.socket)
        return self

    def found_format(self) -> str:
        """The image's format: what is given, or what it is found to be.

        Raises:
            ConfigError: it must be given; or the other words are about raw images only.
        """
        found = self.format or image_format(self.path)
        if found == "raw":
            return found
        if self.access == "private":
            raise ConfigError(
                f"--disk {self.text}: :cow is for raw images; lay one over it that can be thrown "
                f"away: qemu-img create -f qcow2 -F {found} -b {self.path} over.qcow2"
            )
        for key in ("serial", "iops", "bps"):
            if getattr(self, key):
                raise ConfigError(f"--disk {self.text}: {key}= is for raw images")
        return found

    def limit(self) -> RateLimit | None:
        """The rate limit that it asks for."""
        if not self.iops and not self.bps:
            return None
        from devices.token_bucket import RateLimit, TokenBucket

        return RateLimit(
            TokenBucket(self.iops) if self.iops else None,
            TokenBucket(self.bps) if self.bps else None,
        )

    def _set(self, key: str, value: str) -> None:
        text = self.text
        if key == "serial":
            if not value.isascii() or not value.isprintable() or len(value) > _SERIAL_SIZE:
                raise ConfigError(f"{text}: a serial number is up to {_SERIAL_SIZE} characters")
            self.serial = value
            return
        if key == "format":
            if value not in FORMATS:
                raise ConfigError(f"--disk {text}: format= is one of {', '.join(FORMATS)}")
            self.format = value
            return
        from vmm.layout import parse_size

        number = parse_size(value, what=f"{text}: {key}")
        if number < 1 or (key == "queues" and number > _MOST_QUEUES):
            most = f", at most {_MOST_QUEUES}" if key == "queues" else ""
            raise ConfigError(f"{text}: {key} is at least 1{most}")
        setattr(self, key, number)
