# Long mode: a function calls itself without an end. Below its stack of one page lies a guard page,
# which is not mapped; the handlers of the page fault and of the double fault need that stack too.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .set PAGE_FAULT, 14
    .set DOUBLE_FAULT, 8
    .set FRAME, 0x6000
    .set CALLS, 512             # the stack has room for the returns of so many

    .globl _start
_start:
    mov esp, offset _start
    set_gate PAGE_FAULT, on_fault
    set_gate DOUBLE_FAULT, on_fault
    lidt [idtr]
    open_window
    mov qword ptr [WINDOW_PT + 8], FRAME | PRESENT_WRITABLE     # page 0 is the guard
    movabs rsp, WINDOW + 0x2000
    xor ecx, ecx
    call recurse

recurse:
    inc ecx
    cmp ecx, CALLS
    jne 1f
    checkpoint
1:  call recurse
    ret

on_fault:
    hlt

    .balign 8, 0
idtr:
    idt_pointer
