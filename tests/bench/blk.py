"""What a virtio disk costs in Python: requests of the test driver, beside a plain loop of preadv.

    python tests/bench/blk.py [--profile]

Time is this thread's own on the processor, so that a busy machine changes little. The file lies in
/dev/shm: what is measured is the way to it. The driver's part is not counted.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from devices.virtio.blk import Blk
from devices.virtio.driver import Driver
from devices.virtio.mmio import VirtioMmio
from vmm.host.block import BlockFile
from vmm.layout import MemoryLayout
from vmm.memory import GuestMemory

FILE = Path("/dev/shm") / f"glassvm-bench-{os.getpid()}.img"
SIZE = 64 << 20
HEADERS, BUFFERS = 0x20_0000, 0x40_0000
IN, OUT = 0, 1
# Bytes of a request, in how many buffers, and how many requests at once.
CASES = ((512, 1, 64), (4096, 1, 64), (65536, 16, 14), (262144, 1, 8), (1 << 20, 16, 2))
REQUESTS = 8000
BYTES = 1 << 30


class Bench:
    """A disk on a file, and its driver."""

    def __init__(self) -> None:
        FILE.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        self.memory = GuestMemory(MemoryLayout.for_size(64 << 20))
        self.disk = BlockFile(FILE, access="writable")
        self.device = VirtioMmio(Blk(self.disk), memory=self.memory)
        self.driver = Driver(self.device, self.memory, 0x1_0000, 1 << 20)
        self.driver.start(queue_size=256)

    def requests(self, kind: int, size: int, parts: int, depth: int) -> float:
        """How many requests are done in a second."""
        queue, part, at = self.driver.queues[0], size // parts, 0
        wanted, done, spent = min(REQUESTS, BYTES // size), 0, 0.0
        while done < wanted:
            for n in range(depth):
                header, buffer = HEADERS + 64 * n, BUFFERS + size * n
                self.memory.write(header, struct.pack("<IIQ", kind, 0, at // 512))
                pieces = [(buffer + part * k, part) for k in range(parts)]
                first, last = [(header, 16)], [(header + 32, 1)]
                queue.add(first + pieces * kind, pieces * (1 - kind) + last)
                at = (at + size) % (SIZE - size)
            began = time.thread_time()
            self.device.transport.serve(0)
            spent += time.thread_time() - began
            done += len(queue.finished())
        return done / spent

    def plain(self, size: int, parts: int) -> float:
        """How many calls of preadv are done in a second."""
        part = size // parts
        views = [self.memory.view(BUFFERS + part * k, part) for k in range(parts)]
        fd, wanted, at = os.open(FILE, os.O_RDONLY), min(REQUESTS, BYTES // size), 0
        began = time.thread_time()
        for _ in range(wanted):
            os.preadv(fd, views, at)
            at = (at + size) % (SIZE - size)
        spent = time.thread_time() - began
        os.close(fd)
        return wanted / spent


def main() -> None:
    bench = Bench()
    try:
        print("request        reads/s    MB/s   writes/s    MB/s   preadv/s    MB/s   share")
        for size, parts, depth in CASES:
            rates = [
                bench.requests(IN, size, parts, depth),
                bench.requests(OUT, size, parts, depth),
                bench.plain(size, parts),
            ]
            cells = "".join(f"{rate:11,.0f}{rate * size / 1e6:8,.0f}" for rate in rates)
            print(f"{size:8,} x{parts:<2}{cells}   {rates[0] / rates[2]:.2f}")
        if "--profile" in sys.argv:
            import cProfile

            cProfile.runctx("bench.requests(IN, 4096, 1, 64)", globals(), {"bench": bench}, sort=1)
    finally:
        bench.disk.close()
        FILE.unlink()


if __name__ == "__main__":
    main()
