"""A guest's whole state: kept in a file, restored twice, copied, and returned to."""

from __future__ import annotations

import tempfile
from pathlib import Path

import vmm

with tempfile.TemporaryDirectory() as folder, vmm.boot("payload:hello64") as machine:
    machine.run(max_exits=20)
    print(f"it has said {machine.console.text!r}")
    file = str(Path(folder) / "greeting.snap")
    snapshot = machine.snapshot(file)

    with vmm.restore(file) as one, vmm.restore(snapshot) as other, machine.fork() as copy:
        for name, guest in (("one", one), ("another", other), ("a copy", copy)):
            result = guest.run()
            print(f"{name} goes on to {result.reason} and says {guest.console.text!r}")

    for _ in range(1000):
        machine.reset_to(snapshot)
        machine.run(max_exits=2)
    print(f"it was brought back 1,000 times, and has made {machine.vcpus[0].exits:,} exits")
    snapshot.close()
