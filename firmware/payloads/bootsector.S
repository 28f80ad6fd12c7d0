# A boot sector: greet through the BIOS (INT 10h, teletype) and halt. It expects nothing but to
# be loaded at 0x7C00, and sets up segments and stack as boot sectors do.

    .intel_syntax noprefix
    .code16

    .globl _start
_start:
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, offset _start
    sti
    cld
    mov si, offset greeting
next:
    lodsb
    test al, al
    jz done
    mov ah, 0x0E                # teletype output
    mov bx, 0x0007              # page 0, light grey
    int 0x10
    jmp next
done:
    cli
    hlt
    jmp done

greeting:
    .asciz "Hello from a boot sector\r\n"

    .org 510
    .byte 0x55, 0xAA
