"""Exits of a trace that somebody asked for: selected, counted, iterated over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from kvm_bindings.exit_ring import WRITE
from vmm.errors import TraceError
from vmm.exits import Exit, exit_name, exit_reason, from_record
from vmm.trace.devicemap import DeviceMap
from vmm.trace.records import Records, data_of, to_exits

__all__ = ["Recording", "View"]

Addresses = int | range | Iterable[int]
Mask = NDArray[np.bool_]

_SHOWN = 4
"""How many exits a view's repr tells: enough for the message of an assertion that failed."""
_TIMES = ("guest_ns", "handler_ns")
_ELEMENTS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


class Recording:
    """What all views of one trace share.

    Args:
        rings: the records of each vCPU, strings' bytes included, in order.
        devices: who answered where.
        begun_ns: CLOCK_MONOTONIC when the trace was begun; `since` and `until` count from there.
    """

    def __init__(self, rings: Sequence[Records], devices: DeviceMap, begun_ns: int) -> None:
        self.rings = rings
        self.devices = devices
        self.begun_ns = begun_ns

    def data_of(self, exit: Any) -> bytes:
        """All bytes that went over the bus in an exit, given as its record."""
        if int(exit["size"]) * int(exit["count"]) <= 8:
            value: int = int(exit["value"])
            return value.to_bytes(8, "little")[: int(exit["size"]) * int(exit["count"])]
        ring = self.rings[int(exit["vcpu"])]
        # Records are missing in between at most, so this one is not behind its distance.
        distance = int(exit["sequence"]) - int(ring[0]["sequence"]) & 0xFFFF_FFFF
        position = min(distance, len(ring) - 1)
        if ring[position]["sequence"] != exit["sequence"]:
            position = int(np.flatnonzero(ring["sequence"] == exit["sequence"])[0])
        return data_of(ring, position)


