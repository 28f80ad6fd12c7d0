"""What can be asked of a machine over its control socket: one method an operation.

They run on the host-events thread. One that needs the guest to stand still holds it for as long as
that takes, if it was not held already.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vmm.control.console_stream import ConsoleStream
from vmm.control.protocol import ControlError, from_text, to_text
from vmm.lifecycle import Phase

if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.trace.trace import Trace

__all__ = ["Operations"]

_PATIENCE_S = 2.0
"""How long the guest may take to come out: a device that is at work is waited for."""

_LOOK = "look"
"""The hold on a guest that has to stand still for an answer."""

_MOST_BYTES = 1 << 20
"""Memory read or written, console output passed, at once."""

_TEXT_PAGE = 0xB8000
_ROWS = 25
_PIT_FIELDS = ("count", "mode", "rw_mode", "bcd", "gate")
"""Of kvm_pit_channel_state; a mode of 255 is one that the guest has not set."""


class Operations:
    """The operations of one machine, which others call `name`, with the image `image`."""

    def __init__(self, machine: Machine, name: str, image: str) -> None:
        self._machine = machine
        self._name = name
        self._image = image
        self._marks = 0
        self._client: object = None
        self._streams: dict[object, ConsoleStream] = {}

    def carry_out(
        self, op: str, arguments: dict[str, Any], client: object
    ) -> tuple[dict[str, Any], int | None]:
        """Carry out an operation for a client; returns the result, and a descriptor to pass with
        it.

        Raises:
            ControlError: there is no such operation, or it cannot be done so.
        """
        method: Callable[..., dict[str, Any]] | None = getattr(self, f"op_{op}", None)
        if method is None:
            known = ", ".join(sorted(n[3:] for n in dir(self) if n.startswith("op_")))
            raise ControlError(f"no operation {op!r}; there are {known}")
        self._client = client
        try:
            result = method(**arguments)
        except (TypeError, ValueError) as error:
            raise ControlError(f"{op}: these arguments do not fit: {error}") from None
        return result, result.pop("fd", None)

    # -- what it is ---------------------------------------------------------------------------

    def op_info(self) -> dict[str, Any]:
        """What machine this is, and how it fares."""
        machine = self._machine
        from vmm.kvm import backend

        return {
            "name": self._name,
            "pid": os.getpid(),
            "image": self._image,
            "format": "" if machine.plan is None else machine.plan.format,
            "backend": backend(),
            "phase": machine.phase.value,
            "held_by": machine.held_by,
            "vcpus": len(machine.vcpus),
            "threads": [vcpu.thread_id for vcpu in machine.vcpus if vcpu.thread_id is not None],
            "memory": machine.memory.size,
            "irqchip": machine.irqchip,
            "uptime_s": time.monotonic() - machine.made_s,
            "exits": self._exits(),
            "console": machine.console.written,
            "devices": [
                {
                    "name": mapping.device.name,
                    "bus": bus.name,
                    "start": mapping.start,
                    "end": mapping.end,
                    "base": mapping.base,
                }
                for bus in (machine.pio, machine.mmio)
                for mapping in bus
            ],
        }

    def op_description(self) -> dict[str, Any]:
        """The machine's description, as a trace's META has it."""
        from vmm.description import describe_machine

        with self._machine.lock:
            return describe_machine(self._machine)

    def op_selected(self) -> dict[str, Any]:
        """What registers that select others hold (DLAB's, an index), by device, and when."""
        from devices.registers import RegisterTable
        from vmm.trace.decoder import selectors

        machine = self._machine
        held: dict[str, dict[str, int]] = {}
        with machine.lock:
            for name in machine.devices:
                device = machine.devices[name]
                table, values = getattr(device, "registers", None), getattr(device, "values", None)
                if isinstance(table, RegisterTable) and values is not None:
                    found = selectors(table) or ()
                    held[name] = {r.name: values.get(r.name, r.reset) for r in found}
            return {"devices": held, "time_ns": time.monotonic_ns()}

    def op_trace(self) -> dict[str, Any]:
        """The trace: its descriptor comes with the answer."""
        return {"fd": self._trace.memory.fd, "path": self._trace.path}

    def op_stats(self) -> dict[str, Any]:
        """The kernel's counters of the VM and of each vCPU."""
        return self._machine.kvm_stats()

    def op_virtio(self) -> dict[str, Any]:
        """What each virtio device has done: its counters by name."""
        return {place.name: place.counters() for place in self._machine.virtio}

    def op_counters(self) -> dict[str, Any]:
        """What these counters are: the kind and the unit of each."""
        return {
            owner: {
                counter.name: {"kind": counter.kind, "unit": counter.unit} for counter in counters
            }
            for owner, counters in self._machine.kvm_counters().items()
        }

    def op_explanation(self) -> dict[str, Any]:
        """How the last run ended; empty while none has."""
        result = self._machine.explain()
        if result is None or self._machine.phase is Phase.RUNNING:
            return {}
        return {
            "reason": result.reason,
            "status": result.status,
            "exits": result.exits,
            "seconds": result.seconds,
            "died": result.died,
            "text": result.report(),
            "explanation": result.explanation(),
        }

    # -- what it does -------------------------------------------------------------------------

    def op_pause(self) -> dict[str, Any]:
        """Hold the guest."""
        if not self._machine.pause(_PATIENCE_S):
            raise ControlError(self._why_not_held())
        return {"phase": self._machine.phase.value}

    def op_resume(self) -> dict[str, Any]:
        """Let the guest go on."""
        self._machine.resume()
        return {"phase": self._machine.phase.value}

    def op_step_exit(self, vcpu: int = 0) -> dict[str, Any]:
        """Let one vCPU of a held guest go on for one exit."""
        self._check_vcpu(vcpu)
        return {"stepped": self._machine.step_exit(vcpu, _PATIENCE_S)}

    def op_step(self, vcpu: int = 0) -> dict[str, Any]:
        """Let one vCPU of a held guest go on for one instruction."""
        self._check_vcpu(vcpu)
        return {"stepped": self._machine.step_held(vcpu, _PATIENCE_S)}

    def op_stop(self) -> dict[str, Any]:
        """End the run."""
        self._machine.stop()
        return {}

    def op_press_power_button(self) -> dict[str, Any]:
        """Press the power button, where the guest listens to it, and tell whether it does."""
        return {"listens": self._machine.press_power_button()}

    def op_mark(self, text: str = "") -> dict[str, Any]:
        """Note a moment in the trace; returns its number."""
        self._marks += 1
        from vmm.trace.layout import MARK

        self._trace.event(MARK, value=self._marks)
        return {"mark": self._marks}

    def op_save(self, path: str) -> dict[str, Any]:
        """Write what the flight recorder holds to a file."""
        self._trace.save(path, self.op_info())
        return {"path": os.path.abspath(path)}

    def op_snapshot(self, path: str, base: str | None = None) -> dict[str, Any]:
        """Write the machine's whole state to a file, or what is not as in `base`; it is held
        meanwhile."""
        snapshot = self._machine.snapshot(path, base=base)
        snapshot.close()
        return {"path": path, "digest": snapshot.digest}

    def op_balloon(self, size: int | None = None) -> dict[str, Any]:
        """How much memory the guest has given back, and what it said of its memory last; it is
        asked to give `size` bytes in all, where that is given, and to tell again."""
        from devices.virtio.balloon import Balloon

        machine = self._machine
        found = [p.device for p in machine.virtio if isinstance(p.device, Balloon)]
        if not found:
            raise ControlError(f"{self._name} has no balloon: run it with --balloon")
        balloon = found[0]
        with machine.lock:
            if size is not None:
                if not 0 <= size <= machine.memory.size:
                    raise ControlError(
                        f"a balloon of {size} bytes in a machine of {machine.memory.size}"
                    )
                balloon.resize(size)
            balloon.ask_for_statistics()
            return {
                "target": balloon.target_bytes,
                "actual": balloon.actual_bytes,
                "reported": balloon.reported_bytes,
                "ready": balloon.transport is not None and balloon.transport.running,
                "statistics": dict(balloon.statistics),
            }

    def op_gdb(self, address: str | None = None) -> dict[str, Any]:
        """Let GDB attach: at an address (`vmm.gdb.server.read_address`), where it could already, or
        at a socket beside this one; returns what GDB's `target remote` takes."""
        from vmm.control.registry import gdb_socket
        from vmm.gdb.server import Debugger, read_address

        debugger = self._machine.debugger
        if debugger is None:
            where = read_address(address) if address else str(gdb_socket(self._name))
            debugger = Debugger(self._machine, where)
        elif address:
            raise ControlError(f"gdb is waited for at {debugger.where} already")
        if debugger.attached:
            raise ControlError(f"another gdb is attached at {debugger.where}")
        return {"where": debugger.where}

    # -- where it stops -----------------------------------------------------------------------

    def op_attend(self) -> dict[str, Any]:
        """Say that somebody sees the machine through this client: for as long as it is connected,
        the run is paused where it would end at a stop."""
        self._machine.onlookers.add(self._client)
        return {}

    def gone(self, client: object) -> None:
        """A client has hung up."""
        self._machine.onlookers.discard(client)
        stream = self._streams.pop(client, None)
        if stream is not None:
            stream.close()

    def op_stops(self) -> dict[str, Any]:
        """Where the guest is stopped, and how often it was."""
        return {
            "stops": [
                {"number": s.number, "condition": s.condition.text, "stopped": s.stopped}
                for s in self._trace.stops
            ]
        }

    def op_stop_at(self, condition: str) -> dict[str, Any]:
        """Pause the run at each exit that meets a condition (`vmm.trace.conditions`)."""
        with self._still():
            return {"number": self._trace.stop_at(condition, pause=True).number}

    def op_remove_stop(self, number: int) -> dict[str, Any]:
        """Stop there no more."""
        for stop in self._trace.stops:
            if stop.number == number:
                with self._still():
                    stop.remove()
                return {"condition": stop.condition.text}
        raise ControlError(f"there is no stop {number}")

    def op_symbols(self, path: str | None = None) -> dict[str, Any]:
        """The file that names for addresses come from, and what is added to the addresses in it;
        `path` is taken from now on."""
        machine = self._machine
        bias = 0 if machine.plan is None else machine.plan.moved_by
        if path is not None:
            from vmm.symbols import Symbols

            machine.symbols = Symbols.load(path, bias=bias)
            machine.settings["symbols"] = path
        file = str(machine.settings.get("symbols") or self._image)
        return {"path": os.path.abspath(file) if os.path.isfile(file) else "", "bias": bias}

    # -- what it holds ------------------------------------------------------------------------

    def op_registers(self) -> dict[str, Any]:
        """Each vCPU's kvm_regs and kvm_sregs, as KVM lays them out, and its MP state."""
        with self._still():
            return {
                "vcpus": [
                    {
                        "regs": to_text(bytes(vcpu.regs.struct())),
                        "sregs": to_text(bytes(vcpu.sregs.struct())),
                        "mp_state": vcpu.kvm.get_mp_state() if self._machine.irqchip else 0,
                        "exits": vcpu.exits,
                    }
                    for vcpu in self._machine.vcpus
                ]
            }

    def op_interrupts(self) -> dict[str, Any]:
        """The interrupt controllers as each vCPU meets them (`vmm.interrupts`), and the PIT."""
        machine = self._machine
        if not machine.irqchip:
            raise ControlError("the machine has no interrupt controllers: see --irqchip")
        from dataclasses import asdict

        from vmm.interrupts import Interrupts

        with self._still():
            return {
                "vcpus": [
                    asdict(Interrupts.read(machine.vm, vcpu.kvm, vcpu.sregs.apic_base))
                    for vcpu in machine.vcpus
                ],
                "pit": [
                    {name: getattr(channel, name) for name in _PIT_FIELDS}
                    for channel in machine.vm.get_pit2().channels
                ],
            }

    def op_memory(self, gpa: int, size: int) -> dict[str, Any]:
        """Read guest-physical memory."""
        if not 0 <= size <= _MOST_BYTES:
            raise ControlError(f"{size} bytes: at most {_MOST_BYTES} at once")
        return {"data": to_text(self._machine.memory.read(gpa, size))}

    def op_write_memory(self, gpa: int, data: str) -> dict[str, Any]:
        """Write guest-physical memory."""
        self._machine.memory.write(gpa, from_text(data))
        return {}

    def op_devices(self) -> dict[str, Any]:
        """The state of every device that has been used, field by field."""
        machine = self._machine
        with machine.lock:
            return {"devices": {name: _state(machine.devices[name]) for name in machine.devices}}

    def op_console(self, since: int = 0) -> dict[str, Any]:
        """The guest's output from byte `since` on, as much of it as is kept."""
        output, end = self._machine.console.since(since, _MOST_BYTES)
        return {"data": to_text(output), "end": end, "start": end - len(output)}

    def op_console_stream(self, since: int = 0) -> dict[str, Any]:
        """The console as a socket, whose descriptor comes with the answer: the guest's output
        from byte `since` on as it comes, and what is typed the other way. It ends with the
        connection."""
        if self._client in self._streams:
            raise ControlError("this connection has a stream of the console already")
        stream = self._streams[self._client] = ConsoleStream(self._machine, int(since))
        return {"fd": stream.fd}

    def op_input(self, data: str) -> dict[str, Any]:
        """Type to the guest."""
        if not self._machine.console.has_room:
            raise ControlError("the guest reads too slowly: much waits for it already")
        self._machine.console.send(from_text(data))
        return {}

    def op_screen(self) -> dict[str, Any]:
        """The text screen as it lies in memory, a character and an attribute byte a cell."""
        machine = self._machine
        if not machine.memory.contains(_TEXT_PAGE, 0x8000):
            raise ControlError("the guest has no text screen: there is no memory at 0xb8000")
        from devices.vga_text import VgaText

        vga = machine.devices.get("vga") if "vga" in machine.devices else None
        columns, start, cursor, blinks = 80, 0, None, True
        if isinstance(vga, VgaText):
            with machine.lock:
                columns, start, cursor = vga.columns, vga.start, vga.cursor
                blinks = vga.blinks
        size = columns * _ROWS * 2
        at = _TEXT_PAGE + min(2 * start & 0x7FFF, 0x8000 - size)
        return {
            "columns": columns,
            "rows": _ROWS,
            "cells": to_text(machine.memory.read(at, size)),
            "cursor": None if cursor is None else cursor - start,
            "blinks": blinks,
        }

    # -- inside -------------------------------------------------------------------------------

    @property
    def _trace(self) -> Trace:
        if self._machine.trace is None:
            raise ControlError("the machine was made with trace=False: nothing is noted")
        return self._machine.trace

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Hold the guest for a look, if it was not held already."""
        machine = self._machine
        if not machine.pause(_PATIENCE_S, hold=_LOOK) and machine.phase is Phase.RUNNING:
            machine.resume(hold=_LOOK)
            raise ControlError(self._why_not_held())
        try:
            yield
        finally:
            machine.resume(hold=_LOOK)

    def _why_not_held(self) -> str:
        phase = self._machine.phase
        if phase is Phase.RUNNING:
            return f"the guest does not come out within {_PATIENCE_S:g} s: a device is at work"
        return "the run has ended" if self._machine.last_result else f"the machine is {phase.value}"

    def _check_vcpu(self, vcpu: int) -> None:
        if not isinstance(vcpu, int) or not 0 <= vcpu < len(self._machine.vcpus):
            raise ControlError(f"no vCPU {vcpu}: there are {len(self._machine.vcpus)}")

    def _exits(self) -> int:
        rings = [vcpu.ring for vcpu in self._machine.vcpus]
        return sum(vcpu.exits if ring is None else ring.exits
                   for vcpu, ring in zip(self._machine.vcpus, rings, strict=True))  # fmt: skip


def _state(device: Any) -> dict[str, Any]:
    """A device's state as plain data; one that cannot be saved says why."""
    from dataclasses import fields

    save = getattr(device, "save", None)
    if save is None:
        return {"cannot_save": getattr(device, "cannot_save", "it has no state to show")}
    state = save()
    return {part.name: _plain(getattr(state, part.name)) for part in fields(state)}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return value if isinstance(value, int | float | str | bool | None) else str(value)
