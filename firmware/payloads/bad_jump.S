# Protected mode: jump to an address where there is neither memory nor a device. KVM cannot fetch
# an instruction there and gives up with an internal error.

    .intel_syntax noprefix
    .code32

    .set NOWHERE, 0xD0000000

    .globl _start
_start:
    mov eax, NOWHERE
    jmp eax
