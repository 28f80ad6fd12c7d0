"""The formats of disk images, told by how they begin.

A raw image can begin with anything, and the guest writes it: one that made its raw disk begin
like a qcow2 image would have its next run read whatever file that header names. So the file's name
has to say the same as its beginning.

Spec: QEMU, docs/interop/qcow2.rst; VMware, "Virtual Disk Format 5.0"; Microsoft, "Virtual Hard Disk
Image Format Specification" and [MS-VHDX], "File Type Identifier"; VirtualBox, VDICore.h.
"""

from __future__ import annotations

import os

from vmm.errors import ConfigError

__all__ = ["FORMATS", "image_format"]

FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc")
"""Their names, as QEMU has them; vpc is what others call VHD."""

# Where, what, which format, and the ends of names that say so.
_BEGINNINGS = (
    (0, b"QFI\xfb\0\0\0\1", "qcow", (".qcow",)),
    (0, b"QFI\xfb", "qcow2", (".qcow2", ".qcow", ".qc2")),
    (0, b"QED\0", "qed", (".qed",)),
    (0, b"KDMV", "vmdk", (".vmdk",)),
    (0, b"# Disk DescriptorFile", "vmdk", (".vmdk",)),
    (0x40, b"\x7f\x10\xda\xbe", "vdi", (".vdi",)),
    (0, b"vhdxfile", "vhdx", (".vhdx",)),
    (0, b"conectix", "vpc", (".vhd", ".vpc")),
)
_HEAD_SIZE = 512


def image_format(path: str) -> str:
    """Say what format a file is of; "raw" where nothing speaks against it, or it cannot be read.

    Raises:
        ConfigError: it begins like one format, and its name does not say so.
    """
    head = _head(path)
    for at, beginning, name, ends in _BEGINNINGS:
        if head.startswith(beginning, at):
            if path.lower().endswith(ends):
                return name
            raise ConfigError(
                f"{path}: begins like a {name} image, and its name does not end in {ends[0]}; "
                f"add ,format={name}, or ,format=raw to give the guest the file as it is"
            )
    return "raw"


def _head(path: str) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""  # whoever opens it to use it says why
    try:
        return os.pread(fd, _HEAD_SIZE, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)
