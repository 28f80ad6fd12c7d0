"""A boot sector made of Python bytes, booted on BIOS services that are Python too."""

import tempfile
from pathlib import Path

import vmm

MESSAGE = b"Hello from sector 0\r\n\0"

CODE = bytes.fromhex(
    "31c0 8ed8"  # xor ax, ax; mov ds, ax
    "be207c"  # mov si, 0x7C20: the message
    "ac 84c0 7409"  # next: lodsb; test al, al; jz end
    "b40e bb0700 cd10"  # teletype through INT 10h
    "ebf2"  # jmp next
    "fa f4"  # end: cli; hlt
)


def boot_sector() -> bytes:
    """512 bytes: code, the message at offset 0x20, and the signature that a BIOS looks for."""
    return (CODE.ljust(0x20, b"\0") + MESSAGE).ljust(510, b"\0") + b"\x55\xaa"


with tempfile.TemporaryDirectory() as folder:
    image = Path(folder) / "boot.img"
    image.write_bytes(boot_sector())
    with vmm.boot(image, memory="2M") as machine:
        result = machine.run(timeout=30.0)
        print(machine.console.text, end="")
        for number, count in sorted(machine.bios.calls.items()):
            print(f"INT {number:02X}h: {count} calls")

print(result.summary())
