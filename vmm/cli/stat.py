"""`vmm stat`: the figures of a machine that runs, or of a recording, as text or JSON."""

from __future__ import annotations

import json
import os
import select
import time
from typing import TYPE_CHECKING, Any

from vmm.cli.figures import exit_figures, kvm_figures, lines, virtio_figures
from vmm.cli.messages import say
from vmm.cli.options import Options
from vmm.errors import ConfigError

if TYPE_CHECKING:
    from vmm.control.client import Client
    from vmm.hardware_exits import HardwareExits
    from vmm.trace.summary import Summary

__all__ = ["stat"]

_LOOK_S = 0.05
"""How often the rings are read: they hold a third of a second of a very busy guest."""


def stat(options: Options) -> int:
    """Print the figures; returns 0.

    Raises:
        VmmError: there is no such machine or recording.
    """
    name = options.name
    if options.count is not None and options.every is None:
        raise ConfigError("--count: how often is for figures of every n seconds; give -n as well")
    if name is not None and (os.path.sep in name or os.path.isfile(name)):
        if options.every is not None:
            raise ConfigError(f"-n: {name} is a recording, whose figures do not change")
        _show(_of_recording(name), options)
        return 0
    from vmm.control.client import Client

    with Client.connect(name) as client:
        if options.every is None:
            with _Watch(client) as watch:
                _show(watch.recorder(), options)
        else:
            _again_and_again(client, options)
    return 0


def _show(figures: dict[str, Any], options: Options) -> None:
    if options.json:
        # One line each where there are several, for whoever reads them from a pipe.
        print(json.dumps(figures, indent=2 if options.every is None else None), flush=True)
        return
    text = [figures["title"], *lines(figures)]
    text += [f"note: {note}" for note in figures.get("notes", ())]
    if options.every is not None:
        text.append("")
    print("\n".join(text), flush=True)


def _of_recording(path: str) -> dict[str, Any]:
    from vmm.trace.reader import device_map
    from vmm.trace.source import TraceSource
    from vmm.trace.summary import of_batches

    with TraceSource.open(path) as source:
        summary = of_batches(batch.records for batch in source.batches() if batch.vcpu is not None)
        figures = exit_figures(summary, device_map(source), summary.seconds)
        return {"title": path, "recording": path, **figures, "notes": source.notes}


# -- a machine that runs ------------------------------------------------------------------------


def _again_and_again(client: Client, options: Options) -> None:
    left = options.count
    with _Watch(client) as watch:
        watch.begin()
        while left is None or left > 0:
            figures = watch.collect(options.every)
            _show(figures, options)
            if watch.ended:
                say(f"{client.name} has ended")
                return
            left = None if left is None else left - 1


