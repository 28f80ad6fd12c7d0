# Long mode: clear a buffer that lies over the page tables, then reload CR3. Nothing is mapped any
# more, the next instruction included.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    mov rbx, cr3
    mov rdi, rbx
    mov ecx, 512
    xor eax, eax
    checkpoint
    rep stosq
    mov cr3, rbx
    hlt

    .balign 8, 0
idtr:
    idt_pointer
