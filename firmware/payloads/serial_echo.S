# Real mode: echo COM1 in upper case until "q" or Ctrl-D. Input arrives by interrupt (IRQ4 through
# the PIC); in between the guest halts.
#
# The FIFOs stay off: switching them on would throw away what was typed before the guest started.

    .include "console.S"
    .include "pic.S"
    .code16

    .set IER_RDA, 1 << 0        # interrupt when data was received
    .set LCR_8N1, 3
    .set MCR_LINES, 0x0B        # DTR, RTS, and OUT2, which connects the interrupt line
    .set CTRL_D, 4

    .globl _start
_start:
    mov esp, offset _start
    set_vector IRQ_COM1, on_com1
    pic_init IRQ_COM1
    mov dx, COM1_LCR
    mov al, LCR_8N1
    out dx, al
    mov dx, COM1_MCR
    mov al, MCR_LINES
    out dx, al
    print greeting
    mov dx, COM1_IER
    mov al, IER_RDA
    out dx, al
wait:
    sti
    hlt
    jmp wait

on_com1:
    mov dx, COM1_LSR
    in al, dx
    test al, LSR_DR
    jz 3f
    mov dx, COM1
    in al, dx
    cmp al, 'q'
    je quit
    cmp al, CTRL_D
    je quit
    cmp al, 'a'
    jb 2f
    cmp al, 'z'
    ja 2f
    sub al, 'a' - 'A'
2:  send_al
    jmp on_com1
3:  eoi
    iret

quit:
    exit 0

    console_code

greeting:
    .asciz "echo, q quits\n"
