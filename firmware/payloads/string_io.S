# Real mode: send a text to the debug console with REP OUTSB, then read four bytes with REP INSB
# from fw_cfg, whose signature is "QEMU", and send those.

    .intel_syntax noprefix
    .code16

    .set DEBUGCON, 0xE9
    .set DEBUG_EXIT, 0xF4
    .set FW_CFG_SELECTOR, 0x510
    .set FW_CFG_DATA, 0x511
    .set FW_CFG_SIGNATURE, 0
    .set BUFFER, 0x1000

    .globl _start
_start:
    mov si, offset text
    mov cx, offset text_end - text
    mov dx, DEBUGCON
    rep outsb

    mov dx, FW_CFG_SELECTOR
    mov ax, FW_CFG_SIGNATURE
    out dx, ax
    mov di, BUFFER
    mov cx, 4
    mov dx, FW_CFG_DATA
    rep insb

    mov byte ptr [di], '\n'
    mov si, BUFFER
    mov cx, 5
    mov dx, DEBUGCON
    rep outsb

    mov al, 0
    out DEBUG_EXIT, al
    cli
1:  hlt
    jmp 1b

text:
    .ascii "a text by REP OUTSB, and by REP INSB: "
text_end:
