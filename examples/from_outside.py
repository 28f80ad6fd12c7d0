"""A machine in another process: found, measured, held for a look at its memory, and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import vmm.trace
from vmm.control.client import Client
from vmm.control.protocol import from_text
from vmm.control.registry import names

CODE = bytes.fromhex("ff06007e b042 e610 ebf6")  # inc word [0x7e00]; mov al, 'B'; out 0x10; again

name = f"example-{os.getpid()}"
with tempfile.TemporaryDirectory() as folder:
    image = Path(folder, "count.bin")
    image.write_bytes(CODE)
    options = ["--format", "flat16", "--name", name, "--timeout", "60"]
    command = [sys.executable, "-m", "vmm", "run", str(image), *options]
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while name not in names() and guest.poll() is None:
        time.sleep(0.05)

    with Client.connect(name) as client:
        fd = client.trace_fd()
        trace = vmm.trace.LiveTrace.from_fd(fd, name)
        os.close(fd)
        summary = vmm.trace.Summary()
        while summary.exits < 1000:
            time.sleep(0.01)
            summary.add(trace.poll(1).records)  # read in memory that both processes map
        key = summary.rows()[0].key
        print(f"{key.name} at {key.address:#x}: more than 1,000 exits")
        trace.close()
        client.call("pause")  # anywhere in its code
        counts = []
        for _ in range(2):
            client.call("step_exit")  # to behind an exit
            data = from_text(client.call("memory", gpa=0x7E00, size=2)["data"])
            counts.append(int.from_bytes(data, "little"))
        print(f"one exit later the guest has counted {counts[1] - counts[0] & 0xFFFF} further")
        client.call("stop")
    print(f"stopped, status {guest.wait()}")
