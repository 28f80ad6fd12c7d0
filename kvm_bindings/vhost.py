"""vhost: virtqueues that the kernel serves by itself, for network cards and vsock.

The VMM hands over memory, rings and eventfds; from then on what the guest puts into a queue is
taken by a kernel thread, and user space sees nothing of it until it asks the kernel to stop. Like
perf events, this is no part of KVM, but the kernel's interface like KVM, and tied to it by the
eventfds.

Addresses of rings and memory are this process's (hva). All of a queue is set before it is started.

Spec: `<linux/vhost.h>`; virtio 1.2, "Split Virtqueues", for what the rings are.
"""

import ctypes
import errno
import os
from collections.abc import Iterable

from kvm_bindings.calls import Closable, ioctl
from kvm_bindings.errors import KvmError
from kvm_bindings.ioctls import Ioctl
from kvm_bindings.structs.base import Annotated, Array, Struct, s32, u32, u64

__all__ = ["NO_FD", "Vhost", "VhostNet", "VhostVsock"]

NO_FD = -1
"""In the place of a descriptor: none."""

MAX_REGIONS = 64
"""How many regions of memory every kernel takes (the parameter max_mem_regions of its module)."""

VHOST_VIRTIO = 0xAF


class vhost_vring_state(Struct):
    """A number that belongs to queue `index`."""

    index: u32
    num: u32


class vhost_vring_file(Struct):
    """A descriptor for queue `index`; -1 for none."""

    index: u32
    fd: s32


class vhost_vring_addr(Struct):
    """Where the three parts of queue `index` lie in this process's memory."""

    index: u32
    flags: u32
    desc_user_addr: u64
    used_user_addr: u64
    avail_user_addr: u64
    log_guest_addr: u64


class vhost_memory_region(Struct):
    """`memory_size` bytes that the guest has at `guest_phys_addr`."""

    guest_phys_addr: u64
    memory_size: u64
    userspace_addr: u64
    flags_padding: u64


class vhost_memory(Struct):
    """`nregions` of the regions count."""

    nregions: u32
    padding: u32
    regions: Annotated[Array[vhost_memory_region], MAX_REGIONS]


class _vhost_memory_head(Struct):
    """The fixed part, of which the request's number is made."""

    nregions: u32
    padding: u32


def _request(name: str, direction: str, number: int, argument: type | None = None) -> Ioctl:
    return Ioctl.make(name, "vhost", direction, number, argument, type=VHOST_VIRTIO)


REQUESTS = {
    made.name: made
    for made in (
        _request("VHOST_GET_FEATURES", "R", 0x00, ctypes.c_uint64),
        _request("VHOST_SET_FEATURES", "W", 0x00, ctypes.c_uint64),
        _request("VHOST_SET_OWNER", "", 0x01),
        _request("VHOST_SET_MEM_TABLE", "W", 0x03, _vhost_memory_head),
        _request("VHOST_SET_VRING_NUM", "W", 0x10, vhost_vring_state),
        _request("VHOST_SET_VRING_ADDR", "W", 0x11, vhost_vring_addr),
        _request("VHOST_SET_VRING_BASE", "W", 0x12, vhost_vring_state),
        _request("VHOST_GET_VRING_BASE", "WR", 0x12, vhost_vring_state),
        _request("VHOST_SET_VRING_KICK", "W", 0x20, vhost_vring_file),
        _request("VHOST_SET_VRING_CALL", "W", 0x21, vhost_vring_file),
        _request("VHOST_SET_VRING_ERR", "W", 0x22, vhost_vring_file),
        _request("VHOST_NET_SET_BACKEND", "W", 0x30, vhost_vring_file),
        _request("VHOST_VSOCK_SET_GUEST_CID", "W", 0x60, ctypes.c_uint64),
        _request("VHOST_VSOCK_SET_RUNNING", "W", 0x61, ctypes.c_int),
    )
}
"""The requests that are made here, by name."""

_EXPLAINED = {
    errno.ENOENT: "there is no such device; load its module (modprobe {module})",
    errno.EACCES: "this user may not use it; add yourself to its group, or change its mode",
    errno.ENODEV: "its module is not loaded (modprobe {module})",
}


