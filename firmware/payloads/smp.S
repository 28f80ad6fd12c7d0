# Protected mode: start every other processor with INIT and SIPI, let each say its number on COM1
# in turn, and end when all have.
#
# The count of processors is the 32-bit word at offset 4 of the image; whoever runs the guest with
# another count patches it there (2 to 10). A processor's number is its initial APIC ID from CPUID
# leaf 1, so the IDs have to run from 0 without a gap.

    .include "console.S"
    .code32

    .set APIC_BASE, 0xFEE00000
    .set APIC_SPURIOUS, 0x0F0   # bit 8 switches the APIC on
    .set APIC_ICR, 0x300
    .set ICR_PENDING, 1 << 12
    .set ICR_INIT, 0xC4500      # INIT to all but self, level asserted
    .set ICR_STARTUP, 0xC4600   # startup to all but self; the vector is the page to start at
    .set START_PAGE, 0x8
    .set TURN, 0x500            # 32 bits: the next processor to speak

    .globl _start
_start:
    jmp begin
    .org 4
cpus:
    .long 4

begin:
    mov esp, offset _start
    mov esi, offset ap_code     # a processor starts in real mode, below 1 MiB
    mov edi, START_PAGE << 12
    mov ecx, offset ap_end - ap_code
    rep movsb
    mov dword ptr [TURN], 1
    print greeting

    mov ebx, APIC_BASE
    mov dword ptr [ebx + APIC_SPURIOUS], 0x1FF
    mov dword ptr [ebx + APIC_ICR], ICR_INIT
    call settle
    mov dword ptr [ebx + APIC_ICR], ICR_STARTUP | START_PAGE
    call settle
    # The second one is for processors that missed the first; the others ignore it.
    mov dword ptr [ebx + APIC_ICR], ICR_STARTUP | START_PAGE

    mov ecx, [cpus]
1:  pause
    cmp [TURN], ecx
    jne 1b
    print done
    exit 0

# Wait until the command is delivered. Hardware wants 10 ms more behind INIT and 200 us behind SIPI;
# KVM wants neither.
settle:
    pause
    test dword ptr [ebx + APIC_ICR], ICR_PENDING
    jnz settle
    ret

    console_code

greeting:
    .asciz "processors: 0"
done:
    .asciz " all up\n"

# What the other processors run, in real mode at START_PAGE << 12. It is position independent and
# uses no stack.
    .code16
ap_code:
    xor ax, ax
    mov ds, ax
    mov eax, 1
    cpuid
    shr ebx, 24                 # the initial APIC ID
1:  pause
    cmp [TURN], ebx
    jne 1b
    mov al, ' '
    send_al
    lea ax, [bx + '0']
    send_al
    lock inc dword ptr [TURN]
    stop
ap_end:
