# Long mode: load an empty interrupt descriptor table and raise an exception. Neither it, nor the
# double fault behind it, has a handler: the processor shuts down.

    .intel_syntax noprefix
    .code64

    .globl _start
_start:
    lidt [empty]
    ud2

empty:
    .word 0
    .quad 0
