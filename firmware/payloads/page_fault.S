# Long mode: touch a page behind the identity map, map it in the page-fault handler, go on.
#
# The address lies 1.5 MiB behind 4 GiB. The handler maps the 2 MiB there to the first 2 MiB of
# memory, so the value read is the one stored at 1.5 MiB before.

    .include "console.S"
    .include "idt64.S"
    .code64

    .set PAGE_DIRECTORY, 0x3000 # the table that the handler fills
    .set PAGE_FAULT, 14
    .set HOLE, 0x100180000
    .set FRAME, 0x180000
    .set MAGIC, 0x600DCAFE

    .globl _start
_start:
    mov esp, offset _start
    set_gate PAGE_FAULT, on_page_fault
    lidt [idtr]
    mov dword ptr [FRAME], MAGIC
    movabs rbx, HOLE
    mov edi, [rbx]              # faults; the handler returns to this instruction

    print fault_text
    mov rbx, [fault_address]
    call print_hex
    cmp edi, MAGIC
    jne wrong
    print ok_text
    exit 0
wrong:
    print wrong_text
    exit 1

on_page_fault:
    push rax
    push rbx
    mov rax, cr2
    mov [fault_address], rax
    mov eax, 0x83               # present, writable, 2 MiB page at address 0
    mov [PAGE_DIRECTORY], rax
    mov rbx, cr3
    mov rbx, [rbx]              # PML4 entry 0: the PDPT
    and rbx, -4096
    mov eax, PAGE_DIRECTORY | 3 # present, writable
    mov [rbx + 4 * 8], rax      # PDPT entry 4: the GiB behind 4 GiB
    pop rbx
    pop rax
    add rsp, 8                  # the error code
    iretq

    hex_code
    console_code

    .balign 8, 0
fault_address:
    .quad 0
idtr:
    idt_pointer
fault_text:
    .asciz "page fault at "
ok_text:
    .asciz ", mapped and read\n"
wrong_text:
    .asciz ", read a wrong value\n"
