# Long mode: let the local APIC's timer interrupt 20 times, periodically, and say so. The APIC is
# reached in xAPIC mode, through its registers in memory.

    .include "console.S"
    .include "idt64.S"
    .code64

    .set TICKS, 20
    .set APIC_BASE, 0xFEE00000
    .set APIC_EOI, 0x0B0
    .set APIC_SPURIOUS, 0x0F0   # bit 8 switches the APIC on
    .set APIC_LVT_TIMER, 0x320
    .set APIC_TIMER_INITIAL, 0x380
    .set APIC_TIMER_DIVIDE, 0x3E0
    .set TIMER_PERIODIC, 1 << 17
    .set DIVIDE_BY_1, 0x0B
    .set TIMER_VECTOR, 0x40
    .set SPURIOUS_VECTOR, 0x4F  # older APICs demand ones in the low four bits
    .set PERIOD, 1000000        # bus clocks: 1 ms at KVM's 1 GHz

    .globl _start
_start:
    mov esp, offset _start
    set_gate TIMER_VECTOR, on_tick
    set_gate SPURIOUS_VECTOR, on_spurious
    lidt [idtr]
    mov al, 0xFF                # mask the two PICs: nothing but the APIC interrupts
    out 0x21, al
    out 0xA1, al
    mov ebx, APIC_BASE
    mov dword ptr [rbx + APIC_SPURIOUS], 0x100 | SPURIOUS_VECTOR
    mov dword ptr [rbx + APIC_TIMER_DIVIDE], DIVIDE_BY_1
    mov dword ptr [rbx + APIC_LVT_TIMER], TIMER_PERIODIC | TIMER_VECTOR
    mov dword ptr [rbx + APIC_TIMER_INITIAL], PERIOD
    xor ecx, ecx
wait:
    sti
    hlt
    cli
    cmp ecx, TICKS
    jb wait
    mov dword ptr [rbx + APIC_TIMER_INITIAL], 0
    print done
    exit 0

on_tick:
    inc ecx
    mov dword ptr [rbx + APIC_EOI], 0
on_spurious:                    # takes no end of interrupt
    iretq

    console_code

idtr:
    idt_pointer
done:
    .asciz "20 APIC timer ticks\n"
