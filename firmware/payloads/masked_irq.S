# Real mode: program the PIT to interrupt a thousand times a second, and halt for it with the line
# of the timer masked in the interrupt controller.

    .intel_syntax noprefix
    .include "pic.S"
    .code16

    .set PIT_CHANNEL0, 0x40
    .set PIT_COMMAND, 0x43
    .set PIT_RATE, 0x34         # channel 0, low byte then high byte, mode 2, binary
    .set PIT_DIVISOR, 1193      # of 1,193,182 Hz

    .globl _start
_start:
    mov esp, offset _start
    pic_init IRQ_COM1           # the timer's bit was meant
    mov al, PIT_RATE
    out PIT_COMMAND, al
    mov al, PIT_DIVISOR & 0xFF
    out PIT_CHANNEL0, al
    mov al, PIT_DIVISOR >> 8
    out PIT_CHANNEL0, al
wait:
    sti
    hlt
    jmp wait
