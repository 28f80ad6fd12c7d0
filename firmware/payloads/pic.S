# Shared by the payloads; not a guest by itself.
#
# The two interrupt controllers of a PC, as an operating system sets them up: vectors moved out of
# the way of the exceptions, and every line masked but the wanted ones.

    .set PIC1, 0x20
    .set PIC2, 0xA0
    .set PIC_ICW1, 0x11         # begin initialization, cascaded, ICW4 follows
    .set PIC_ICW4, 0x01         # 8086 mode, end of interrupt by command
    .set PIC_EOI, 0x20          # non-specific end of interrupt
    .set IRQ_BASE, 0x20         # vector of IRQ0
    .set IRQ_TIMER, 0
    .set IRQ_COM1, 4

# Let \irq (0 to 7) through and no other. Clobbers AL.
.macro pic_init irq
    mov al, PIC_ICW1
    out PIC1, al
    out PIC2, al
    mov al, IRQ_BASE            # ICW2: first vector
    out PIC1 + 1, al
    mov al, IRQ_BASE + 8
    out PIC2 + 1, al
    mov al, 1 << 2              # ICW3: the second controller hangs on line 2
    out PIC1 + 1, al
    mov al, 2
    out PIC2 + 1, al
    mov al, PIC_ICW4
    out PIC1 + 1, al
    out PIC2 + 1, al
    mov al, 0xFF & ~(1 << \irq)
    out PIC1 + 1, al
    mov al, 0xFF
    out PIC2 + 1, al
.endm

# Real mode: send \irq to \handler in segment 0, through the interrupt vector table.
.macro set_vector irq, handler
    mov word ptr [(IRQ_BASE + \irq) * 4], offset \handler
    mov word ptr [(IRQ_BASE + \irq) * 4 + 2], 0
.endm

# End of interrupt. Clobbers AL.
.macro eoi
    mov al, PIC_EOI
    out PIC1, al
.endm
