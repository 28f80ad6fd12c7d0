# Long mode: call a function through a pointer that holds rubbish: nothing is mapped there.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    mov rax, [pointer]
    checkpoint
    call rax
    hlt

    .balign 8, 0
pointer:
    .quad WINDOW + 0x5550
idtr:
    idt_pointer
