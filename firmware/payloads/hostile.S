# Firmware that means harm to the virtio devices of its machine: it writes anything to their registers
# and rings, and between whiles checks that each still serves a driver that behaves.
#
# It is a ROM of 4 KiB below 4 GiB, in protected mode without paging, and keeps all that it must not
# lose in registers: devices may be told to write over any RAM. So there is no stack, and a subroutine
# returns through ESP.
#
# The host answers at two ports: SEED is where the random numbers begin, and MORE is asked before each
# round of some 64 actions; 0 ends the guest, and so does all ones, where nobody answers. The debug
# console gets a letter an action: s started, k kicked, r reset, o a proper request was answered, x one
# was not. In the end every device is asked once more, and the status is how many did not answer.

    .intel_syntax noprefix

    .set ROM, 0xFFFFF000
    .set SIZE, 0x1000
    .set DEBUGCON, 0xE9
    .set DEBUG_EXIT, 0xF4
    .set SEED, 0x10
    .set MORE, 0x14

    .set SLOTS, 0xD0000000
    .set SLOT_SIZE, 0x1000
    .set MOST_SLOTS, 14
    .set AREAS, 0x20000             # of the RAM, 16 KiB a device
    .set AREA_SHIFT, 14
    .set RAM_MASK, 0x3FFFFF         # as large as the RAM, and as much again

    .set MAGIC, 0x74726976
    .set DeviceID, 0x008
    .set DeviceFeatures, 0x010
    .set DeviceFeaturesSel, 0x014
    .set DriverFeatures, 0x020
    .set DriverFeaturesSel, 0x024
    .set QueueSel, 0x030
    .set QueueNum, 0x038
    .set QueueReady, 0x044
    .set QueueNotify, 0x050
    .set InterruptStatus, 0x060
    .set InterruptACK, 0x064
    .set Status, 0x070
    .set QueueDescLow, 0x080
    .set QueueDriverLow, 0x090
    .set QueueDeviceLow, 0x0A0
    .set QueueReset, 0x0C0
    .set CONFIG, 0x100
    .set NEEDS_RESET, 64

    # A queue in a device's area: its rings, and room for buffers.
    .set ENTRIES, 16
    .set QUEUE_SHIFT, 11
    .set AVAIL, 0x100
    .set USED, 0x180
    .set BUFFERS, 0x200
    .set ANSWER, 0x400
    .set QUEUE_END, 1 << QUEUE_SHIFT
    .set QUEUES, 6                  # as many as any device has that is attacked
    .set NEXT, 1
    .set WRITE, 2

    # What `rows` has of a type of device.
    .set row_type, 0
    .set row_queue, 1
    .set row_readable, 2
    .set row_writable, 4
    .set row_template, 8
    .set ROW_SIZE, 12

    .set PATIENCE, 1 << 25          # looks at the used ring

# The next of the random numbers (xorshift32), in EAX and EBP.
.macro random
    mov eax, ebp
    shl eax, 13
    xor ebp, eax
    mov eax, ebp
    shr eax, 17
    xor ebp, eax
    mov eax, ebp
    shl eax, 5
    xor ebp, eax
    mov eax, ebp
.endm

.macro go subroutine
    mov esp, offset 7f
    jmp \subroutine
7:
.endm

.macro say letter
    mov al, \letter
    out DEBUGCON, al
.endm

# Put what the row at EBX has to be read into the buffers of the queue at EDI, which is one of the
# device's, and find the device's area again. Clobbers EAX and ECX.
.macro copy_template
    mov eax, esi
    mov esi, [ebx + row_template]
    movzx ecx, word ptr [ebx + row_readable]
    shr ecx, 2
    add edi, BUFFERS
    rep movsd
    mov esi, eax
    mov edi, eax
    sub edi, SLOTS
    shl edi, AREA_SHIFT - 12
    add edi, AREAS
.endm

