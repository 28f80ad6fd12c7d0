# Long mode: write AL to port 0x10 as often as RCX says, 1,000 times for 0, and halt. Two
# instructions a turn: what a benchmark then measures is the exit.

    .intel_syntax noprefix
    .code64

    .set PORT, 0x10
    .set DEFAULT_COUNT, 1000

    .globl _start
_start:
    test rcx, rcx
    jnz 1f
    mov ecx, DEFAULT_COUNT
1:  mov dx, PORT
2:  out dx, al
    loop 2b
    cli
3:  hlt
    jmp 3b
