# Shared by the payloads; not a guest by itself.
#
# Interrupt gates of long mode, in a table at a fixed address that lies in the first pages of
# memory, which are zero when the machine starts.

    .set IDT, 0x1000
    .set KERNEL_CODE64, 0x18    # as in firmware/gdt.py
    .set INTERRUPT_GATE, 0x8E00 # present, DPL 0, 64-bit interrupt gate

# Send vector \vector to \handler, which lies below 4 GiB. Clobbers EAX.
.macro set_gate vector, handler
    mov eax, offset \handler
    mov [IDT + \vector * 16], ax
    mov word ptr [IDT + \vector * 16 + 2], KERNEL_CODE64
    mov word ptr [IDT + \vector * 16 + 4], INTERRUPT_GATE
    shr eax, 16
    mov [IDT + \vector * 16 + 6], ax
.endm

# What LIDT takes: 256 gates.
.macro idt_pointer
    .word 256 * 16 - 1
    .quad IDT
.endm
