"""What the processor left the guest for, beside the few exits that user space is told of.

Counting needs the right to read the kernel's tracepoints: root or CAP_PERFMON, and tracefs
(mount -t tracefs nodev /sys/kernel/tracing).
"""

from __future__ import annotations

import vmm

with vmm.boot("payload:pit_ticks") as machine:
    try:
        hardware = vmm.HardwareExits.of(machine)
    except vmm.NoHardwareExits as reason:
        print(f"hardware exits cannot be counted here: {reason}")
        machine.run(timeout=60)
    else:
        print(f"{machine.run(timeout=60).exits} exits to user space")
        hardware.poll()
        for name, count in hardware.counts.most_common():
            print(f"{count:6,} {name}")
        if not hardware.total:
            print("this KVM backend does not pass the tracepoint kvm:kvm_exit")
        print(f"{hardware.total:6,} hardware exits, of {hardware.entries:,} entries")