# One of the device's first eight queues: its number in ECX, where it lies in EBX.
.macro queue
    random
    mov ecx, eax
    shr ecx, 29
    mov ebx, ecx
    shl ebx, QUEUE_SHIFT
    add ebx, edi
.endm

    .code32
    .globl _start
_start:

# -- ESI has the device's registers, EDI its area, EBP the random numbers ---------------------

begin:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    cld
    in eax, SEED
    mov ebp, eax
    or ebp, 1                       # 0 would stay 0
    cmp dword ptr [SLOTS], MAGIC
    jne last

round:
    in eax, MORE
    test eax, eax
    jz last
    inc eax
    jz last
device:
    random
    mov ecx, eax
    shr ecx, 28
    cmp ecx, MOST_SLOTS
    jae device
    mov esi, ecx
    shl esi, 12
    add esi, SLOTS
    cmp dword ptr [esi], MAGIC
    jne device
    mov edi, ecx
    shl edi, AREA_SHIFT
    add edi, AREAS
action:
    random
    shr eax, 27
    jmp [actions + eax * 4]
done:
    random
    test al, 63
    jnz action
    jmp round

# -- actions ------------------------------------------------------------------------------------

# Write anything to one of the registers that a driver writes to, and read it.
register:
    go number
    mov edx, eax
    random
    shr eax, 28
    movzx ecx, word ptr [registers + eax * 2]
    mov [esi + ecx], edx
    mov eax, [esi + ecx]
    jmp done

# Write and read a byte or a word anywhere in the slot.
narrow:
    random
    mov ecx, eax
    shr ecx, 20
    test al, 1
    jz 1f
    mov [esi + ecx], ah
    mov al, [esi + ecx]
    jmp done
1:  mov [esi + ecx], ax
    mov ax, [esi + ecx]
    jmp done

# Write anything to the configuration space, by words of all sizes.
config:
    go number
    mov edx, eax
    random
    mov ecx, eax
    shr ecx, 25
    test al, 3
    jz 1f
    mov [esi + CONFIG + ecx], dl
    mov al, [esi + CONFIG + ecx]
    jmp done
1:  mov [esi + CONFIG + ecx], edx
    mov eax, [esi + CONFIG + ecx]
    jmp done

reset:
    mov dword ptr [esi + Status], 0
    say 'r'
    jmp done

# Bring the device up as a driver does, with any of its features, and queues of which some are of a
# size or in a place that cannot be.
start:
    mov dword ptr [esi + Status], 0
    mov dword ptr [esi + Status], 1
    mov dword ptr [esi + Status], 3
    xor ecx, ecx
1:  mov [esi + DeviceFeaturesSel], ecx
    mov [esi + DriverFeaturesSel], ecx
    random
    and eax, [esi + DeviceFeatures]
    or eax, ecx                     # VIRTIO_F_VERSION_1 is bit 0 of the second word
    mov [esi + DriverFeatures], eax
    inc ecx
    cmp ecx, 2
    jb 1b
    mov dword ptr [esi + Status], 11
    xor ebx, ebx
2:  mov [esi + QueueSel], ebx
    mov edx, ENTRIES
    random
    test al, 0xF0
    jnz 3f
    go number
    mov edx, eax
3:  mov [esi + QueueNum], edx
    .irp ring, QueueDescLow, QueueDriverLow, QueueDeviceLow
    mov eax, ebx
    shl eax, QUEUE_SHIFT
    add eax, edi
    .if \ring == QueueDriverLow
    add eax, AVAIL
    .elseif \ring == QueueDeviceLow
    add eax, USED
    .endif
    xor edx, edx
    mov ecx, eax
    random
    test al, 0xF0
    mov eax, ecx
    jnz 4f
    go address
4:  mov [esi + \ring], eax
    mov [esi + \ring + 4], edx
    .endr
    mov dword ptr [esi + QueueReady], 1
    inc ebx
    cmp ebx, QUEUES
    jb 2b
    mov dword ptr [esi + Status], 15
    say 's'
    jmp done

