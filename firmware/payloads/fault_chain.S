# Long mode: read memory that is not mapped. The gate of the page fault is not present, which is a
# fault of its own and makes a double fault; its gate wants the stack IST1, which the task-state
# segment does not have. That is the third fault: the processor shuts down.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .set DOUBLE_FAULT, 8
    .set PAGE_FAULT, 14
    .set PRESENT, 0x8000

    .globl _start
_start:
    mov esp, offset _start
    set_gate DOUBLE_FAULT, on_double_fault
    set_gate PAGE_FAULT, on_page_fault
    mov word ptr [IDT + PAGE_FAULT * 16 + 4], INTERRUPT_GATE & ~PRESENT
    mov byte ptr [IDT + DOUBLE_FAULT * 16 + 4], 1   # IST1
    lidt [idtr]
    movabs rbx, WINDOW + 0x1230
    checkpoint
    mov eax, [rbx]

on_page_fault:
on_double_fault:
    hlt

    .balign 8, 0
idtr:
    idt_pointer
