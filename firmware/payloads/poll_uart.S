# Real mode: wait for a byte on COM1, where nobody ever types one.

    .include "console.S"
    .code16

    .globl _start
_start:
    mov dx, COM1_LSR
wait:
    in al, dx
    test al, LSR_DR
    jz wait
    stop
