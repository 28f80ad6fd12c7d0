"""The layout of a trace: one file, or one memfd, that is written while the guest runs.

    page 0    header (below)
    rings     one for the machine's events, then one for each vCPU (kvm_bindings.exit_ring)
    chunks    appended one after the other; a chunk is a header of 32 bytes and its payload

The rings are the flight recorder: they hold the last records and are mapped, so that whoever has
the file (a screen in another process, or whoever finds it after a crash) has those too. A trace
that is streamed to a file has its rings' records copied into chunks before they are overwritten;
a record that is in a chunk and still in its ring has the same number in both. The file of a
flight recorder has no RECORDS chunks.

    header    8s  magic
              u32 version          readers refuse versions that they do not know
              u32 record size      64
              u32 rings
              u32 capacity         records in a ring
              u64 rings_at         where the first ring starts
              u64 ring_stride      from the start of one ring to the start of the next
              u64 chunks_at        where the first chunk starts
              u64 chunks_end       behind the last complete chunk
              u64 wall_ns          CLOCK_REALTIME and
              u64 monotonic_ns     CLOCK_MONOTONIC when the trace was begun
              u32 flags            FINISHED: closed in good order
                                   CUT: the file took no more (a full disk); the last records
                                   are in the rings, some before them are missing
              u32 0

    chunk     u32 magic
              u16 kind             META, RECORDS, JOURNAL, END
              u16 ring             RECORDS: whose
              u64 size             of the payload, in bytes
              u64 first            RECORDS: the number of the first record
              u64 0

Where META has a key "only", a condition (vmm.trace.conditions), only records of exits that met it
were copied: in chunks of vCPUs' rings records are missing then, and go by their own numbers; the
ring's count `flushed` says up to where they were looked at. The rings hold all.

META and END hold JSON: what the machine was (configuration, devices with their register tables,
backend), and how the run ended. A later META chunk replaces an earlier one. Numbers are
little-endian.
"""

from __future__ import annotations

import struct

__all__ = [
    "CAPACITY",
    "CHUNK",
    "CHUNKS_END_WORD",
    "CHUNK_MAGIC",
    "COALESCED",
    "CUT",
    "END",
    "EVENTS",
    "FINISHED",
    "FLAGS_WORD",
    "HEADER",
    "INPUT",
    "IRQ",
    "JOURNAL",
    "KIND_NAMES",
    "MAGIC",
    "MARK",
    "META",
    "QUEUE",
    "RECORDS",
    "STATE",
    "VERSION",
]

MAGIC = b"glassvmT"
VERSION = 1

HEADER = struct.Struct("<8s4I6Q2I")
CHUNKS_END_WORD = 6
"""`chunks_end` as the number of a 64-bit word of the header."""
FLAGS_WORD = 9

CHUNK_MAGIC = 0x4B4E4843
CHUNK = struct.Struct("<IHHQQQ")

FINISHED = 1
CUT = 2

META, RECORDS, JOURNAL, END = 1, 2, 3, 4

CAPACITY = 1 << 15
"""Records in a ring: 2 MiB, of which only pages that were written to take memory. At 100,000
exits a second a reader has a third of a second to come by."""

# Kinds of records beside EXIT and DATA (kvm_bindings.exit_ring), all in the events ring.
IRQ, INPUT, STATE, MARK, COALESCED, QUEUE = 16, 17, 18, 19, 20, 21

KIND_NAMES = {
    1: "exit",
    2: "data",
    IRQ: "irq",
    INPUT: "input",
    STATE: "state",
    MARK: "mark",
    COALESCED: "coalesced",
    QUEUE: "queue",
}
"""irq: line `address` went to level `value`. input: `count` bytes came from outside for the
console. state: the machine went to the phase number `value` (in the order of vmm.lifecycle.Phase).
mark: the user's mark number `value`. coalesced: a write that KVM had batched, no exit of its own:
`reason` is KVM_EXIT_IO or KVM_EXIT_MMIO, the rest as in an exit. queue: queue `value` of the virtio
device whose registers are at `address` was served, `count` requests were done; a write if the
driver was interrupted for them."""

EVENTS = 0
"""The number of the ring of the machine's events; vCPU n has ring n + 1."""
