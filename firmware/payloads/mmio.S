# Long mode: write 1, 2, 4 and 8 bytes to a device in memory and read them back. The device is the
# test device's memory at 0xFF000000, which keeps what it is given.

    .include "console.S"
    .code64

    .set DEVICE, 0xFF000000
    .set VALUE, 0x1122334455667788

    .globl _start
_start:
    mov esp, offset _start
    mov ebx, DEVICE
    movabs rcx, VALUE
    mov [rbx], cl
    mov [rbx + 0x10], cx
    mov [rbx + 0x20], ecx
    mov [rbx + 0x30], rcx

    mov al, [rbx]
    cmp al, cl
    jne wrong
    mov ax, [rbx + 0x10]
    cmp ax, cx
    jne wrong
    mov eax, [rbx + 0x20]
    cmp eax, ecx
    jne wrong
    mov rax, [rbx + 0x30]
    cmp rax, rcx
    jne wrong
    print ok_text
    exit 0
wrong:
    print wrong_text
    exit 1

    console_code

ok_text:
    .asciz "MMIO in 1, 2, 4 and 8 bytes\n"
wrong_text:
    .asciz "MMIO read a wrong value\n"
