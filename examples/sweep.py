"""Many tiny machines: run the same code with every input, a few machines at a time.

The question: for which AL does `aad` (D5 0A) set the zero flag, when AH is 3? AL = 10 * AH + AL,
modulo 256, so there is one answer.
"""

from concurrent.futures import ThreadPoolExecutor

import vmm

CODE = bytes.fromhex("d50a f4")  # aad; hlt
ZERO_FLAG = 1 << 6


def try_one(al: int) -> bool:
    """One input, one machine: nothing of one trial is left over for the next."""
    with vmm.Machine(memory="64K") as m:
        m.memory.write(0x1000, CODE)
        m.start_at(0x1000)
        m.regs.rax = 0x0300 | al
        result = m.run(timeout=10.0)
        assert result.reason == "halt", result.report()
        return bool(m.regs.rflags & ZERO_FLAG)


with ThreadPoolExecutor(max_workers=4) as pool:
    found = [al for al, zero in enumerate(pool.map(try_one, range(256))) if zero]

print(f"256 machines: AL = {', '.join(f'{al:#x}' for al in found)}")
