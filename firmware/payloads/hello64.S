# Long mode: greet on COM1 and halt.

    .include "console.S"
    .code64

    .globl _start
_start:
    mov esp, offset _start
    print greeting
    stop

    console_code

greeting:
    .asciz "Hello from long mode\n"
