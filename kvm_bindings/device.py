"""Devices that live in the kernel, made with KVM_CREATE_DEVICE.

Spec: KVM API, KVM_CREATE_DEVICE and ioctls.KVM_SET_DEVICE_ATTR/ioctls.KVM_GET_DEVICE_ATTR.
"""

from __future__ import annotations

import ctypes
import errno

from kvm_bindings import ioctls, structs
from kvm_bindings.calls import Closable, ioctl
from kvm_bindings.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["KvmDevice"]


class KvmDevice(Closable):
    """A device of the kernel; attributes are found by group and number."""

    def has_attr(self, group: int, attr: int) -> bool:
        """Say whether the device has the attribute."""
        try:
            ioctl(
                self.fd, ioctls.KVM_HAS_DEVICE_ATTR, structs.kvm_device_attr(group=group, attr=attr)
            )
        except KvmError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    def get_attr(self, group: int, attr: int, value: Any) -> None:
        """Read the attribute into `value`, a ctypes object of the type that it has."""
        address = ctypes.addressof(value)
        ioctl(self.fd, ioctls.KVM_GET_DEVICE_ATTR, structs.kvm_device_attr(0, group, attr, address))

    def set_attr(self, group: int, attr: int, value: Any) -> None:
        """Set the attribute from `value`, a ctypes object of the type that it has."""
        address = ctypes.addressof(value)
        ioctl(self.fd, ioctls.KVM_SET_DEVICE_ATTR, structs.kvm_device_attr(0, group, attr, address))
