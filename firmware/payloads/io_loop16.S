# Real mode: write AL to port 0x10 as often as ECX says, 1,000 times for 0, and halt. Two
# instructions a turn: what a benchmark then measures is the exit.
#
# All of ECX counts, so that the count can pass 65,535.

    .intel_syntax noprefix
    .code16

    .set PORT, 0x10
    .set DEFAULT_COUNT, 1000

    .globl _start
_start:
    test ecx, ecx
    jnz 1f
    mov ecx, DEFAULT_COUNT
1:  mov dx, PORT
2:  out dx, al
    addr32 loop 2b
    cli
3:  hlt
    jmp 3b
