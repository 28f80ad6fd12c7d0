"""A machine: guest memory, buses, vCPUs and devices, wired together.

A machine starts bare: memory, vCPUs, and a debug-exit port that gives way to anything mapped
over it. `vmm.board` adds what a PC has; `vmm.launch` makes a machine around an image.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import kvm_bindings
from devices.debug_exit import DebugExit
from devices.protocols import Device
from devices.wiring import IrqLine
from vmm.autopsy import autopsy
from vmm.bus import Bus, FunctionPort, Mapping
from vmm.counts import ExitCounts
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault, FaultChoice, LifecycleError, MappingOverlap
from vmm.exits import Exit
from vmm.hardware import Hardware
from vmm.host.console import Console
from vmm.host.events import HostEvents
from vmm.late import Devices, LateDevice
from vmm.layout import MemoryLayout, parse_size
from vmm.lifecycle import Phase
from vmm.loader.apply import place_image
from vmm.loader.plan import BootPlan, Mode, Start
from vmm.memory import GuestMemory
from vmm.registers import RegisterView
from vmm.result import RunResult
from vmm.run import RunControl
from vmm.trace.trace import Trace
from vmm.vcpu import Vcpu

if TYPE_CHECKING:
    from kvm_bindings.stats import Counter
    from vmm.bios.dispatch import Bios
    from vmm.breakpoints import Breakpoints
    from vmm.cpustate import CpuState
    from vmm.stepping import Stepper
    from vmm.symbols import Symbols
    from vmm.trace.recorder import Journal

__all__ = ["Machine"]

InFunction = TypeVar("InFunction", bound=Callable[[int], int])
P = ParamSpec("P")
AnyDevice = TypeVar("AnyDevice", bound=Device)
OutFunction = TypeVar("OutFunction", bound=Callable[[int, int], None])

_MOST_CPUS = 255
_PIO_LIMIT = 0x1_0000
_MMIO_LIMIT = 1 << 52
_NO_VCPU = 0xFF  # vmm.trace.journal, which is not imported where no journal is kept


class Machine:
    """A virtual machine.

    Args:
        memory: RAM, in bytes or as "2M".
        cpus: how many vCPUs; more than one needs `irqchip`.
        irqchip: let KVM emulate PIC, IOAPIC, local APICs and the PIT. Without it the machine has
            no interrupts, and HLT ends the run.
        cpu: features of the processor to hide from the guest: "-cx16,-xsave".
        strict: an access to a port or an address that nobody claims ends the run.
        huge_pages: back RAM with the host's reserved 2 MiB pages.
        debug_exit: the port that ends the run when written to; None for no such port.
        trace: True: the last exits are kept (a flight recorder); a path: all of them are, in a
            file; False: none.
        rip: have RIP in every exit's record.
        journal: keep in that file what devices are given and what they do as well, so that it
            can be replayed (`vmm.replay`).
        kvm: the device node.

    Raises:
        ConfigError: such a machine cannot be.
        KvmUnavailable: KVM cannot be used here; the message says what to do.
    """

    def __init__(
        self,
        memory: str | int = "2M",
        cpus: int = 1,
        irqchip: bool = False,
        *,
        cpu: str = "",
        strict: bool = False,
        huge_pages: bool = False,
        debug_exit: int | None = 0xF4,
        trace: str | bool = True,
        rip: bool = False,
        journal: bool = False,
        kvm: str = "/dev/kvm",
    ) -> None:
        layout = MemoryLayout.for_size(parse_size(memory, what="memory"))
        if cpus < 1:
            raise ConfigError(f"{cpus} vCPUs: a machine needs at least one")
        if cpus > _MOST_CPUS:
            raise ConfigError(
                f"{cpus} vCPUs: a machine has {_MOST_CPUS} at most, since the number of a local "
                "APIC has 8 bits"
            )
        if cpus > 1 and not irqchip:
            raise ConfigError(
                f"{cpus} vCPUs need irqchip=True (--irqchip on): the others are started by INIT "
                "and SIPI, which the local APIC delivers"
            )
        if rip and not trace:
            raise ConfigError("rip=True: RIP is noted in the trace; do without trace=False")
        if journal and not isinstance(trace, str):
            raise ConfigError("a journal is kept in a trace file; give trace=FILE as well")
        self.irqchip = irqchip
        self.lock = threading.RLock()
        """Held while a device is called."""
        self.pio = Bus("port", _PIO_LIMIT, strict=strict)
        self.mmio = Bus("MMIO", _MMIO_LIMIT, strict=strict)
        self.devices = Devices()
        self.closers: list[Callable[[], None]] = []
        """Called, last first, when the machine is closed."""
        self.console = Console(lock=self.lock)
        """The guest's console, where the machine has a device that writes to one."""
        self.settings: dict[str, object] = {
            "memory": layout.size,
            "cpus": cpus,
            "irqchip": irqchip,
            "cpu": cpu,
            "strict": strict,
            "huge_pages": huge_pages,
            "debug_exit": debug_exit,
        }
        """What the machine was made with, as values that JSON has."""
        self.plan: BootPlan | None = None
        """What the machine was booted from."""
        self.bios: Bios | None = None
        """The Python BIOS, where a boot sector runs on it."""
        self.last_result: RunResult | None = None
        """How the last run ended."""
        self.started: Start | None = None
        """How the first vCPU was last set to start."""
        self.symbol_source: Callable[[], Symbols | None] = lambda: None
        """Reads `symbols` when somebody first asks for them."""
        self.trace: Trace | None = None
        """What the vCPUs did last, or all that they did; None where nothing is noted."""
        if trace:
            self.trace = Trace(cpus, None if trace is True else trace)
            self.trace.around = self
            self.trace.about = self._about
            self.trace.on_stop = self._met_stop
            self.trace.break_at = self._break_at
        self.pause_at_stops = False
        """At a stop (`Trace.stop_at`) the run is paused; otherwise it returns."""
        self.onlookers: set[object] = set()
        """Screens that see the machine: while there are any, stops pause the run as well."""
        self.journal: Journal | None = None
        """What devices are given and what they do, where that is kept."""
        if journal and self.trace is not None:
            from vmm.trace.recorder import Journal

            self.journal = Journal(self.trace.add_journal, self._where)
        self._control = RunControl()
        if self.trace is not None:
            self._control.state.lifecycle.note = self.trace.note_phase
            self._control.gate.on_held = self._catch_up
        self._closed = False
        self.made_s = time.monotonic()
        """When the machine was made, by CLOCK_MONOTONIC."""
        try:
            self._hardware = Hardware(
                kvm,
                layout,
                cpus=cpus,
                irqchip=irqchip,
                features=cpu,
                huge_pages=huge_pages,
                pio=self.pio,
                mmio=self.mmio,
                lock=self.lock,
                control=self._control,
                trace=self.trace,
            )
        except BaseException:
            if self.trace is not None:
                self.trace.close()
            raise
        self._control.state.vcpus = self._hardware.vcpus
        try:
            if rip and self.trace is not None:
                self.trace.rip = True
            if debug_exit is not None:
                device = self.make(DebugExit, on_exit=self._debug_exit)
                self.add_device(device, pio=range(debug_exit, debug_exit + 4), default=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- parts ----------------------------------------------------------------------------

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, by guest-physical address."""
        return self._open().memory

    @property
    def vm(self) -> kvm_bindings.VM:
        """KVM's file descriptor for the machine."""
        return self._open().vm

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The virtual processors; the first one is the one that boots."""
        return tuple(self._hardware.vcpus)

    @cached_property
    def breakpoints(self) -> Breakpoints:
        """Breakpoints at linear addresses, for debuggers; `Trace.stop_at` is simpler."""
        from vmm.breakpoints import Breakpoints
        from vmm.kvm import backend

        return Breakpoints(
            self.vcpus,
            self.memory,
            software=backend() in ("kvm_amd", "kvm_intel"),
            step_flags=self._stepper.flags,
            in_guest=self._control.in_guest,
        )

    @cached_property
    def events(self) -> HostEvents:
        """The thread of host events; it starts when something is first asked of it."""

        def failed(error: BaseException) -> None:
            self._control.state.fail(error)

        events = HostEvents(failed)
        self.closers.append(events.close)
        return events

    @property
    def regs(self) -> RegisterView:
        """The first vCPU's general registers. Before a run or between runs."""
        return self._standing().regs

    @property
    def sregs(self) -> RegisterView:
        """The first vCPU's segment and control registers. Before a run or between runs."""
        return self._standing().sregs

    @cached_property
    def symbols(self) -> Symbols | None:
        """Names for the guest's addresses, where its image or a file given beside it has any."""
        return self.symbol_source()

    @property
    def phase(self) -> Phase:
        """Where the machine is in its life: created, running, paused, stopped or failed."""
        return self._control.state.lifecycle.phase

    @property
    def on_device_fault(self) -> Callable[[DeviceFault], FaultChoice] | None:
        """Called when a device raises, while all vCPUs stand still at their accesses; it says what
        becomes of this one: "retry" calls the device again, "skip" answers a read with all ones
        and drops a write, "raise" lets the machine fail, as it does where this is None.

        It runs on the vCPU's thread, without the device lock, and may look at registers. Of an
        access that reaches several devices or bytes, "retry" repeats all; of a string, what is
        left of it.
        """
        return self._control.on_device_fault

    @on_device_fault.setter
    def on_device_fault(self, ask: Callable[[DeviceFault], FaultChoice] | None) -> None:
        self._control.on_device_fault = ask

    # -- devices --------------------------------------------------------------------------

    def make(self, cls: Callable[P, AnyDevice], /, *args: P.args, **kwargs: P.kwargs) -> AnyDevice:
        """Make a device model of this machine: `cls` called with the arguments.

        Where a journal is kept it has everything that passes through the functions and the memory
        among the arguments, so that the device can be replayed.
        """
        if self.journal is None:
            return cls(*args, **kwargs)
        with self.lock:
            return self.journal.make(cls, *args, **kwargs)

    def add_device(
        self,
        device: Device | LateDevice,
        *,
        pio: range | None = None,
        mmio: range | None = None,
        base: int | None = None,
        coalesced: bool = False,
        default: bool = False,
    ) -> Mapping:
        """Let a device answer at a range of ports or of guest-physical addresses.

        Args:
            device: anything with `name`, `read(offset, size)`, `write(offset, size, value)` and
                `reset()`; or the place of one that is made when it is first wanted.
            pio: its ports; or
            mmio: its guest-physical addresses.
            base: the address that is its offset 0; the range's start unless given.
            coalesced: let KVM collect writes, which the device then sees in order, but only
                when the guest next exits for another reason. For registers where a write
                needs no answer.
            default: give way to a device mapped over it later.

        Raises:
            ConfigError: neither or both of `pio` and `mmio`; a range outside of the bus.
            MappingOverlap: another device, or guest memory, is there.
        """
        if (pio is None) == (mmio is None):
            raise ConfigError(f"{device.name}: give either pio=range(...) or mmio=range(...)")
        bus, addresses = (self.pio, pio) if pio is not None else (self.mmio, mmio)
        assert addresses is not None
        if mmio is not None:
            self._refuse_ram(mmio, device.name)
        mapping = bus.map(addresses, self._noted(device), base=base, default=default)
        if self.journal is not None:
            with self.lock:
                self.journal.map(device.name, bus.name, mapping.start, mapping.end, mapping.base)
        if coalesced:
            self._open().coalesce(mapping.start, mapping.end - mapping.start, pio=pio is not None)
        self.devices.add(device)
        if self.trace is not None:
            self.trace.devices_changed()
        return mapping

    def on_out(self, port: int, *, coalesced: bool = False) -> Callable[[OutFunction], OutFunction]:
        """Decorate a function that takes what the guest writes to a port: `f(value, size)`."""

        def decorate(function: OutFunction) -> OutFunction:
            device = self._function_port(port)
            journal = self.journal
            device.on_out = function if journal is None else journal.foreign_out(device, function)
            self.pio.forget()
            if coalesced:
                self._open().coalesce(port, 1, pio=True)
            return function

        return decorate

    def on_in(self, port: int) -> Callable[[InFunction], InFunction]:
        """Decorate a function that answers when the guest reads a port: `f(size) -> value`.

        A function without parameters will do as well.
        """

        def decorate(function: InFunction) -> InFunction:
            device, answer = self._function_port(port), _accept_size(function)
            journal = self.journal
            device.on_in = answer if journal is None else journal.foreign_in(device, answer)
            self.pio.forget()
            return function

        return decorate

    def irq(self, gsi: int) -> IrqLine:
        """The interrupt line `gsi` as something a device can drive; not connected where the
        machine has no interrupt controller."""
        return self._open().irq(gsi)

    # -- starting and running -------------------------------------------------------------

    def boot(self, plan: BootPlan) -> None:
        """Put a loader's plan into memory and set the first vCPU to start it.

        Raises:
            BootError: the image does not fit.
        """
        place_image(plan, self.memory)
        self._hardware.map_new_regions()
        self._start(plan.start)

    def start_at(self, entry: int, mode: Mode = "real", *, cpl: int = 0) -> None:
        """Set the first vCPU to start at linear address `entry`.

        In "protected" and "long" mode the last 32 KiB of RAM below 4 GiB get a GDT and page
        tables that map the first 4 GiB one to one.

        Raises:
            BootError: the mode cannot start there.
        """
        if mode not in ("real", "protected", "long", "reset"):
            raise ConfigError(f"mode {mode!r}: choose real, protected, long or reset")
        self._start(Start(mode, entry, cpl))

    def run(self, timeout: float | None = 60.0, max_exits: int | None = None) -> RunResult:
        """Run the guest until it ends or a bound is reached; a run can be followed by another.

        Args:
            timeout: seconds; None for no bound.
            max_exits: exits, over all vCPUs; None for no bound. A run on several vCPUs may take
                a few more, one a vCPU at most.

        Raises:
            DeviceFault: a device model or a function of yours raised.
            KeyboardInterrupt: Ctrl-C; the machine is paused and can run on.
        """
        self._check_bounds(timeout, max_exits)
        if self.trace is not None:
            self.trace.describe()
        before, began = self._control.state.exits, time.monotonic()
        try:
            ending = self._control.run(timeout, max_exits)
        finally:
            self._catch_up()
        return self._result(ending, before, began)

    def exits(self, timeout: float | None = 60.0, max_exits: int | None = None) -> Iterator[Exit]:
        """Run the guest and iterate over its exits, each after it was handled.

        The guest stands still between two of them, and stops when the iteration is left.
        `last_result` then says how the run ended.
        """
        self._check_bounds(timeout, max_exits)
        if self.trace is not None:
            self.trace.describe()
        before, began = self._control.state.exits, time.monotonic()
        self.last_result = None
        steps = self._control.steps(timeout, max_exits)
        try:
            for event in steps:
                if isinstance(event, Ending):
                    self._result(event, before, began)
                else:
                    yield event
        finally:
            steps.close()
            self._catch_up()
            if self.last_result is None and self._control.state.ending is not None:
                self._result(self._control.state.ending, before, began)

    def step(self, vcpu: int = 0) -> Exit | None:
        """Run one instruction of one vCPU, or one iteration of a repeated one, and stop.

        The other vCPUs stand still, and interrupts wait where KVM can hold them back. A vCPU that
        HLT has put to sleep sleeps on, and is given a moment to wake up.

        Returns:
            The exit that the instruction made, after it was handled; None where it made none.
            Where the guest ended with it, `last_result` says how; it is None otherwise.

        Raises:
            DeviceFault: a device model or a function of yours raised.
        """
        vcpus = self._open().vcpus
        if not 0 <= vcpu < len(vcpus):
            raise ConfigError(f"vCPU {vcpu}: the machine has 0 to {len(vcpus) - 1}")
        before, began = self._control.state.exits, time.monotonic()
        step = self._stepper.one_instruction
        event, ending = self._control.one_instruction(vcpus[vcpu], step)
        self.last_result = None
        if ending is not None:
            self._result(ending, before, began)
        return event

    def count_exits(self) -> ExitCounts:
        """Count exits from now on, by reason and address."""
        counts = ExitCounts()
        self._control.harvest = counts.add
        return counts

    def kvm_stats(self) -> dict[str, dict[str, int | tuple[int, ...]]]:
        """The kernel's counters: "vm", "vcpu0" and so on, each by name; empty where this kernel
        has none."""
        return {name: stats.read() for name, stats in self._open().stats().items()}

    def kvm_counters(self) -> dict[str, tuple[Counter, ...]]:
        """What these counters are: their kinds and units."""
        return {name: stats.counters for name, stats in self._open().stats().items()}

    def save_trace(self, path: str) -> None:
        """Write the last exits, with the machine's description, to a file for `vmm trace`.

        Raises:
            ConfigError: it cannot be written, or the machine keeps no trace.
        """
        if self.trace is None:
            raise ConfigError("this machine keeps no trace; make it without trace=False")
        result = self.last_result
        self.trace.save(path, None if result is None else result.facts())

    def stop(self) -> None:
        """End the run in progress, from any thread; it returns with the reason "stopped"."""
        self._control.state.end(Ending("stopped"))

    def last_seen(self, vcpu: int) -> CpuState | None:
        """A vCPU's state before its last exit, on hosts that lose the state of a guest's death."""
        return self._hardware.last_seen(vcpu)

    def end(self, ending: Ending) -> None:
        """End the run in progress for a reason of a device: poweroff, reset, debug_exit."""
        self._control.state.end(ending)

    def pause(self, timeout_s: float | None = None, *, hold: str = "user") -> bool:
        """Hold a run in progress between two instructions, from another thread; say whether it
        stands still, which takes longer than `timeout_s` where a device is at work.

        Holds of different names do not undo each other: the run goes on when none is left.
        """
        stands = self._control.gate.pause(timeout_s, hold=hold)
        self._catch_up()
        return stands

    def pause_soon(self, why: str = "") -> None:
        """Hold a run in progress as soon as may be, without waiting: also out of a hook."""
        self._control.gate.pause_soon(why)

    def step_exit(self, vcpu: int = 0, timeout_s: float | None = None) -> bool:
        """Let one vCPU of a run that is held go on for one exit; say whether there was one.

        Raises:
            LifecycleError: there is no run that is paused.
        """
        return self._control.step_exit(vcpu, timeout_s)

    def step_held(self, vcpu: int = 0, timeout_s: float | None = None) -> bool:
        """Let one vCPU of a run that is held go on for one instruction; say whether it came to
        its end. Between runs there is `step`.

        Raises:
            LifecycleError: there is no run that is paused.
        """
        return self._control.step_instruction(vcpu, self._stepper.one_instruction, timeout_s)

    @property
    def held_by(self) -> str:
        """Why a run is held, where somebody said so."""
        return self._control.gate.held_by

    def resume(self, *, hold: str = "user") -> None:
        """Let a paused run go on."""
        self._control.gate.resume(hold=hold)

    def close(self) -> None:
        """Stop the run, if there is one, and give everything back. May be called twice.

        Raises:
            LifecycleError: called by a device, which would wait for itself.
        """
        if self._closed:
            return
        self._control.shut()
        end = None
        if self.last_result is not None:  # while there is memory to look at
            if self.last_result.died:
                self.last_result.report()
            if self.trace is not None and self.trace.path is not None:
                end = self.last_result.facts()
        self._closed = True
        for close in reversed(self.closers):
            close()
        self._hardware.close()
        self._flush_journal()
        if self.phase is not Phase.STOPPED:
            self._control.state.lifecycle.to(Phase.STOPPED)
        self._catch_up()
        if self.trace is not None:
            self.trace.close(end)

    # -- inside ---------------------------------------------------------------------------

    def _about(self) -> dict[str, object]:
        from vmm.description import describe_machine

        with self.lock:
            return describe_machine(self)

    def _open(self) -> Hardware:
        if self._closed:
            raise LifecycleError("the machine is closed")
        return self._hardware

    def _standing(self) -> Vcpu:
        """The first vCPU, if its registers may be touched from here now."""
        vcpu = self._open().vcpus[0]
        if self._control.in_guest(vcpu):
            raise LifecycleError("registers can be used before a run or between runs; pause first")
        return vcpu

    def _start(self, start: Start) -> None:
        self._standing()
        self._hardware.start(start)
        self.started = start

    @cached_property
    def _stepper(self) -> Stepper:
        from vmm.stepping import Stepper

        memory = self.memory

        def halts(gpa: int) -> bool:
            return not self.irqchip and memory.contains(gpa, 1) and memory.read(gpa, 1) == b"\xf4"

        return Stepper(self.vm.check_extension, halts)

    def _function_port(self, port: int) -> FunctionPort:
        mapping = self.pio.find(port) if 0 <= port < _PIO_LIMIT else None
        if mapping is not None and isinstance(mapping.device, FunctionPort):
            return mapping.device
        device = FunctionPort(f"function at {port:#x}")
        self.pio.map(range(port, port + 1), device, whole=True)
        self.devices.add(device)
        return device

    def _refuse_ram(self, mmio: range, name: str) -> None:
        for region in self.memory:
            if mmio.start < region.end and region.gpa < mmio.stop:
                raise MappingOverlap(
                    f"{name} at MMIO {mmio.start:#x}..{mmio.stop - 1:#x} overlaps {region.what} "
                    f"at {region.gpa:#x}..{region.end - 1:#x}"
                )

    def _where(self) -> tuple[int, int]:
        """The exit that is being handled on this thread, and its vCPU."""
        for vcpu in self._control.state.vcpus:
            if vcpu.on_this_thread and vcpu.ring is not None:
                return vcpu.ring.exits, vcpu.index
        return 0, _NO_VCPU

    def _noted(self, device: Device | LateDevice) -> Device | LateDevice:
        """What to put on a bus for a device, so that the journal has its accesses."""
        journal = self.journal
        if journal is None:
            return device
        if isinstance(device, LateDevice):
            late = device
            return LateDevice(device.name, lambda: journal.noted(late.device), self.lock)
        return journal.noted(device)

    def _break_at(self, address: int, hit: Callable[[int, str], object]) -> Callable[[], None]:
        """Set a breakpoint of the trace's; give what takes it back."""

        def met(vcpu: int, address: int) -> None:
            name = None if self.symbols is None else self.symbols.at(address)
            hit(vcpu, f"vCPU {vcpu}, RIP {address:#x}{f' ({name})' if name else ''}")

        point = self.breakpoints.add(address, met)
        return lambda: self.breakpoints.remove(point)

    def _met_stop(self, vcpu: int, detail: str, pauses: bool) -> None:
        if pauses or self.pause_at_stops or self.onlookers:
            self._control.gate.pause_soon(detail)
        else:
            self._control.state.end(Ending("stopped", vcpu, detail=detail))

    def _catch_up(self) -> None:
        if self.trace is not None:
            self.trace.catch_up()

    def _flush_journal(self) -> None:
        if self.journal is not None:
            with self.lock:
                self.journal.flush()

    def _debug_exit(self, value: int) -> None:
        self._control.state.end(Ending("debug_exit", value=value))

    def _check_bounds(self, timeout: float | None, max_exits: int | None) -> None:
        if self._closed:
            raise LifecycleError("the machine is closed")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout {timeout}: give seconds above 0, or None for no bound")
        if max_exits is not None and (max_exits < 1 or max_exits != int(max_exits)):
            raise ConfigError(
                f"max_exits {max_exits}: give a whole number from 1 on, or None for no bound"
            )

    def _result(self, ending: Ending, before: int, began: float) -> RunResult:
        self._flush_journal()
        exits, seconds = self._control.state.exits - before, time.monotonic() - began
        self.last_result = RunResult(
            ending.reason,
            exits,
            ending.value,
            seconds,
            ending.vcpu,
            ending.detail,
            autopsy(self, ending, exits, seconds),
        )
        return self.last_result


def _accept_size(function: Callable[..., int]) -> Callable[[int], int]:
    """Let an input function leave out the size."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_argcount - hasattr(function, "__self__") == 0:
        return lambda size: function()
    return function
