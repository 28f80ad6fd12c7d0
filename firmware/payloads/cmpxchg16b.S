# Long mode: exchange 16 bytes at once, at CPL 0. Where KVM emulates CPL 0 (kvm_pvm) the
# instruction is beyond it and the run ends with an internal error.

    .include "console.S"
    .code64

    .set CELL, 0x2000           # 16 bytes, zero when the machine starts

    .globl _start
_start:
    mov esp, offset _start
    xor eax, eax                # expected: RDX:RAX, zero
    xor edx, edx
    mov ebx, 0x11111111         # new: RCX:RBX
    mov ecx, 0x22222222
    lock cmpxchg16b [CELL]
    jnz wrong
    cmp [CELL], rbx
    jne wrong
    cmp [CELL + 8], rcx
    jne wrong
    print ok_text
    exit 0
wrong:
    print wrong_text
    exit 1

    console_code

ok_text:
    .asciz "16 bytes exchanged\n"
wrong_text:
    .asciz "16 bytes not exchanged\n"