# Fill a queue's descriptor table, or an indirect one in the place of its buffers.
descriptors:
    queue
    random
    test al, 0x30
    jnz 1f
    add ebx, BUFFERS
1:  go address
    mov [ebx], eax
    mov [ebx + 4], edx
    go length
    mov [ebx + 8], eax
    random
    mov ecx, eax
    shr ecx, 29                     # NEXT, WRITE and INDIRECT, in any way
    mov [ebx + 12], cx
    and eax, ENTRIES - 1
    test ebp, 0x1F00
    jnz 2f
    mov eax, ebp
    shr eax, 16
2:  mov [ebx + 14], ax
    add ebx, 16
    test bl, bl
    jnz 1b
    jmp done

# Make heads available: a few as a driver does, or so many that none can be.
available:
    queue
    random
    mov edx, eax
    and eax, ENTRIES - 1
    test edx, 0x1F00
    jnz 1f
    shr eax, 8
1:  movzx ecx, word ptr [ebx + AVAIL + 2]
    and ecx, ENTRIES - 1
    mov [ebx + AVAIL + 4 + ecx * 2], ax
    mov eax, edx
    shr eax, 30
    inc eax
    test edx, 0x1F0000
    jnz 2f
    mov eax, edx
2:  add [ebx + AVAIL + 2], ax
    shr edx, 13
    and edx, 1
    mov [ebx + AVAIL], dx           # whether interrupts are wanted
    mov [ebx + AVAIL + 4 + 2 * ENTRIES], ax

kick:
    random
    mov ecx, eax
    shr ecx, 29
    test al, 0x1F
    jnz 1f
    go number
    mov ecx, eax
1:  mov [esi + QueueNotify], ecx
    say 'k'
    jmp done

# Write anywhere in the RAM, or in the area.
poison:
    go number
    mov edx, eax
    random
    mov ecx, eax
    shr ecx, 32 - AREA_SHIFT
    test al, 3
    jnz 1f
    mov ecx, eax
    and ecx, RAM_MASK >> 1
    sub ecx, edi
1:  mov [edi + ecx], edx
    jmp done

# A request of the device's type, in which a word may be wrong, or a length.
mutant:
    go request                      # EBX: the row
    test ebx, ebx
    jz done
    copy_template
    random
    test al, 0x30
    jnz 2f
    go number
    mov edx, eax
    random
    mov ecx, eax
    shr ecx, 27
    and ecx, 0x1C
    mov [edi + BUFFERS + ecx], edx
2:  movzx ecx, byte ptr [ebx + row_queue]
    movzx edx, word ptr [ebx + row_readable]
    movzx ebx, word ptr [ebx + row_writable]
    random
    test al, 0x30
    jnz 3f
    go length
    mov edx, eax
3:  random
    test al, 0x30
    jnz 4f
    go length
    mov ebx, eax
4:  lea eax, [edi + BUFFERS]        # the buffers lie in the first queue's part
    shl ecx, QUEUE_SHIFT
    add ecx, edi
    mov [ecx], eax
    mov dword ptr [ecx + 4], 0
    mov [ecx + 8], edx
    mov dword ptr [ecx + 12], NEXT | 1 << 16
    add eax, ANSWER - BUFFERS
    mov [ecx + 16], eax
    mov dword ptr [ecx + 20], 0
    mov [ecx + 24], ebx
    mov dword ptr [ecx + 28], WRITE
    movzx eax, word ptr [ecx + AVAIL + 2]
    and eax, ENTRIES - 1
    mov word ptr [ecx + AVAIL + 4 + eax * 2], 0
    inc word ptr [ecx + AVAIL + 2]
    sub ecx, edi
    shr ecx, QUEUE_SHIFT
    mov [esi + QueueNotify], ecx
    say 'k'
    jmp done