class _Watch:
    """Reads a machine's rings and counters from this process: the machine goes on undisturbed."""

    def __init__(self, client: Client) -> None:
        from vmm.trace.devicemap import DeviceMap
        from vmm.trace.reader import LiveTrace

        self.ended = False
        self._client = client
        self._info = client.call("info")
        self._devices = DeviceMap.from_meta(client.call("description"))
        self._counters = client.call("counters")
        self._kvm: dict[str, dict[str, Any]] | None = None
        self._virtio: dict[str, dict[str, int]] = {}
        self._hardware: HardwareExits | None = None
        self._no_hardware = ""
        self._hardware_before: dict[str, Any] = {}
        self._began_s = time.monotonic()
        fd = client.trace_fd()
        try:
            self._trace = LiveTrace.from_fd(fd, client.name)
        finally:
            os.close(fd)
        self._rings = range(1, self._trace.vcpus + 1)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._trace.close()
        if self._hardware is not None:
            self._hardware.close()

    def recorder(self) -> dict[str, Any]:
        """The figures of what the flight recorder holds, and KVM's counters since the start."""
        summary, _ = self._read()
        figures = exit_figures(summary, self._devices, summary.seconds)
        figures["kvm"] = kvm_figures(self._client.call("stats"), self._counters)
        figures["virtio"] = self._client.call("virtio")
        total = self._info["exits"]
        # A few more may have come since it was asked.
        which = "since its start" if summary.exits >= total else f"the last of {total:,} exits"
        return {"title": f"{self._title()}; {which}:", "machine": self._machine(), **figures}

    def begin(self) -> None:
        """Count from now on."""
        from vmm.hardware_exits import HardwareExits, NoHardwareExits

        try:
            self._hardware = HardwareExits(self._info["threads"])
        except NoHardwareExits as error:
            self._no_hardware = str(error)
        self._read()
        self._virtio = self._client.call("virtio")
        self._kvm = self._client.call("stats")
        self._hardware_before = self._count_hardware()
        self._began_s = time.monotonic()

    def collect(self, seconds: float) -> dict[str, Any]:
        """The figures of the next `seconds`; of fewer, where the machine ends meanwhile."""
        from vmm.trace.summary import Summary

        summary, missed = Summary(), 0
        until = self._began_s + seconds
        while not self.ended:
            left = until - time.monotonic()
            if left > 0:
                self._wait(min(left, _LOOK_S))
            missed += self._read(summary)[1]
            if left <= 0:
                break
        now = time.monotonic()
        figures = exit_figures(summary, self._devices, now - self._began_s)
        self._began_s = now
        self._ask(figures)
        hardware = self._count_hardware()
        figures["hardware"] = _less(hardware, self._hardware_before)
        self._hardware_before = hardware
        stamp = time.strftime("%H:%M:%S")
        return {
            "title": f"{stamp} {self._title()}",
            "time": time.time(),
            "machine": self._machine(),
            **figures,
            "missed": missed,
        }

    # -- inside ---------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Wait; less where a ring of the kernel's gets full or the machine goes away."""
        poll = select.poll()
        poll.register(self._client.fileno(), select.POLLIN)
        for fd in self._hardware.filenos if self._hardware is not None else ():
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            self.ended |= fd == self._client.fileno()  # nothing but its end comes unasked

    def _read(self, into: Summary | None = None) -> tuple[Summary, int]:
        """Read what came; how many records were overwritten before."""
        from vmm.trace.summary import Summary

        summary, missed = Summary() if into is None else into, 0
        for ring in self._rings:
            news = self._trace.poll(ring)
            summary.add(news.records)
            missed += news.missed
        if self._hardware is not None:
            self._hardware.poll()
        return summary, missed

    def _ask(self, figures: dict[str, Any]) -> None:
        """Ask for KVM's counters and how the machine fares, where it is still there."""
        from vmm.control.protocol import ControlError

        try:
            virtio = self._client.call("virtio")
            values = self._client.call("stats")
            self._info = self._client.call("info")
        except ControlError:
            self.ended = True
            return
        figures["kvm"] = kvm_figures(values, self._counters, self._kvm)
        figures["virtio"] = virtio_figures(virtio, self._virtio)
        self._kvm, self._virtio = values, virtio

    def _count_hardware(self) -> dict[str, Any]:
        hardware = self._hardware
        if hardware is None:
            return {"unavailable": self._no_hardware}
        return {
            "total": hardware.total,
            "entries": hardware.entries,
            "lost": hardware.lost,
            "reasons": dict(hardware.counts),
        }

    def _machine(self) -> dict[str, Any]:
        return {name: value for name, value in self._info.items() if name in _OF_MACHINE}

    def _title(self) -> str:
        info = self._info
        return (
            f"{info['name']}: {info['image']}, {info['phase']}, {info['vcpus']} vCPU, "
            f"{info['memory'] >> 10}K, up {info['uptime_s']:.0f} s"
        )


_OF_MACHINE = frozenset(
    {"name", "pid", "image", "phase", "backend", "vcpus", "memory", "uptime_s", "exits"}
)


def _less(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Hardware exits since the last look."""
    if "unavailable" in now:
        return now
    less: dict[str, Any] = {n: now[n] - before[n] for n in ("total", "entries", "lost")}
    reasons = {name: n - before["reasons"].get(name, 0) for name, n in now["reasons"].items()}
    return {**less, "reasons": {name: count for name, count in reasons.items() if count}}
