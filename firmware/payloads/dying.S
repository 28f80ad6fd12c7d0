# Shared by the payloads; not a guest by itself.
#
# For guests that die in long mode: a window of pages of their own, far from the identity map, and
# the checkpoint that each writes to the POST port right before its end. That write is what a host
# that loses the registers of a death has seen last.

    .set POST, 0x80
    .set WINDOW, 0x8000000000   # the 512 GiB behind the first PML4 entry
    .set WINDOW_PDPT, 0x3000
    .set WINDOW_PD, 0x4000
    .set WINDOW_PT, 0x5000
    .set PRESENT_WRITABLE, 3

# Make the tables of the window; no page of it is there yet. Clobbers RAX.
.macro open_window
    mov rax, cr3
    mov qword ptr [rax + 8], WINDOW_PDPT | PRESENT_WRITABLE
    mov qword ptr [WINDOW_PDPT], WINDOW_PD | PRESENT_WRITABLE
    mov qword ptr [WINDOW_PD], WINDOW_PT | PRESENT_WRITABLE
.endm

# Say that the end is near.
.macro checkpoint
    out POST, al
.endm
