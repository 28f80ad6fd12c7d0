"""The reasons for which a vCPU comes back from KVM_RUN: named, decoded, and told in words.

The run loop deals in plain integers. An `Exit` is built only for somebody who looks: the
iterator `Machine.exits()`, the report at a guest's death.

Spec: KVM API, "The kvm_run structure".
"""

from __future__ import annotations

import struct

from devices.records import Record
from kvm_bindings import constants
from kvm_bindings.exit_ring import HAS_RIP, WRITE, Fields

__all__ = [
    "STATE_INCONSISTENT",
    "Exit",
    "describe",
    "exit_name",
    "exit_reason",
    "from_record",
    "pending_access",
]

_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(constants).items()
    if name.startswith("KVM_EXIT_")
    and isinstance(value, int)
    # Flags and sub-reasons that share the prefix; the reason of that name comes first.
    and not name.startswith(("KVM_EXIT_IO_", "KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_"))
}

STATE_INCONSISTENT = frozenset(
    {
        constants.KVM_EXIT_IO,
        constants.KVM_EXIT_MMIO,
        constants.KVM_EXIT_HYPERCALL,
        constants.KVM_EXIT_X86_RDMSR,
        constants.KVM_EXIT_X86_WRMSR,
    }
)
"""After these, KVM finishes the instruction on the next entry; until then the registers do not
show it. Everything else leaves guest state consistent."""


def exit_name(reason: int) -> str:
    """The kernel's name of an exit reason, without the prefix: "IO", "MMIO", "HLT"."""
    name = _NAMES.get(reason)
    return f"unknown exit reason {reason}" if name is None else name.removeprefix("KVM_EXIT_")


def exit_reason(name: str) -> int | None:
    """The number of an exit reason, by its name in any case, with or without the prefix."""
    wanted = "KVM_EXIT_" + name.upper().removeprefix("KVM_EXIT_")
    return next((number for number, known in _NAMES.items() if known == wanted), None)


class Exit(Record, aside=("time_ns", "guest_ns", "handler_ns", "irqs")):
    """One exit of one vCPU, after it was handled.

    `address` is a port (IO) or a guest-physical address (MMIO), `size` the width of one element
    in bytes, `count` the number of elements (string I/O; 1 otherwise), `value` what was written
    or what the guest was given, the first element being the least significant. For other reasons
    `value` and `address` are the first two 64-bit words of the exit's part of kvm_run, and `size`
    is 0. Times are in nanoseconds; two exits that differ in them alone are equal.
    """

    reason: int
    vcpu: int = 0
    address: int = 0
    size: int = 0
    count: int = 0
    write: bool = False
    value: int = 0
    rip: int | None = None
    """RIP as KVM gave it with the exit, where it was asked for: for port I/O and MMIO at the
    instruction or, where KVM emulated it, behind it."""
    time_ns: int = 0
    """When it came, by CLOCK_MONOTONIC."""
    guest_ns: int = 0
    """How long the guest, and the kernel for it, ran before."""
    handler_ns: int = 0
    """How long it took us to handle it."""
    irqs: int = 0
    """How many interrupt lines were raised since the exit before."""

    @property
    def name(self) -> str:
        """The reason's name: "IO", "MMIO", "HLT"."""
        return exit_name(self.reason)

    @property
    def consistent(self) -> bool:
        """Whether the registers already show the instruction that caused the exit."""
        return self.reason not in STATE_INCONSISTENT

    @property
    def data(self) -> bytes:
        """The bytes that went over the bus; none where the exit is no access to one."""
        length = self.size * self.count
        return self.value.to_bytes(length, "little") if length else b""

    def __str__(self) -> str:
        return describe(self)


def from_record(record: Fields, data: bytes) -> Exit:
    """Make an exit of its record in a vCPU's ring and the bytes that went over the bus. A count
    that promises more bytes than were kept is cut to those."""
    time_ns, guest_ns, address, value, rip, handler_ns, count = record[:7]
    reason, vcpu, _, size, flags, irqs = record[8:14]
    if size and size * count > len(data):
        count = len(data) // size
    # Past the checks of what a Record is given, which cost more than all the rest: tracers wait for
    # this at every exit.
    made = Exit.__new__(Exit)
    made.__dict__.update(
        reason=reason,
        vcpu=vcpu,
        address=address,
        size=size,
        count=count,
        write=bool(flags & WRITE),
        value=int.from_bytes(data, "little") if size else value,
        rip=rip if flags & HAS_RIP else None,
        time_ns=time_ns,
        guest_ns=guest_ns,
        handler_ns=handler_ns,
        irqs=irqs,
    )
    return made


def pending_access(reason: int, page: memoryview, vcpu: int) -> Exit | None:
    """The port I/O or MMIO that kvm_run asks for; None where the exit is of another kind."""
    if reason == constants.KVM_EXIT_IO:
        write, size, port, count, offset = struct.unpack_from("<BBHIQ", page, 32)
        value = int.from_bytes(page[offset : offset + size * count], "little")
        return Exit(reason, vcpu, port, size, count, bool(write), value)
    if reason == constants.KVM_EXIT_MMIO:
        gpa, data, size, write = struct.unpack_from("<Q8sIB", page, 32)
        value = int.from_bytes(data[:size], "little")
        return Exit(reason, vcpu, gpa, size, 1, bool(write), value)
    return None


def describe(event: Exit, owner: str = "") -> str:
    """One line for one exit: `IO out 0x3f8 1 byte 0x48 'H' com1`."""
    if event.reason == constants.KVM_EXIT_IO:
        verb, where = ("out" if event.write else "in"), f"{event.address:#x}"
    elif event.reason == constants.KVM_EXIT_MMIO:
        verb, where = ("write" if event.write else "read"), f"{event.address:#x}"
    else:
        return event.name
    times = f" x{event.count}" if event.count > 1 else ""
    value = f"{event.value:#x}" if event.count == 1 else event.data[:16].hex(" ")
    shown = f" {chr(event.value)!r}" if event.size == 1 and 0x20 <= event.value < 0x7F else ""
    return f"{event.name} {verb} {where} {event.size}b{times} {value}{shown} {owner}".rstrip()
