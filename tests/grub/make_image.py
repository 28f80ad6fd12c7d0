"""Make a bootable disk image with Debian's GRUB for PCs: no root, no loop device.

    python tests/grub/make_image.py grub.img

The image has an MBR (GRUB's boot.img with one partition in its table), GRUB's core image in the
gap behind it, and a FAT partition at 1 MiB. The core's embedded configuration puts the terminal
on the first serial port; there is no menu, so that GRUB ends at its `grub>` prompt.

Needs grub-mkimage (Debian package grub-common) and /usr/lib/grub/i386-pc (grub-pc-bin); mtools,
where installed, makes the file system and puts a file in it.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SECTOR = 512
GRUB_FILES = Path("/usr/lib/grub/i386-pc")
CORE_START = 1
PARTITION_START = 2048
IMAGE_SECTORS = 16384
MODULES = [
    "biosdisk",
    "part_msdos",
    "fat",
    "serial",
    "terminal",
    "echo",
    "ls",
    "cat",
    "halt",
    "reboot",
]
CONFIG = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
"""

# boot.img: where the sector number of the core image is, and where the partition table begins.
_KERNEL_SECTOR = 0x5C
_PARTITION_TABLE = 0x1BE
# The core's first sector ends with a list of where the rest is: sector, count, segment.
_BLOCK_LIST = SECTOR - 12


def missing_tools() -> str | None:
    """Say what is missing to make an image, None when it can be made."""
    if shutil.which("grub-mkimage") is None:
        return "grub-mkimage is not installed (Debian package grub-common)"
    if not (GRUB_FILES / "boot.img").exists():
        return f"{GRUB_FILES}/boot.img is not there (Debian package grub-pc-bin)"
    return None


def make_core(config: str = CONFIG) -> bytes:
    """Return GRUB's core image with `config` embedded, padded to whole sectors."""
    with tempfile.TemporaryDirectory() as folder:
        early, core = Path(folder, "early.cfg"), Path(folder, "core.img")
        early.write_text(config)
        command = ["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/grub"]
        subprocess.run([*command, "-c", str(early), "-o", str(core), *MODULES], check=True)
        data = core.read_bytes()
    return data + bytes(-len(data) % SECTOR)


def make_partition() -> bytes | None:
    """Return a FAT file system with one file in it, None without mtools."""
    if shutil.which("mformat") is None or shutil.which("mcopy") is None:
        return None
    sectors = IMAGE_SECTORS - PARTITION_START
    with tempfile.TemporaryDirectory() as folder:
        image, hello = Path(folder, "fat.img"), Path(folder, "hello.txt")
        image.write_bytes(bytes(sectors * SECTOR))
        hello.write_text("hello from the FAT partition\n")
        shape = ["-t", str(sectors // 16), "-h", "1", "-s", "16"]
        subprocess.run(["mformat", "-i", str(image), *shape, "::"], check=True)
        subprocess.run(["mcopy", "-i", str(image), str(hello), "::/hello.txt"], check=True)
        return image.read_bytes()


def make_image(config: str = CONFIG) -> bytes:
    """Return the whole disk."""
    core = bytearray(make_core(config))
    if CORE_START * SECTOR + len(core) > PARTITION_START * SECTOR:
        raise SystemExit("the core image does not fit in front of the partition")
    rest = len(core) // SECTOR - 1
    struct.pack_into("<QHH", core, _BLOCK_LIST, CORE_START + 1, rest, 0x820)
    boot = bytearray((GRUB_FILES / "boot.img").read_bytes())
    struct.pack_into("<Q", boot, _KERNEL_SECTOR, CORE_START)
    entry = struct.pack(
        "<B3sB3sII",
        *(0x80, b"\xfe\xff\xff", 0x0E, b"\xfe\xff\xff"),  # active; FAT16 by sector numbers
        *(PARTITION_START, IMAGE_SECTORS - PARTITION_START),
    )
    boot[_PARTITION_TABLE : _PARTITION_TABLE + 64] = entry.ljust(64, b"\0")
    disk = bytearray(IMAGE_SECTORS * SECTOR)
    disk[:SECTOR] = boot
    disk[CORE_START * SECTOR : CORE_START * SECTOR + len(core)] = core
    partition = make_partition()
    if partition is not None:
        disk[PARTITION_START * SECTOR :] = partition
    return bytes(disk)


def main() -> int:
    """Write the image to the file named on the command line."""
    parser = argparse.ArgumentParser(description="Make a disk image that boots Debian's GRUB.")
    parser.add_argument("image", type=Path)
    arguments = parser.parse_args()
    why = missing_tools()
    if why is not None:
        print(f"make_image.py: {why}", file=sys.stderr)
        return 2
    arguments.image.write_bytes(make_image())
    return 0


if __name__ == "__main__":
    sys.exit(main())
