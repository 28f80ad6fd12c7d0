# Real mode: greet on COM1 and halt.

    .include "console.S"
    .code16

    .globl _start
_start:
    mov esp, offset _start
    print greeting
    stop

    console_code

greeting:
    .asciz "Hello from real mode\n"
