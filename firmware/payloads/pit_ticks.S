# Real mode: program channel 0 of the PIT to about 1 kHz, halt through 20 interrupts (IRQ0 through
# the PIC), and say so.

    .include "console.S"
    .include "pic.S"
    .code16

    .set TICKS, 20
    .set PIT_CHANNEL0, 0x40
    .set PIT_COMMAND, 0x43
    .set PIT_RATE, 0x34         # channel 0, low byte then high byte, mode 2, binary
    .set PIT_DIVISOR, 1193      # of 1,193,182 Hz

    .globl _start
_start:
    mov esp, offset _start
    set_vector IRQ_TIMER, on_tick
    pic_init IRQ_TIMER
    mov al, PIT_RATE
    out PIT_COMMAND, al
    mov al, PIT_DIVISOR & 0xFF
    out PIT_CHANNEL0, al
    mov al, PIT_DIVISOR >> 8
    out PIT_CHANNEL0, al
    xor cx, cx
wait:
    sti
    hlt
    cli
    cmp cx, TICKS
    jb wait
    print done
    exit 0

on_tick:
    inc cx
    push ax
    eoi
    pop ax
    iret

    console_code

done:
    .asciz "20 PIT ticks\n"
