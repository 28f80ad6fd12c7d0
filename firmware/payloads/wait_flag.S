# Long mode: wait for an interrupt handler to set a flag in memory, with interrupts disabled.

    .intel_syntax noprefix
    .code64

    .globl _start
_start:
    cli
wait:
    pause
    cmp dword ptr [flag], 0
    je wait
    hlt

    .balign 8, 0
flag:
    .long 0
