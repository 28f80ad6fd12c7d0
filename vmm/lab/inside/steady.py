"""Keeps the emulated host from two faults of QEMU's, while the lab runs.

Lost interrupts. QEMU changes a bit of a processor's `interrupt_request` at VMRUN and at #VMEXIT
without its lock (`helper_vmrun` and `do_vmexit` in svm_helper.c). What the processor's APIC sets
there in the same moment is lost, and so is the interrupt: the processor sleeps, with its timer
never armed again, until the APIC has another one for it, which brings the lost one along. So each
processor has a process that sleeps and one that is woken by all others' sleepers, both pinned and
urgent, for a wake-up of something urgent is an interrupt between processors. And one process
follows the real-time clock, whose interrupts need no processor that is awake.

Stale code. A host was seen to spin at a place in KVM's code (a static key, in `__apic_accept_irq`)
that Linux changes while it runs, with a breakpoint put there meanwhile. It fits that QEMU 7.2 kept
its translation of the breakpoint: Linux takes one that is gone for a race that it has just lost,
and tries again. KVM changes these places when the first guest comes whose local APIC is disabled,
or which has none, and when the last one goes. So there is one of each here, for good.
"""

from __future__ import annotations

import fcntl
import os
import time

INTERVAL_S = 1.0
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60
RTC_UIE_ON = 0x7003


def hold_guests() -> None:
    """Have a guest whose local APIC is disabled, as it is at reset, and one that has none."""
    with open("/dev/kvm", "rb", buffering=0) as kvm:
        for irqchip in (True, False):
            vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            if irqchip:
                fcntl.ioctl(vm, KVM_CREATE_IRQCHIP)
            fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)


def follow_the_clock() -> None:
    """Have the real-time clock interrupt each second (an update interrupt), for ever."""
    with open("/dev/rtc0", "rb", buffering=0) as clock:
        fcntl.ioctl(clock, RTC_UIE_ON, 0)
        while True:
            clock.read(8)


def main() -> None:
    """Start the processes and end; they run until they are killed."""
    hold_guests()
    if not os.fork():
        follow_the_clock()
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
