"""What guests must not see of the processor that QEMU emulates, in the lab."""

from __future__ import annotations

import os

__all__ = ["HIDDEN", "IN_THE_LAB"]

IN_THE_LAB = "GLASSVM_LAB" in os.environ

# XSAVE: XSETBV is not intercepted there. KVM never hears what the guest has enabled, and puts back
# the wrong state.
# LA57: with page tables of five levels guests died early, QEMU's own as well.
# CX16: the flags after CMPXCHG16B are not the processor's. Of ten boots of a 6.12 kernel, which
# keeps them over a branch, two or three ended in a panic; of 26 without it, none.
HIDDEN = "-xsave,-la57,-cx16" if IN_THE_LAB else ""
