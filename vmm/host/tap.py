"""A tap device: the host's end of a cable, whose other end is a guest's network card.

Frames come and go with the header that virtio puts before them (12 bytes), so that either side can
leave checksums and segmentation to the other: TCP segments of up to 64 KiB pass as one frame.

Spec: Linux, Documentation/networking/tuntap.rst; `<linux/if_tun.h>`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from devices.virtio import net
from vmm.errors import ConfigError

__all__ = ["Tap"]

_NODE = "/dev/net/tun"
_NAME_LIMIT = 15
"""IFNAMSIZ without the NUL."""

_TUNSETIFF = 0x4004_54CA
_TUNSETOFFLOAD = 0x4004_54D0
_TUNSETVNETHDRSZ = 0x4004_54D8
_IFREQ = struct.Struct("16sH22x")
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

_OFFLOADS = (
    (net.GUEST_CSUM, 1 << 0),  # TUN_F_CSUM
    (net.GUEST_TSO4, 1 << 1),  # TUN_F_TSO4
    (net.GUEST_TSO6, 1 << 2),  # TUN_F_TSO6
    (net.GUEST_ECN, 1 << 3),  # TUN_F_TSO_ECN
)


class Tap:
    """An open tap device; frames are sent and received whole, without waiting.

    Args:
        name: the interface, which is made where there is none and gone again with this; one that
            was made beforehand (`ip tuntap add NAME mode tap user USER`) needs no privilege and
            stays.

    Raises:
        ConfigError: it cannot be had; the text says what to do.
    """

    offloads = net.OFFLOADS
    header = True
    mtu = 0

    def __init__(self, name: str) -> None:
        if not name or len(name.encode()) > _NAME_LIMIT or "/" in name or name.split() != [name]:
            raise ConfigError(f"tap {name!r}: an interface has a name of 1 to {_NAME_LIMIT} bytes")
        try:
            self.fd = os.open(_NODE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"tap {name}: {_NODE}: {_why(error, name)}") from None
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            asked = _IFREQ.pack(name.encode(), flags)
            answer = fcntl.ioctl(self.fd, _TUNSETIFF, asked)
            fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("i", net.HEADER_SIZE))
        except OSError as error:
            os.close(self.fd)
            raise ConfigError(f"tap {name}: {_why(error, name)}") from None
        self.name = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode(errors="replace")

    def agree(self, features: int) -> None:
        """Give the guest only what it takes: frames without a checksum, TCP segments of up to
        64 KiB of IPv4 and of IPv6, those with congestion marks; `features` are virtio-net's."""
        bits = sum(ours for theirs, ours in _OFFLOADS if features & theirs)
        with contextlib.suppress(OSError):  # a kernel without one of them sends plain frames
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, bits)

    def send(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Send one frame, its header included; say whether it was taken.

        One that is malformed, or for which the other side has no room, is dropped, as on a wire.
        """
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            self._refused(error)
            return False
        return True

    def receive(self, parts: Sequence[memoryview]) -> int:
        """Take the next frame, its header included, and return its bytes; 0: there is none now.

        What does not fit is lost. Where the interface was removed, the cable is cut.
        """
        try:
            return os.readv(self.fd, parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._refused(error)
            if error.errno == errno.EBADFD:
                self.close()
            return 0

    def close(self) -> None:
        """Pull the cable. May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _refused(self, error: OSError) -> None:
        """Raise what is no reason to do without a frame."""
        if self.fd >= 0 and error.errno not in _DROPPED:
            raise error


# EINVAL, EFAULT: headers that contradict the frame. EIO: the interface is down. EBADFD: it was
# removed. The others: full.
_DROPPED = frozenset(
    (
        *(errno.EINVAL, errno.EFAULT, errno.EMSGSIZE, errno.EIO, errno.EBADFD),
        *(errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM),
    )
)


def _why(error: OSError, name: str) -> str:
    if error.errno == errno.ENOENT:
        return "not there; load the module: modprobe tun"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "needs privileges; as root, once: "
            f"ip tuntap add {name} mode tap user $(id -un) && ip link set {name} up; "
            "or use --net user, which needs none"
        )
    if error.errno == errno.EBUSY:
        return "another program uses it"
    if error.errno == errno.EINVAL:
        return "it is an interface of another kind"
    return os.strerror(error.errno or 0)
