"""A Linux kernel with a file system of one program: from its first instruction to power-off.

    python examples/linux.py [VMLINUZ]

Without a name it takes the newest kernel in /boot. It needs a static busybox (Debian:
busybox-static), and KVM on a processor: an emulated ring 0 does not run a whole kernel.
"""

import stat
import sys
import tempfile
from pathlib import Path

import vmm
from firmware.cpio import Archive

INIT = b"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "hello from $(/bin/busybox uname -sr)"
/bin/busybox poweroff -f
"""


def initramfs() -> bytes:
    """What the kernel unpacks and starts /init of: an archive, made without root."""
    archive = Archive()
    for folder in ("bin", "dev", "proc"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path("/bin/busybox").read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT)
    return archive.finish()


def main(kernel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(initramfs())
        with vmm.boot(kernel, initrd=initrd, append="console=ttyS0 quiet") as machine:
            print(machine.plan.notes[0])
            result = machine.run(timeout=120)
            print(machine.console.text, end="")
            print(f"the guest ended by {result.reason} after {result.exits:,} exits")


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    found = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    main((given or found)[-1])
