"""The processor's exceptions by number.

Spec: AMD64 APM vol. 2, "Exceptions and Interrupts", "Vectors".
"""

from __future__ import annotations

__all__ = ["VECTORS", "vector_name"]

VECTORS: dict[int, tuple[str, str]] = {
    0: ("#DE", "divide error"),
    1: ("#DB", "debug exception"),
    2: ("NMI", "non-maskable interrupt"),
    3: ("#BP", "breakpoint"),
    4: ("#OF", "overflow"),
    5: ("#BR", "bound range exceeded"),
    6: ("#UD", "invalid opcode"),
    7: ("#NM", "device not available"),
    8: ("#DF", "double fault"),
    10: ("#TS", "invalid TSS"),
    11: ("#NP", "segment not present"),
    12: ("#SS", "stack fault"),
    13: ("#GP", "general protection"),
    14: ("#PF", "page fault"),
    16: ("#MF", "x87 floating-point error"),
    17: ("#AC", "alignment check"),
    18: ("#MC", "machine check"),
    19: ("#XF", "SIMD floating-point error"),
    20: ("#VE", "virtualization exception"),
    21: ("#CP", "control protection"),
    28: ("#HV", "hypervisor injection"),
    29: ("#VC", "VMM communication"),
    30: ("#SX", "security exception"),
}


def vector_name(vector: int) -> str:
    """Return "#UD (vector 6)", or "vector 33" for one that has no name."""
    known = VECTORS.get(vector)
    return f"{known[0]} (vector {vector})" if known else f"vector {vector}"
