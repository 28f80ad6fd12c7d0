# Protected mode, flat segments, paging off: greet on COM1 and halt.

    .include "console.S"
    .code32

    .globl _start
_start:
    mov esp, offset _start
    print greeting
    stop

    console_code

greeting:
    .asciz "Hello from protected mode\n"
