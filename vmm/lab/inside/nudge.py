"""Lets every processor of the emulated host interrupt the others, once a second.

QEMU sets a bit of a processor's `interrupt_request` within VMRUN without its lock, where the guest
has a virtual interrupt (`helper_vmrun` in svm_helper.c, up to 10.0). What the processor's APIC sets
there in the same moment is lost, and so is the interrupt: the processor sleeps, with its timer
never armed again, until the APIC has another one for it. That one brings the lost one along.
So each processor has a process that sleeps and one that is woken by all others' sleepers, both
pinned and urgent, for a wake-up of something urgent is an interrupt between processors.
"""

from __future__ import annotations

import os
import time

INTERVAL_S = 1.0


def main() -> None:
    """Start the processes and end; they run until they are killed."""
    processors = sorted(os.sched_getaffinity(0))
    bells = {processor: os.eventfd(0) for processor in processors}
    for processor in processors:
        others = [bell for owner, bell in bells.items() if owner != processor]
        for rings in (True, False):
            if os.fork():
                continue
            os.sched_setaffinity(0, {processor})
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            while rings:
                time.sleep(INTERVAL_S)
                for bell in others:
                    os.eventfd_write(bell, 1)
            while True:
                os.eventfd_read(bells[processor])


if __name__ == "__main__":
    main()
