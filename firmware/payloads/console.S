# Shared by the payloads; not a guest by itself.
#
# COM1 as a driver writes to it: wait until the transmitter holding register is empty, then send.
# The code assembles in 16-, 32- and 64-bit mode alike.

    .intel_syntax noprefix

    .set COM1, 0x3F8
    .set COM1_IER, COM1 + 1
    .set COM1_LCR, COM1 + 3
    .set COM1_MCR, COM1 + 4
    .set COM1_LSR, COM1 + 5
    .set LSR_DR, 1 << 0
    .set LSR_THRE, 1 << 5
    .set DEBUGCON, 0xE9
    .set DEBUG_EXIT, 0xF4

# Send the byte in AL. Clobbers AH and DX. Needs no stack.
.macro send_al
    mov ah, al
    mov dx, COM1_LSR
8:  in al, dx
    test al, LSR_THRE
    jz 8b
    mov al, ah
    mov dx, COM1
    out dx, al
.endm

# Print the zero-terminated string \text. Clobbers EAX, DX and ESI.
.macro print text
    mov esi, offset \text
    call print_string
.endm

# Halt for good.
.macro stop
    cli
9:  hlt
    jmp 9b
.endm

# End the machine with \status; stand still where nothing answers at the debug-exit port.
.macro exit status
    mov al, \status
    out DEBUG_EXIT, al
    stop
.endm

# What `print` calls: place it once, behind the guest's own code.
.macro console_code
print_string:
    lodsb
    test al, al
    jz 1f
    send_al
    jmp print_string
1:  ret
.endm

# 64-bit mode: print_hex prints RBX in 16 hexadecimal digits. Clobbers RAX, RCX and DX; RBX ends
# as it began. Place it like `console_code`.
.macro hex_code
print_hex:
    mov ecx, 16
1:  rol rbx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 2f
    add al, 'a' - '9' - 1
2:  send_al
    dec ecx
    jnz 1b
    ret
.endm