proper:
    go drive
    jmp done

# -- subroutines --------------------------------------------------------------------------------

# A number for a register: in EAX. Clobbers ECX.
number:
    random
    mov ecx, eax
    shr ecx, 26
    cmp ecx, 16
    jb 1f
    cmp ecx, 40
    jb 2f
    cmp ecx, 56
    jb 3f
    jmp esp
1:  mov eax, [numbers + ecx * 4]
    jmp esp
2:  and eax, 15
    jmp esp
3:  and eax, (1 << AREA_SHIFT) - 1
    add eax, edi
    jmp esp

# A guest-physical address: in EDX:EAX. Clobbers ECX.
address:
    random
    mov ecx, eax
    shr ecx, 28
    xor edx, edx
    cmp ecx, 10
    jb 1f
    cmp ecx, 12
    jb 2f
    and eax, 15
    mov edx, [addresses + eax * 8 + 4]
    mov eax, [addresses + eax * 8]
    jmp esp
1:  and eax, (1 << AREA_SHIFT) - 1
    add eax, edi
    jmp esp
2:  and eax, RAM_MASK
    jmp esp

# A length of a buffer: in EAX. Clobbers ECX.
length:
    random
    shr eax, 28
    mov eax, [lengths + eax * 4]
    jmp esp

# One of the requests of this type of device: its row in EBX, 0 where there is none. Clobbers EAX.
request:
    mov eax, [esi + DeviceID]
    mov ebx, offset rows
1:  cmp [ebx + row_type], al
    je 2f
    add ebx, ROW_SIZE
    cmp ebx, offset rows_end
    jb 1b
    xor ebx, ebx
    jmp esp
2:  random
    test al, 3
    jz 3f
    mov al, [ebx + row_type]
    cmp [ebx + ROW_SIZE + row_type], al
    jne 3f
    add ebx, ROW_SIZE
    jmp 2b
3:  jmp esp

# Reset the device, bring it up as a driver that behaves does, and make one request. ZF is set
# where it was answered, or there is none to make. Clobbers EAX, EBX, ECX and EDX.
drive:
    mov eax, [esi + DeviceID]
    mov ebx, offset rows
1:  cmp [ebx + row_type], al
    je 2f
    add ebx, ROW_SIZE
    cmp ebx, offset rows_end
    jb 1b
    xor eax, eax
    jmp esp
2:  mov dword ptr [esi + Status], 0
    mov dword ptr [esi + Status], 1
    mov dword ptr [esi + Status], 3
    mov dword ptr [esi + DriverFeaturesSel], 0
    mov dword ptr [esi + DriverFeatures], 0
    mov dword ptr [esi + DriverFeaturesSel], 1
    mov dword ptr [esi + DriverFeatures], 1
    mov dword ptr [esi + Status], 11
    movzx edx, byte ptr [ebx + row_queue]
    mov [esi + QueueSel], edx
    shl edx, QUEUE_SHIFT
    add edx, edi
    lea ecx, [edx + QUEUE_END]
3:  sub ecx, 4
    mov dword ptr [ecx], 0
    cmp ecx, edx
    ja 3b
    mov dword ptr [esi + QueueNum], ENTRIES
    mov [esi + QueueDescLow], edx
    mov dword ptr [esi + QueueDescLow + 4], 0
    lea eax, [edx + AVAIL]
    mov [esi + QueueDriverLow], eax
    mov dword ptr [esi + QueueDriverLow + 4], 0
    lea eax, [edx + USED]
    mov [esi + QueueDeviceLow], eax
    mov dword ptr [esi + QueueDeviceLow + 4], 0
    mov dword ptr [esi + QueueReady], 1
    mov dword ptr [esi + Status], 15
    lea ecx, [edx + BUFFERS]
    movzx eax, word ptr [ebx + row_readable]
    test eax, eax
    jz 6f
    mov [edx], ecx                  # what is to be read
    mov [edx + 8], eax
    mov edi, edx
    copy_template
    cmp word ptr [ebx + row_writable], 0
    je 7f
    mov dword ptr [edx + 12], NEXT | 1 << 16
    lea eax, [edx + ANSWER]
    mov [edx + 16], eax
    movzx eax, word ptr [ebx + row_writable]
    mov [edx + 24], eax
    mov dword ptr [edx + 28], WRITE
    jmp 7f
