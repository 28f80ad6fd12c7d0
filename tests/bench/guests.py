"""The guests of the benchmarks, as machine code."""

from __future__ import annotations

__all__ = [
    "DIRTY",
    "HELLO",
    "ONCE",
    "PORT",
    "UART_LOOP",
    "WRITE_LOOP",
    "hello_rom",
    "unrolled_writes",
]

PORT = 0xE9
"""The port that the guests write to."""

WRITE_LOOP = bytes.fromhex(
    "ba e9 00"  # mov dx, 0xE9
    "ee"  #       again: out dx, al
    "eb fd"  #    jmp again
)

ONCE = bytes.fromhex(
    "b0 48"  #    mov al, 'H'
    "e6 e9"  #    out 0xE9, al
    "f4"  #       hlt
)

DIRTY = b"".join(b"\xa2\x00" + bytes([page << 4]) for page in range(2, 10)) + bytes.fromhex(
    "e6 e9"  # mov [0x2000], al; ... mov [0x9000], al; out 0xE9, al
    "f4"  #    hlt
)

UART_LOOP = bytes.fromhex(
    "ba fd 03"  # again: mov dx, LSR of COM1
    "ec"  #       in al, dx
    "b2 f8"  #    mov dl, THR of COM1
    "ee"  #       out dx, al
    "eb f7"  #    jmp again
)

HELLO = b"Hello from a ROM\n"

_ROM_SIZE = 0x1_0000
_RESET_VECTOR = 0xFFF0


def unrolled_writes(count: int = 0x7000) -> bytes:
    """A loop of `count` writes with nothing between them.

    Where ring 0 is emulated a jump costs as much as a write that causes no exit; one jump in
    many thousand instructions leaves the writes alone.
    """
    head, writes = b"\xba\xe9\x00", b"\xee" * count
    back = -(count + 3)
    return head + writes + b"\xe9" + back.to_bytes(2, "little", signed=True)


def hello_rom() -> bytes:
    """A ROM of 64 KiB that writes `HELLO` to COM1 and 0 to the debug-exit port, 0xF4.

    It is entered at the reset vector in real mode, its code segment over its own 64 KiB.
    """
    code = bytearray.fromhex(
        "fc"  #       cld
        "ba f8 03"  # mov dx, THR of COM1
        "be 00 00"  # mov si, text (below)
        "2e ac"  #    next: lodsb, from the code segment
        "84 c0"  #    test al, al
        "74 03"  #    jz done
        "ee"  #       out dx, al
        "eb f7"  #    jmp next
        "e6 f4"  #    done: out 0xF4, al
        "f4"  #       hlt
        "eb fd"  #    jmp to the hlt
    )
    code[5:7] = len(code).to_bytes(2, "little")
    rom = bytearray(b"\xff" * _ROM_SIZE)
    image = bytes(code) + HELLO + b"\0"
    rom[: len(image)] = image
    jump = -(_RESET_VECTOR + 3) & 0xFFFF
    rom[_RESET_VECTOR : _RESET_VECTOR + 3] = b"\xe9" + jump.to_bytes(2, "little")
    return bytes(rom)
