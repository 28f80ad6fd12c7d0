"""A guest dies; the report says of what.

This one loads an empty interrupt table and divides by zero: there is nobody to take the exception,
and nobody for the fault that follows from that.
"""

import vmm

CODE = bytes.fromhex(
    "0f011c2500200000"  # lidt [0x2000], which is all zeros
    "31c9 f7f1"  # xor ecx, ecx; div ecx
    "f4"  # hlt
)

with vmm.Machine() as m:
    m.memory.write(0x1000, CODE)
    m.start_at(0x1000, mode="long")
    result = m.run(timeout=5.0)
    print(f"reason: {result.reason}, died: {result.died}, status: {result.status}\n")
    print(result.report())
