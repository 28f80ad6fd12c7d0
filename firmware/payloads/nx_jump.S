# Long mode: write an instruction to a page of data and jump there. The page is not executable.

    .intel_syntax noprefix
    .include "dying.S"
    .include "idt64.S"
    .code64

    .set EFER, 0xC0000080
    .set EFER_NXE, 1 << 11
    .set FRAME, 0x6000
    .set NX_BIT, 63
    .set HLT, 0xF4

    .globl _start
_start:
    mov esp, offset _start
    lidt [idtr]
    mov ecx, EFER
    rdmsr
    or eax, EFER_NXE
    wrmsr
    open_window
    mov eax, FRAME | PRESENT_WRITABLE
    bts rax, NX_BIT
    mov [WINDOW_PT], rax
    movabs rbx, WINDOW
    mov byte ptr [rbx], HLT
    checkpoint
    jmp rbx

    .balign 8, 0
idtr:
    idt_pointer