6:  lea eax, [edx + ANSWER]
    mov [edx], eax
    movzx eax, word ptr [ebx + row_writable]
    mov [edx + 8], eax
    mov dword ptr [edx + 12], WRITE
7:  mov word ptr [edx + AVAIL + 2], 1
    movzx eax, byte ptr [ebx + row_queue]
    mov [esi + QueueNotify], eax
    mov ecx, PATIENCE
8:  cmp word ptr [edx + USED + 2], 1
    je 9f
    dec ecx
    test cx, cx
    jnz 8b
    test dword ptr [esi + Status], NEEDS_RESET
    jnz unanswered
    test ecx, ecx
    jnz 8b
    jmp unanswered
9:  movzx eax, word ptr [ebx + row_writable]
    cmp [edx + USED + 8], eax
    jb unanswered
    test dword ptr [esi + Status], NEEDS_RESET
    jnz unanswered
    say 'o'
    xor eax, eax
    jmp esp
unanswered:
    say 'x'
    or eax, 1
    jmp esp

# -- the end ------------------------------------------------------------------------------------

last:
    xor ebp, ebp                    # how many do not answer
    mov esi, SLOTS
    mov edi, AREAS
1:  cmp dword ptr [esi], MAGIC
    jne 3f
    go drive
    jz 2f
    inc ebp
2:  add esi, SLOT_SIZE
    add edi, 1 << AREA_SHIFT
    cmp esi, SLOTS + MOST_SLOTS * SLOT_SIZE
    jb 1b
3:  mov eax, ebp
    out DEBUG_EXIT, al
4:  cli
    hlt
    jmp 4b

# -- tables -------------------------------------------------------------------------------------

    .balign 4
actions:
    .long register, register, register, register, register, narrow, config, reset
    .long start, start, start, start, descriptors, descriptors, descriptors, descriptors
    .long descriptors, descriptors, available, available, available, available, kick, kick
    .long kick, poison, poison, mutant, mutant, mutant, mutant, proper

numbers:
    .long 0, 1, 2, 3, 0xF, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x100000
    .long 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF

lengths:
    .long 0, 1, 2, 4, 12, 16, 44, 60, 512, 513, 4096, 0x10000, 0x200000
    .long 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF

addresses:                          # around the ends of RAM, the slots, the APICs, the ROM, 4 GiB, 2^64
    .quad 0, 0x1FFFFC, 0x200000, 0x1FF000, SLOTS, SLOTS + 0x50, 0xFEC00000, 0xFEE00000
    .quad ROM, ROM - 4, 0xFFFFFFFF, 1 << 32, (1 << 32) + 0x20000, 1 << 63
    .quad -16, -1

registers:
    .word DeviceFeaturesSel, DriverFeatures, DriverFeaturesSel, QueueSel, QueueNum, QueueReady
    .word QueueNotify, InterruptACK, Status, QueueDescLow, QueueDescLow + 4, QueueDriverLow
    .word QueueDriverLow + 4, QueueDeviceLow, QueueDeviceLow + 4, QueueReset

# Requests by the type of device: queue, bytes to be read, bytes that are written at least, what is
# read. Each type's first one is answered at once, and is what a driver that behaves asks for.
.macro row type, queue, readable, writable, template
    .byte \type, \queue
    .word \readable, \writable, 0
    .long \template
.endm