class View:
    """Some exits of a trace, in the order of time.

    Iterating gives `vmm.exits.Exit` objects; `exits` is the same as a NumPy structured array.
    """

    def __init__(self, recording: Recording, exits: Records) -> None:
        self._recording = recording
        self.exits = exits
        """The exits' records (`vmm.trace.records.DTYPE`)."""

    def __len__(self) -> int:
        return len(self.exits)

    def __iter__(self) -> Iterator[Exit]:
        return self.tell(self.exits)

    def __getitem__(self, index: int) -> Exit:
        record = self.exits[index]
        return from_record(record.item(), self.data_of(record))

    def __repr__(self) -> str:
        told = [str(event) for event in self.tell(self.exits[:_SHOWN])]
        more = ["..."] if len(self) > _SHOWN else []
        exits = f"{len(self):,} exit{'' if len(self) == 1 else 's'}"
        return (
            f"<{type(self).__name__}: {': '.join(filter(None, [exits, '; '.join(told + more)]))}>"
        )

    @property
    def devices(self) -> DeviceMap:
        """Who answered where, and with which registers."""
        return self._recording.devices

    def data_of(self, exit: Any) -> bytes:
        """All bytes that went over the bus in an exit, given as its record of `exits`."""
        return self._recording.data_of(exit)

    def seconds(self, exits: Records) -> NDArray[np.float64]:
        """When exits came, in seconds from the beginning of the trace."""
        begun = np.uint64(self._recording.begun_ns)
        return (exits["time_ns"] - begun).view(np.int64) / 1e9

    @property
    def values(self) -> bytes | NDArray[np.unsignedinteger[Any]]:
        """What went over the bus, element by element: bytes where all elements have one byte, so
        that they can be compared with text, and an array of numbers else."""
        exits = self.exits
        if not len(exits):
            return b""
        sizes = exits["size"]
        width = int(sizes.max())
        if (exits["count"] == 1).all():
            return exits["value"].astype("<u1").tobytes() if width == 1 else exits["value"].copy()
        if width <= 1:
            return b"".join(map(self.data_of, exits))
        parts = [
            np.frombuffer(data[: len(data) // int(size) * int(size)], _ELEMENTS[int(size)])
            for data, size in zip(map(self.data_of, exits), sizes, strict=True)
            if int(size) in _ELEMENTS
        ]
        return np.concatenate([part.astype("<u8") for part in parts] or [np.empty(0, "<u8")])

    def percentile(self, what: str, percent: float) -> float:
        """A percentile of the exits' "guest_ns" or "handler_ns", exactly.

        Raises:
            TraceError: there are no exits, or no such times.
        """
        if what not in _TIMES:
            raise TraceError(f"percentile of {what!r}: choose {' or '.join(_TIMES)}")
        if not len(self):
            raise TraceError(f"percentile of {what}: no exits were selected")
        return float(np.percentile(self.exits[what], percent))

    def where(
        self,
        *,
        reason: str | int | None = None,
        port: Addresses | None = None,
        mmio: Addresses | None = None,
        device: str | None = None,
        write: bool | None = None,
        size: int | None = None,
        value: int | None = None,
        vcpu: int | None = None,
        since: float | None = None,
        until: float | None = None,
        slower_than_ns: int | None = None,
    ) -> View:
        """Select exits: those to which all that is given applies.

        Args:
            reason: "IO", "MMIO", "HLT" ..., or its number.
            port: an I/O port, a range of them or several: where accesses begin.
            mmio: the same for guest-physical addresses.
            device: the name of the device that answered; "nobody" where none did.
            write: True for what the guest wrote, False for what it read.
            size: the width of the access in bytes.
            value: what was written or answered.
            vcpu: the number of the vCPU.
            since, until: seconds from the beginning of the trace.
            slower_than_ns: exits that took longer to handle.

        Raises:
            TraceError: there is no such reason or device.
        """
        exits = self.exits
        keep = np.ones(len(exits), np.bool_)
        if reason is not None:
            keep &= exits["reason"] == _reason(reason)
        if port is not None:
            keep &= (exits["reason"] == KVM_EXIT_IO) & _at(exits["address"], port)
        if mmio is not None:
            keep &= (exits["reason"] == KVM_EXIT_MMIO) & _at(exits["address"], mmio)
        if device is not None:
            keep &= self._of_device(device)
        if write is not None:
            addressed = np.isin(exits["reason"], (KVM_EXIT_IO, KVM_EXIT_MMIO))
            keep &= addressed & ((exits["flags"] & WRITE != 0) == write)
        if size is not None:
            keep &= exits["size"] == size
        if value is not None:
            keep &= exits["value"] == value if 0 <= value < 1 << 64 else False
        if vcpu is not None:
            keep &= exits["vcpu"] == vcpu
        begun = self._recording.begun_ns
        if since is not None:
            keep &= exits["time_ns"] >= max(begun + int(since * 1e9), 0)
        if until is not None:
            keep &= exits["time_ns"] < max(begun + int(until * 1e9), 0)
        if slower_than_ns is not None:
            keep &= exits["handler_ns"] > slower_than_ns
        return View(self._recording, exits[keep])

    def _of_device(self, name: str) -> Mask:
        devices = self.devices
        if name not in devices.names and name != "nobody":
            known = f"there are {', '.join(devices.names)}"
            if not devices.names:
                known = "it does not say which there were"
            raise TraceError(f"no device {name} in the trace; {known}")
        # A guest uses few addresses: each is looked up once.
        keep = np.zeros(len(self), np.bool_)
        for reason in (KVM_EXIT_IO, KVM_EXIT_MMIO):
            here = self.exits["reason"] == reason
            addresses, places = np.unique(self.exits["address"][here], return_inverse=True)
            found = np.array([devices.name_at(reason, int(a)) == name for a in addresses], np.bool_)
            keep[here] = found[places]
        return keep

    def tell(self, records: Records) -> Iterator[Exit]:
        """Exits of this trace as objects, given as their records."""
        return to_exits(records, self.data_of)


def _reason(reason: str | int) -> int:
    if not isinstance(reason, str):
        return reason
    number = exit_reason(reason)
    if number is None:
        raise TraceError(
            f"no exit reason {reason}; the usual ones are "
            + ", ".join(exit_name(n) for n in (KVM_EXIT_IO, KVM_EXIT_MMIO, 5, 8))
        )
    return number


def _at(addresses: NDArray[np.uint64], wanted: Addresses) -> Mask:
    if isinstance(wanted, int):
        wanted = (wanted,)
    if isinstance(wanted, range) and wanted.step == 1:
        low, high = max(wanted.start, 0), max(wanted.stop, 0)
        return (addresses >= low) & (addresses < high)
    listed = [number for number in wanted if 0 <= number < 1 << 64]
    return np.isin(addresses, np.array(listed, np.uint64))
