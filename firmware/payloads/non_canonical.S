# Long mode: read at an address whose upper bits are no sign extension of bit 47.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .set NOT_CANONICAL, 0x0000800000000000

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    movabs rbx, NOT_CANONICAL
    checkpoint
    mov eax, [rbx]
    hlt

    .balign 8, 0
idtr:
    idt_pointer