rows:
    row 1, 1, 72, 0, nothing        # net: send a frame of zeros
    row 1, 1, 72, 0, segmented
    row 1, 0, 0, 1526, nothing      # room for a frame
    row 2, 0, 16, 513, nothing      # block: read sector 0
    row 2, 0, 16 + 512, 1, block_out
    row 2, 1, 16 + 1024, 1, block_out
    row 2, 0, 16, 1, block_flush
    row 2, 1, 16, 21, block_id
    row 2, 0, 16 + 16, 1, block_discard
    row 2, 0, 16 + 16, 1, block_zero
    row 3, 1, 4, 0, words           # console: print
    row 3, 0, 0, 64, nothing        # room for input
    row 3, 3, 8, 0, console_ready
    row 3, 3, 8, 0, console_port
    row 3, 3, 8, 0, console_open
    row 3, 2, 0, 64, nothing        # room for control messages
    row 3, 5, 4, 0, words           # print at the second port
    row 4, 0, 0, 16, nothing        # entropy
    row 5, 0, 4, 0, page            # balloon: inflate by a page
    row 5, 1, 4, 0, page            # deflate
    row 5, 2, 20, 0, statistics
    row 5, 3, 0, 0x2000, nothing    # report free pages
    row 19, 1, 44, 0, connect       # vsock
    row 19, 1, 44 + 64, 0, send
    row 19, 1, 44, 0, credit_update
    row 19, 1, 44, 0, credit_request
    row 19, 1, 44, 0, shutdown
    row 19, 0, 0, 512, nothing      # room for a packet
    row 26, 1, 56, 80, fuse_init    # fs: begin a session
    row 27, 0, 4, 4, nothing        # pmem: flush
rows_end:

nothing:
    .zero 72
    .zero 4
segmented:                          # checksum at 16 of what begins at 14, and TCP/IPv4 in pieces of 8
    .byte 1, 1
    .word 54, 8, 14, 16, 1
    .zero 60
words:
    .ascii "ok.\n"
console_ready:                      # DEVICE_READY
    .long 0
    .word 0, 1
console_port:                       # PORT_READY, of the second
    .long 1
    .word 3, 1
console_open:                       # PORT_OPEN
    .long 1
    .word 6, 1
page:
    .long (AREAS + 0x3000) >> 12
statistics:
    .word 0
    .quad 1
    .word 5
    .quad 2

    # From port 1234 of guest 3 to port 1 of the host.
.macro packet op, size, flags
    .quad 3, 2
    .long 1234, 1, \size
    .word 1, \op
    .long \flags, 0x10000, 0
.endm
connect:
    packet 1, 0, 0
shutdown:
    packet 4, 0, 3
send:
    packet 5, 64, 0                 # 64 bytes of what follows
credit_update:
    packet 6, 0, 0
credit_request:
    packet 7, 0, 0

fuse_init:                          # version 7.31
    .long 56, 26
    .quad 1, 0
    .long 0, 0, 0, 0
    .long 7, 31, 0, 0

    # Headers of requests for sector 0. What is written is what follows here.
block_flush:
    .long 4, 0, 0, 0
block_id:
    .long 8, 0, 0, 0
block_discard:
    .long 11, 0, 0, 0
    .quad 8
    .long 8, 0
block_zero:
    .long 13, 0, 0, 0
    .quad 16
    .long 8, 1
block_out:
    .long 1, 0, 0, 0

# -- the reset vector ---------------------------------------------------------------------------

    .balign 8
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF        # code and data, accessed already: nothing is written to a ROM
    .quad 0x00CF93000000FFFF
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

    .org SIZE - 64
    .code16
real:
    .byte 0x2E, 0x66, 0x0F, 0x01, 0x16  # lgdt cs:[gdt_pointer], all of its base
    .word gdt_pointer - 0xFFFF0000
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA                # jmp 8:begin
    .long begin
    .word 8
    .org SIZE - 16
    jmp real
    .org SIZE
