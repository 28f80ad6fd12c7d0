"""A run as an iterator: look at every exit, and at the registers in between."""

import vmm

# Read a number from port 0x60 and write its double to port 0x61, three times.
CODE = bytes.fromhex(
    "b90300"  # mov cx, 3
    "e460"  # next: in al, 0x60
    "00c0"  # add al, al
    "e661"  # out 0x61, al
    "e2f8"  # loop next
    "f4"  # hlt
)

with vmm.Machine() as m:
    m.memory.write(0x1000, CODE)
    numbers = iter([4, 7, 20])

    @m.on_in(0x60)
    def give_a_number(size: int) -> int:
        return next(numbers)

    m.start_at(0x1000)
    for exit in m.exits(timeout=5.0):
        # The guest stands still here; what is written to m.regs counts for its next instruction.
        print(f"ip={m.regs.rip:#x}  cx={m.regs.rcx}  {exit}")

    print(m.last_result.summary())
