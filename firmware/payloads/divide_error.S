# Long mode: divide by zero; the interrupt descriptor table is there and empty.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    xor edx, edx
    mov eax, 1000
    xor ecx, ecx
    checkpoint
    div ecx
    hlt

    .balign 8, 0
idtr:
    idt_pointer
