# A boot sector that prints a line, loads a second sector, echoes keys and switches off at 'q'.
#
#   as --32 hello.S -o hello.o
#   ld -m elf_i386 -Ttext 0x7C00 --oformat binary -e start hello.o -o hello.img
#   vmm run hello.img

        .code16
        .globl  start
start:  xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    $greeting, %si
        call    print

        movw    $0x0201, %ax            # INT 13h: read one sector...
        movw    $0x0002, %cx            # ...cylinder 0, sector 2...
        xorb    %dh, %dh                # ...head 0 of the boot drive, which is in DL
        movw    $second, %bx
        int     $0x13
        jc      off
        movw    $second, %si
        call    print

key:    xorb    %ah, %ah                # INT 16h: wait for a key
        int     $0x16
        cmpb    $'q', %al
        je      off
        movb    $0x0E, %ah              # INT 10h: show it
        int     $0x10
        jmp     key

off:    movw    $0x5307, %ax            # INT 15h, APM: set the power state...
        movw    $0x0001, %bx            # ...of all devices...
        movw    $0x0003, %cx            # ...to off
        int     $0x15
        hlt

print:  lodsb
        testb   %al, %al
        jz      done
        movb    $0x0E, %ah
        int     $0x10
        jmp     print
done:   ret

greeting:
        .asciz  "Hello from the boot sector\r\n"

        .org    510
        .word   0xAA55
second: .asciz  "and from the second sector; q ends this\r\n"
        .org    1024
