"""Four processors: the first starts the others with INIT and SIPI, and each says its number."""

from collections import Counter

import vmm

with vmm.boot("payload:smp", memory="2M") as machine:
    by_processor: Counter[int] = Counter()
    # Each processor has a thread of its own; the iterator brings their exits together.
    for exit in machine.exits(timeout=60.0):
        by_processor[exit.vcpu] += 1

    print(machine.console.text, end="")
    for number, exits in sorted(by_processor.items()):
        print(f"processor {number}: {exits} exits")

print(machine.last_result.summary())
