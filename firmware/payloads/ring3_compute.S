# Long mode at CPL 3: run ten million steps of a linear congruential generator and print the last
# value. The ports are open to CPL 3 by IOPL 3 and by the I/O permission bitmap of the start
# tables (firmware/start_tables.py).

    .include "console.S"
    .code64

    .set STEPS, 10000000
    .set MULTIPLIER, 6364136223846793005
    .set INCREMENT, 1442695040888963407

    .globl _start
_start:
    mov esp, offset _start
    movabs rsi, MULTIPLIER
    movabs rdi, INCREMENT
    xor ebx, ebx
    mov ecx, STEPS
1:  imul rbx, rsi
    add rbx, rdi
    dec ecx
    jnz 1b

    call print_hex
    mov al, '\n'
    send_al
    mov al, 0
    out DEBUG_EXIT, al
    jmp .                       # HLT is not for CPL 3

    hex_code
