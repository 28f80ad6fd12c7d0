"""What the screen shows, and where it comes from.

The screen knows only a `Source`. `vmm.tui.live` makes one of a machine that runs, and
`vmm.tui.recording` one of a file. Everything here is plain data; times are in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from vmm.cpustate import CpuState

__all__ = [
    "Activity",
    "Counter",
    "CpuView",
    "Entry",
    "Page",
    "Section",
    "Source",
    "Span",
    "Spread",
    "Status",
    "Stopping",
]


@dataclass(frozen=True, slots=True)
class Spread:
    """How some times are spread: percentiles and the longest."""

    p50: int = 0
    p95: int = 0
    p99: int = 0
    max: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """One kind of exit, or the traffic at one port or address."""

    key: tuple[int, ...]
    """(reason,) or (reason, address, write)."""
    name: str
    """Of the reason, or of the device."""
    where: str = ""
    """The port or the address, and the direction."""
    what: str = ""
    """The last access in the device's words."""
    count: int = 0
    rate: float = 0.0
    """A second, now."""
    share: float = 0.0
    """Of the time that all exits took, from 0 to 1."""
    guest: Spread = Spread()
    handler: Spread = Spread()
    history: Sequence[float] = ()
    """Rates, the newest last."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the status bar tells."""

    name: str
    phase: str = ""
    """created, running, paused, stopped or failed; "gone" where nobody answers any more."""
    backend: str = ""
    uptime_ns: int = 0
    exits: int = 0
    rate: float = 0.0
    lost: int = 0
    """Records that were overwritten before they were read."""
    note: str = ""
    """Something worth a word: a recording that goes on, why a machine is held."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One exit in the log, decoded."""

    time: str
    vcpu: int
    kind: str
    """The reason with its direction: "IO out"."""
    where: str
    """The port or the address."""
    device: str
    value: str
    meaning: str
    """The register and its bits."""
    rip: str
    """Where the guest was: an address, a symbol, the instruction."""
    handler_ns: int
    guest_ns: int

    @property
    def text(self) -> str:
        """All of it, for a search."""
        return " ".join(
            (self.kind, self.where, self.device, self.value, self.meaning, self.rip)
        ).lower()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of what is known about an exit."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CpuView:
    """A vCPU as it stood when it was looked at last."""

    index: int
    state: CpuState | None = None
    activity: str = ""
    """runnable, halted, waits for SIPI; and what is pending."""
    location: str = ""
    """RIP as a symbol, where one is known."""
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Stopping:
    """A condition at which the guest is stopped."""

    number: int
    condition: str
    stopped: int = 0
    """How often it was."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One of the kernel's counters."""

    name: str
    value: int
    rate: float = 0.0
    vcpu: bool = True
    """Of the vCPUs (summed up), or of the VM."""


@dataclass(frozen=True, slots=True)
class Page:
    """The text screen: rows of character and attribute bytes in turn."""

    rows: tuple[bytes, ...]
    cursor: tuple[int, int] | None = None
    """Row and column."""
    blinks: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a recording covers, and where in it the screen stands."""

    begin_ns: int
    end_ns: int
    now_ns: int
    density: Sequence[float]
    """Exits in each of some equal parts of it."""
    marks: Sequence[int] = ()


class Source(Protocol):
    """A machine that runs, or a recording. All of it is used from one thread."""

    live: bool
    """Whether there is a machine to be paused and typed to."""

    @property
    def status(self) -> Status:
        """What the status bar tells."""

    @property
    def reasons(self) -> Sequence[Activity]:
        """Exits by reason."""

    @property
    def places(self) -> Sequence[Activity]:
        """Exits by device and port."""

    @property
    def cpus(self) -> Sequence[CpuView]:
        """The vCPUs, as they stood when they were looked at last."""

    @property
    def counters(self) -> Sequence[Counter]:
        """The kernel's counters."""

    @property
    def page(self) -> Page | None:
        """The text screen, where the guest has something on one."""

    @property
    def explanation(self) -> str:
        """How the run ended, in full; empty while it goes on."""

    @property
    def span(self) -> Span | None:
        """A recording's time line."""

    @property
    def records(self) -> np.ndarray[Any, Any]:
        """The exits that the log can show, oldest first (`vmm.trace.records.DTYPE`)."""

    def poll(self) -> None:
        """Take in what is new. Called some ten times a second; must not wait."""

    def want(self, parts: frozenset[str]) -> None:
        """Say which of "cpus", "counters", "page" and "console" are looked at."""

    def console(self) -> bytes:
        """What the guest wrote since the last call; after `restarted`, from the beginning."""

    def entry(self, record: Any) -> Entry:
        """Decode one of `records`."""

    def detail(self, record: Any) -> Future[Sequence[Section]]:
        """All that can be found out about one of `records`."""

    def do(self, command: str, **arguments: Any) -> Future[str]:
        """Carry out pause, resume, step_exit, step, mark, save, stop, stop_at, remove_stop; the
        answer is a line.

        The future raises VmmError where it cannot be done.
        """

    def stops(self) -> Future[Sequence[Stopping]]:
        """Where the guest is stopped."""

    def type(self, data: bytes) -> None:
        """Give the guest input."""

    def seek(self, now_ns: int) -> None:
        """Go to a moment of a recording."""

    def seek_exit(self, step: int) -> None:
        """Go to an exit of a recording, by number from where it stands."""

    @property
    def restarted(self) -> bool:
        """Whether `console` begins anew: a recording went back in time."""

    def totals(self) -> Mapping[str, float]:
        """Everything that counts up, by name: what a mark remembers."""

    def close(self) -> None:
        """Let go of it. A machine goes on."""
