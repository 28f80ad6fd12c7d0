"""What a guest may see of the processor: all that KVM supports, or what a template names.

The template is that of the oldest x86-64 processors, so a guest of it can be moved to any host.
"""

import tempfile
from pathlib import Path

import vmm

CMPXCHG16B = 1 << 13  # CPUID, leaf 1, ECX

# mov eax, 1; xor ecx, ecx; cpuid; mov eax, ecx; out 0x10, eax; hlt
CODE = bytes.fromhex("66b801000000 6631c9 0fa2 6689c8 66e710 f4")


def sees(cpu: str) -> str:
    """What a guest is told of CMPXCHG16B."""
    with vmm.Machine(cpu=cpu) as machine:
        told: list[int] = []
        machine.on_out(0x10)(lambda value, size: told.append(value))
        machine.memory.write(0x1000, CODE)
        machine.start_at(0x1000, mode="real")
        machine.run(timeout=10)
    return "yes" if told[0] & CMPXCHG16B else "no"


for cpu in ("x86-64-v1", "x86-64-v1,+cx16"):
    print(f"{cpu}: cmpxchg16b? {sees(cpu)}")

# A template of one's own. What it demands and a host lacks is told before anything runs; TBM was in
# AMD's processors from 2012 to 2016 alone.
with tempfile.TemporaryDirectory() as folder:
    ours = Path(folder, "ours.toml")
    ours.write_text('extends = "x86-64-v1"\ndemand = ["tbm"]\n')
    try:
        sees(str(ours))
    except vmm.ConfigError as error:
        print(str(error).replace(f"{folder}/", "").partition(";")[0])
