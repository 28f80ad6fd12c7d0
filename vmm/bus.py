"""The port I/O bus and the MMIO bus: who answers at an address.

One class, two instances. Ranges are sorted and searched by bisection; what was found is kept in
a dict, so that the second access to a register costs one lookup. An address that nobody claims
reads as all ones and is counted, as on a real bus. String I/O is advanced here and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator

from devices.wiring import open_bus
from vmm.errors import ConfigError, DeviceFault, MappingOverlap, VmmError
from vmm.late import LateDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device
    from kvm_bindings.runner import Call

__all__ = ["Bus", "FunctionPort", "Mapping", "UnclaimedAccess"]

Reader = Callable[[int, int], int]
Writer = Callable[[int, int, int], None]

_CACHE_LIMIT = 4096
"""A guest may touch any number of addresses; what is remembered of them is bounded."""


class UnclaimedAccess(VmmError):
    """In strict mode: the guest used an address that no device claims."""


class Mapping:
    """A device at `start`..`end - 1`; the device sees offsets from `base`.

    Args:
        default: give way, without an error, to a device that is mapped over it.
        whole: deliver an access that starts here in one piece, also where it reaches over the end.
    """

    __slots__ = ("_place", "base", "default", "end", "start", "whole")

    def __init__(
        self,
        start: int,
        end: int,
        base: int,
        device: Device | LateDevice,
        default: bool = False,
        whole: bool = False,
    ) -> None:
        self.start = start
        self.end = end
        self.base = base
        self.default = default
        self.whole = whole
        self._place = device

    @property
    def name(self) -> str:
        """The device's name."""
        return self._place.name

    @property
    def late(self) -> bool:
        """Whether the device has not been made yet."""
        return isinstance(self._place, LateDevice) and not self._place.made

    @property
    def device(self) -> Device:
        """The device; one that is late is made now."""
        place = self._place
        return place.device if isinstance(place, LateDevice) else place


class FunctionPort:
    """A device made of one or two functions: what `Machine.on_out` and `on_in` map."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_in: Callable[[int], int] | None = None
        self.on_out: Callable[[int, int], None] | None = None

    cannot_save = "its functions belong to the program that made the machine"

    def read(self, offset: int, size: int) -> int:
        """Ask the input function, which is given the size in bytes."""
        if self.on_in is None:
            return open_bus(size)
        return self.on_in(size) & open_bus(size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Hand value and size to the output function."""
        if self.on_out is not None:
            self.on_out(value, size)

    def reset(self) -> None:
        """Do nothing: a function has no state that is ours."""