class Vhost(Closable):
    """One device of the kernel's, owned by this process from here on.

    Args:
        path: its node.

    Raises:
        KvmError: it cannot be opened or owned.
    """

    path = "/dev/vhost-net"
    module = "vhost_net"

    def __init__(self, path: str | None = None) -> None:
        node = path or self.path
        try:
            super().__init__(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            number = error.errno or 0
            text = _EXPLAINED.get(number, os.strerror(number)).format(module=self.module)
            raise KvmError(f"open {node}", number, text) from None
        try:
            self._ask("VHOST_SET_OWNER")
        except KvmError:
            self.close()
            raise

    @property
    def features(self) -> int:
        """The feature bits that the kernel can serve: virtio's, and vhost's own above them."""
        bits = ctypes.c_uint64()
        self._ask("VHOST_GET_FEATURES", bits)
        return bits.value

    def set_features(self, bits: int) -> None:
        """Say which features driver and device agreed upon."""
        self._ask("VHOST_SET_FEATURES", ctypes.c_uint64(bits))

    def set_memory(self, regions: Iterable[tuple[int, int, int]]) -> None:
        """Say what the guest's memory is: (gpa, size in bytes, hva), whole pages.

        Raises:
            KvmError: the kernel refuses; ENOSPC: more regions than it takes.
        """
        table = vhost_memory()
        for gpa, size, hva in regions:
            if table.nregions == MAX_REGIONS:
                text = f"more than {MAX_REGIONS} regions of memory"
                raise KvmError("VHOST_SET_MEM_TABLE", errno.ENOSPC, text)
            region = vhost_memory_region(gpa, size, hva, 0)
            table.regions[table.nregions] = region
            table.nregions += 1
        self._ask("VHOST_SET_MEM_TABLE", table)

    def set_vring(self, index: int, *, size: int, desc: int, avail: int, used: int) -> None:
        """Say where queue `index` with its `size` descriptors lies: three addresses (hva)."""
        self._ask("VHOST_SET_VRING_NUM", vhost_vring_state(index, size))
        self._ask("VHOST_SET_VRING_ADDR", vhost_vring_addr(index, 0, desc, used, avail, 0))

    def set_vring_base(self, index: int, base: int) -> None:
        """Say which entry of the avail ring comes next (the running index, 16 bits)."""
        self._ask("VHOST_SET_VRING_BASE", vhost_vring_state(index, base))

    def vring_base(self, index: int) -> int:
        """Return which entry of the avail ring comes next."""
        state = vhost_vring_state(index)
        self._ask("VHOST_GET_VRING_BASE", state)
        return state.num

    def set_kick(self, index: int, eventfd: int) -> None:
        """Take notifications for queue `index` from this eventfd."""
        self._ask("VHOST_SET_VRING_KICK", vhost_vring_file(index, eventfd))

    def set_call(self, index: int, eventfd: int) -> None:
        """Signal this eventfd when queue `index` has used buffers."""
        self._ask("VHOST_SET_VRING_CALL", vhost_vring_file(index, eventfd))

    def set_error(self, index: int, eventfd: int) -> None:
        """Signal this eventfd when what queue `index` holds cannot be served."""
        self._ask("VHOST_SET_VRING_ERR", vhost_vring_file(index, eventfd))

    def _ask(self, name: str, argument: object = None) -> None:
        ioctl(self.fd, REQUESTS[name], argument)


class VhostNet(Vhost):
    """/dev/vhost-net: the queues of a network card, between a guest and a tap device.

    Queue 0 receives and queue 1 transmits.
    """

    def set_backend(self, index: int, fd: int) -> None:
        """Join queue `index` to a tap device, which starts it; NO_FD stops it."""
        self._ask("VHOST_NET_SET_BACKEND", vhost_vring_file(index, fd))


class VhostVsock(Vhost):
    """/dev/vhost-vsock: the receive (0) and transmit (1) queues of a guest's vsock."""

    path = "/dev/vhost-vsock"
    module = "vhost_vsock"

    def set_guest_cid(self, cid: int) -> None:
        """Choose the guest's address, 3 to 0xFFFFFFFE.

        Raises:
            KvmError: it is none (EINVAL), or another guest has it (EADDRINUSE).
        """
        self._ask("VHOST_VSOCK_SET_GUEST_CID", ctypes.c_uint64(cid))

    def set_running(self, running: bool) -> None:
        """Start or stop serving the queues."""
        self._ask("VHOST_VSOCK_SET_RUNNING", ctypes.c_int(running))
