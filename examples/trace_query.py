"""Ask a trace: keep every exit of a run in a file, and look for the slow ones afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import vmm

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "run.vtrace"
    with vmm.boot("payload:hello64", trace=str(path)) as machine:
        machine.run(timeout=30)
    # From here on no KVM is needed: the file says itself which devices there were.
    trace = vmm.trace.load(path)

sent = trace.where(device="com1", port=0x3F8, write=True)
print(f"COM1 was sent {sent.values!r}")

polls = trace.where(port=0x3FD, write=False)
print(f"and asked {len(polls)} times for its line status")
first = polls[0]
print(f"the first time it was {trace.decoder.meaning(first)}")

slowest = max(trace, key=lambda event: event.handler_ns)
median = trace.percentile("handler_ns", 50)
print(f"slowest: {slowest}, {slowest.handler_ns / max(median, 1):.0f} times the median")

summary = vmm.trace.Summary()
summary.add(trace.exits)
for row in summary.rows(by=lambda key: trace.devices.name_at(key.reason, key.address or 0)):
    print(f"{row.key or 'no device'}: {row.count} exits")