class Bus:
    """An address space of devices.

    Args:
        name: how messages call it: "port" or "MMIO".
        limit: the first address behind the space.
        strict: an access that nobody claims raises `UnclaimedAccess`.
    """

    def __init__(self, name: str, limit: int, *, strict: bool = False) -> None:
        self.name = name
        self.limit = limit
        self.strict = strict
        self.unclaimed: Counter[tuple[int, bool]] = Counter()
        """How often the guest (address, wrote) where nothing answers."""
        self.failed_at = 0
        """Where in its data, in bytes, the last string stopped that was left by an exception."""
        self._mappings: list[Mapping] = []
        self._starts: list[int] = []
        # Keyed by address << 4 | size: an access that was seen to lie inside one mapping.
        self.readers: dict[int, tuple[Reader, int]] = {}
        self.writers: dict[int, tuple[Writer, int]] = {}
        self.calls: dict[int, Call] = {}
        """What the run loop may call without asking the bus (see `remember`)."""

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._mappings)

    def map(
        self,
        addresses: range,
        device: Device | LateDevice,
        *,
        base: int | None = None,
        default: bool = False,
        whole: bool = False,
    ) -> Mapping:
        """Let `device` answer at `addresses`.

        Args:
            addresses: a range of step 1.
            device: who answers.
            base: the address that is the device's offset 0; the first one unless given.
            default: give way to whatever is mapped here later.
            whole: deliver an access that starts here in one piece, whatever its width.

        Raises:
            ConfigError: the range is empty or outside the bus.
            MappingOverlap: another device is there; the message names both.
        """
        if addresses.step != 1 or not len(addresses):
            raise ConfigError(f"{device.name}: {self.name} range {addresses} is empty or has steps")
        start, end = addresses.start, addresses.stop
        if start < 0 or end > self.limit:
            raise ConfigError(
                f"{device.name}: {self.name} {start:#x}..{end - 1:#x} is outside of "
                f"0..{self.limit - 1:#x}"
            )
        for other in [m for m in self._mappings if start < m.end and m.start < end]:
            if not other.default:
                raise MappingOverlap(
                    f"{device.name} at {self.name} {start:#x}..{end - 1:#x} overlaps "
                    f"{other.name} at {other.start:#x}..{other.end - 1:#x}"
                )
            self._mappings.remove(other)
        mapping = Mapping(start, end, start if base is None else base, device, default, whole)
        self._mappings.append(mapping)
        self._renew()
        return mapping

    def unmap(self, mapping: Mapping) -> None:
        """Take a mapping away."""
        self._mappings.remove(mapping)
        self._renew()

    def find(self, address: int) -> Mapping | None:
        """The mapping that answers at `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        mapping = self._mappings[index]
        return mapping if address < mapping.end else None

    def pieces(self, address: int, size: int) -> Iterator[tuple[Mapping, int, int]]:
        """Who answers an access, in the pieces that it is taken apart into: the mapping, the
        piece's first byte in the access, its size. What nobody claims is left out."""
        mapping = self.find(address)
        if not self._crosses(mapping, address, size):
            if mapping is not None:
                yield mapping, 0, size
            return
        for lane in range(size):
            mapping = self.find(address + lane)
            if mapping is not None:
                yield mapping, lane, 1

    def read(self, address: int, size: int) -> int:
        """Read `size` bytes (1, 2, 4 or 8) at `address`, as the guest does."""
        found = self.readers.get(address << 4 | size)
        if found is None:
            found = self.reader(address, size)
        read, offset = found
        return read(offset, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write `size` bytes (1, 2, 4 or 8) at `address`, as the guest does."""
        found = self.writers.get(address << 4 | size)
        if found is None:
            found = self.writer(address, size)
        write, offset = found
        write(offset, size, value)

    def write_string(self, address: int, size: int, data: memoryview) -> None:
        """Take a string of elements of `size` bytes, one after the other (`rep outs`)."""
        start = 0
        try:
            for start in range(0, len(data), size):
                self.write(address, size, int.from_bytes(data[start : start + size], "little"))
        except BaseException:
            self.failed_at = start
            raise

    def read_string(self, address: int, size: int, data: memoryview) -> None:
        """Fill `data` with elements of `size` bytes, one after the other (`rep ins`)."""
        start = 0
        try:
            for start in range(0, len(data), size):
                value = self.read(address, size) & open_bus(size)
                data[start : start + size] = value.to_bytes(size, "little")
        except BaseException:
            self.failed_at = start
            raise

    def remember(self, key: int, write: bool, address: int, size: int) -> None:
        """Put into `calls`, under a key of the run loop's, who answers an access; nobody if the
        access has to be taken apart or is unclaimed."""
        mapping = self.find(address)
        if mapping is None or self._crosses(mapping, address, size):
            return
        device, offset = mapping.device, address - mapping.base
        call: Call = (write, size, device.write if write else device.read, offset)
        if isinstance(device, FunctionPort):
            function = device.on_out if write else device.on_in
            if function is not None:
                call = (write, size, function, None)
        if len(self.calls) >= _CACHE_LIMIT:
            self.calls.clear()
        self.calls[key] = call

    def forget(self) -> None:
        """Drop what was remembered: a mapping or a function has changed."""
        self.readers.clear()
        self.writers.clear()
        self.calls.clear()

    def name_at(self, address: int) -> str:
        """The name of the device at `address`; "nobody" where there is none."""
        mapping = self.find(address)
        return "nobody" if mapping is None else mapping.name

    def fault(self, address: int, error: Exception) -> DeviceFault:
        """What to raise where the device at `address` raised `error`."""
        mapping = self.find(address)
        name = self.name_at(address)
        what = f"{type(error).__name__}: {error}"
        fault = DeviceFault(f"device {name} failed at {self.name} {address:#x}: {what}")
        if mapping is not None and not mapping.late:
            fault.device = mapping.device
        return fault

    def _renew(self) -> None:
        self._mappings.sort(key=lambda m: m.start)
        self._starts = [m.start for m in self._mappings]
        self.forget()

    def reader(self, address: int, size: int) -> tuple[Reader, int]:
        """The function that answers a read of `size` bytes at `address`, and its offset."""
        mapping = self.find(address)
        if self._crosses(mapping, address, size):
            return self._read_split, address
        if mapping is None:
            return self._read_unclaimed, address
        if len(self.readers) >= _CACHE_LIMIT:
            self.readers.clear()
        found = (mapping.device.read, address - mapping.base)
        self.readers[address << 4 | size] = found
        return found

    def writer(self, address: int, size: int) -> tuple[Writer, int]:
        """The function that takes a write of `size` bytes at `address`, and its offset."""
        mapping = self.find(address)
        if self._crosses(mapping, address, size):
            return self._write_split, address
        if mapping is None:
            return self._write_unclaimed, address
        if len(self.writers) >= _CACHE_LIMIT:
            self.writers.clear()
        found = (mapping.device.write, address - mapping.base)
        self.writers[address << 4 | size] = found
        return found

    def _crosses(self, mapping: Mapping | None, address: int, size: int) -> bool:
        """Say whether an access has to be taken apart: it begins in one mapping (or in none) and
        ends in another, or is of a width that no bus has (KVM cuts MMIO at page boundaries)."""
        if size not in (1, 2, 4, 8):
            return True
        if mapping is not None:
            return address + size > mapping.end and not mapping.whole
        return any(self.find(address + lane) is not None for lane in range(1, size))

    def _read_split(self, address: int, size: int) -> int:
        """An access over the end of a mapping goes out byte by byte, as ISA byte lanes do."""
        result = 0
        for lane in range(size):
            result |= (self.read(address + lane, 1) & 0xFF) << (8 * lane)
        return result

    def _write_split(self, address: int, size: int, value: int) -> None:
        for lane in range(size):
            self.write(address + lane, 1, value >> (8 * lane) & 0xFF)

    def _read_unclaimed(self, address: int, size: int) -> int:
        self._count(address, size, wrote=False)
        return open_bus(size)

    def _write_unclaimed(self, address: int, size: int, value: int) -> None:
        self._count(address, size, wrote=True)

    def _count(self, address: int, size: int, *, wrote: bool) -> None:
        key = (address, wrote)
        if key in self.unclaimed or len(self.unclaimed) < _CACHE_LIMIT:
            self.unclaimed[key] += 1
        if self.strict:
            verb = "wrote to" if wrote else "read from"
            unit = "1 byte" if size == 1 else f"{size} bytes"
            raise UnclaimedAccess(
                f"the guest {verb} {self.name} {address:#x} ({unit}), which no device claims"
            )
