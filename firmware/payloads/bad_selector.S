# Long mode: load DS with a selector that the descriptor table is too short for.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .set NO_SEGMENT, 0x1230

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    mov ecx, NO_SEGMENT
    checkpoint
    mov ds, ecx
    hlt

    .balign 8, 0
idtr:
    idt_pointer
