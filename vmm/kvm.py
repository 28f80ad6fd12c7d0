"""Opening /dev/kvm, or saying in one line why it cannot be opened and what to do."""

from __future__ import annotations

import errno
import os
from functools import cache

import kvm_bindings
from vmm.errors import KvmUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BACKENDS", "backend", "open_kvm", "why_not"]

BACKENDS = ("kvm_amd", "kvm_intel", "kvm_pvm")

_LAB = "or run the tests in the lab (pytest --kvm-lab), which needs no KVM"


def open_kvm(path: str = "/dev/kvm") -> kvm_bindings.System:
    """Open KVM.

    Raises:
        KvmUnavailable: it cannot be used; the message names the fix.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        raise KvmUnavailable(
            f"this is {machine}, and guests are x86-64: KVM cannot run them here; "
            "what needs no KVM works, and the lab (pytest --kvm-lab) emulates an x86-64 host"
        )
    try:
        return kvm_bindings.System(path)
    except OSError as error:
        raise KvmUnavailable(why_not(path, error)) from None


def why_not(path: str, error: OSError) -> str:
    """Say why KVM could not be opened, and the fix."""
    number = error.errno
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return (
            f"{path} is not usable ({errno.errorcode[number]}): load the module (modprobe kvm_amd "
            "or kvm_intel), switch virtualization on in the firmware, or, in a virtual machine, "
            f"enable nested virtualization; {_LAB}"
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"{path}: permission denied; join its group (sudo usermod -aG kvm $USER, then log in "
            f"again) or open it to everyone (sudo chmod 666 {path})"
        )
    if number == errno.EBUSY:
        return f"{path} is busy: another hypervisor (VirtualBox, VMware) holds the processor"
    return f"{path}: {error}"


@cache
def backend(root: str | Path = "/") -> str:
    """The loaded KVM backend: "kvm_amd", "kvm_intel", "kvm_pvm", or "" for none of them."""
    return next(
        (name for name in BACKENDS if os.path.isdir(os.path.join(root, "sys/module", name))), ""
    )
