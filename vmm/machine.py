"""A machine: guest memory, buses, vCPUs and devices, wired together.

A machine starts bare: memory, vCPUs, and a debug-exit port that gives way to anything mapped
over it. `vmm.board` adds what a PC has; `vmm.launch` makes a machine around an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial

import kvm_bindings
from vmm.backplane import Backplane
from vmm.config import MachineConfig
from vmm.endings import Ending
from vmm.errors import ConfigError, DeviceFault, FaultChoice, LifecycleError
from vmm.exits import Exit
from vmm.hardware import Hardware
from vmm.host.console import Console
from vmm.late import LateDevice
from vmm.layout import parse_size
from vmm.lifecycle import Phase
from vmm.loader.apply import place_image
from vmm.loader.plan import BootPlan, Mode, Start
from vmm.machine_devices import MachineDevices
from vmm.machine_holds import MachineHolds
from vmm.machine_looks import MachineLooks
from vmm.machine_runs import MachineRuns
from vmm.machine_states import MachineStates
from vmm.machine_trace import connect_trace
from vmm.memory import GuestMemory
from vmm.notes import Notes
from vmm.result import RunResult
from vmm.run import RunControl
from vmm.trace.trace import Trace
from vmm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec, TypeVar
    from uuid import UUID

    from devices.protocols import Device, Pausable
    from vmm.bios.dispatch import Bios
    from vmm.breakpoints import Breakpoints
    from vmm.gdb.server import Debugger
    from vmm.host.events import HostEvents
    from vmm.snapshot.reset import Reset
    from vmm.symbols import Symbols
    from vmm.trace.recorder import Journal
    from vmm.virtio.place import VirtioPlace

    InFunction = TypeVar("InFunction", bound=Callable[[int], int])
    P = ParamSpec("P")
    AnyDevice = TypeVar("AnyDevice", bound=Device)
    OutFunction = TypeVar("OutFunction", bound=Callable[[int, int], None])

__all__ = ["Machine"]


class Machine(MachineDevices, MachineHolds, MachineLooks, MachineStates):
    """A virtual machine.

    Args:
        memory: RAM, in bytes or as "2M".
        cpus: how many vCPUs; more than one needs `irqchip`.
        irqchip: let KVM emulate PIC, IOAPIC, local APICs and the PIT. Without it the machine has
            no interrupts, and HLT ends the run.
        cpu: what guests see of the processor: "-cx16,-xsave", "x86-64-v2", or both.
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
        config = MachineConfig(
            parse_size(memory, what="memory"), cpus, irqchip, cpu, strict, huge_pages, debug_exit
        )
        layout = config.layout()
        if rip and not trace:
            raise ConfigError("rip=True: RIP is noted in the trace; do without trace=False")
        if journal and not isinstance(trace, str):
            raise ConfigError("a journal is kept in a trace file; give trace=FILE as well")
        self.irqchip = irqchip
        self.trace = Trace(cpus, None if trace is True else trace) if trace else None
        """What the vCPUs did last, or all that they did; None where nothing is noted."""
        self._backplane = Backplane(self._open, strict=strict, trace=self.trace)
        self.pio, self.mmio = self._backplane.pio, self._backplane.mmio
        self.devices = self._backplane.devices
        self.lock = self._backplane.lock
        """Held while a device is called."""
        self.closers: list[Callable[[], None]] = []
        """Called, last first, when the machine is closed."""
        self.pausables: list[Pausable] = []
        """What works beside the vCPUs, and stands still while the machine's state is taken or
        put."""
        self.notes = Notes()
        """What befell the machine that no exit tells."""
        self.complete = True
        """Not while a snapshot is being put into the machine: its parts do not fit together yet."""
        self.virtio: list[VirtioPlace] = []
        """The virtio devices, in the order in which they were added."""
        self.settings: dict[str, object] = dict(vars(config))
        """What the machine was made with, as values that JSON has."""
        self.furnish: Callable[[Machine, Callable[[bytes], None] | None], None] | None = None
        """Gives another machine the devices that this one has, where that is known."""
        self.plan: BootPlan | None = None
        """What the machine was booted from."""
        self.bios: Bios | None = None
        """The Python BIOS, where a boot sector runs on it."""
        self.started: Start | None = None
        """How the first vCPU was last set to start."""
        self.symbol_source: Callable[[], Symbols | None] = lambda: None
        """Reads `symbols` when somebody first asks for them."""
        self.pause_at_stops = False
        """At a stop (`Trace.stop_at`) the run is paused; otherwise it returns."""
        self._reset: Reset | None = None
        self.onlookers: set[object] = set()
        """Screens that see the machine: while there are any, stops pause the run as well."""
        self.debugger: Debugger | None = None
        """What lets GDB attach, where somebody asked for it."""
        self._control = RunControl()
        self._runs = MachineRuns(self, self._control, self._backplane)
        if self.trace is not None:
            connect_trace(self.trace, self, self._control)
            if journal:
                from vmm.trace.recorder import Journal

                noting = Journal(self.trace.add_journal, self._control.state.current_exit)
                self._backplane.journal = noting
        self._kvm = kvm
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
                ports = range(debug_exit, debug_exit + 4)
                late = LateDevice("debug-exit", self._make_debug_exit, self.lock)
                self.add_device(late, pio=ports, default=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
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
    def hardware(self) -> Hardware:
        """What KVM holds of the machine."""
        return self._open()

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The virtual processors; the first one is the one that boots."""
        return tuple(self._hardware.vcpus)

    @cached_property
    def console(self) -> Console:
        """The guest's console, where the machine has a device that writes to one."""
        return Console(lock=self.lock)

    @cached_property
    def breakpoints(self) -> Breakpoints:
        """Breakpoints at linear addresses, for debuggers; `Trace.stop_at` is simpler."""
        from vmm.breakpoint_kinds import kinds_here
        from vmm.breakpoints import Breakpoints

        return Breakpoints(
            self.vcpus,
            self.memory,
            kinds=partial(kinds_here, self._kvm),
            step_flags=self._runs.stepper.flags,
            in_guest=self._control.in_guest,
        )

    @cached_property
    def events(self) -> HostEvents:
        """The thread of host events; it starts when something is first asked of it."""
        from vmm.host.events import HostEvents

        events = HostEvents(self.fail)
        self.closers.append(events.close)
        return events

    @property
    def journal(self) -> Journal | None:
        """What devices are given and what they do, where that is kept."""
        return self._backplane.journal

    @property
    def last_result(self) -> RunResult | None:
        """How the last run ended; None while there is one."""
        return self._runs.last

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

    @property
    def on_death(self) -> Callable[[Ending], bool] | None:
        """Asked when the guest has died, for debuggers: True keeps the run from ending, if it was
        held (`pause_soon`). `end` ends it with the same ending later, and `result_of` says what
        that comes to. It runs on the vCPU's thread."""
        return self._control.on_death

    @on_death.setter
    def on_death(self, ask: Callable[[Ending], bool] | None) -> None:
        self._control.on_death = ask

    def result_of(self, ending: Ending) -> RunResult:
        """What the run in progress comes to, if it ends so."""
        return self._runs.result_of(ending)

    # -- running --------------------------------------------------------------------------

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

    def run(
        self, timeout: float | None = 60.0, max_exits: int | None = None, *, held: bool = False
    ) -> RunResult:
        """Run the guest until it ends or a bound is reached; a run can be followed by another.

        Args:
            timeout: seconds; None for no bound.
            max_exits: exits, over all vCPUs; None for no bound. A run on several vCPUs may take
                a few more, one a vCPU at most.
            held: begin the run paused; `resume`, from another thread, lets it go.

        Raises:
            DeviceFault: a device model or a function of yours raised.
            KeyboardInterrupt: Ctrl-C; the machine is paused and can run on.
        """
        self._open()
        return self._runs.run(timeout, max_exits, held=held)

    def explain(self) -> RunResult | None:
        """How the last run ended, with what the guest was doing also where its exits ran out or
        `stop` ended it. Between runs; deaths and timeouts are explained without."""
        return self._runs.explain()

    def exits(self, timeout: float | None = 60.0, max_exits: int | None = None) -> Iterator[Exit]:
        """Run the guest and iterate over its exits, each after it was handled.

        The guest stands still between two of them, and stops when the iteration is left.
        `last_result` then says how the run ended.
        """
        self._open()
        yield from self._runs.exits(timeout, max_exits)

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
        self._open()
        return self._runs.step(vcpu)

    def press_power_button(self) -> bool:
        """Press the power button, where the guest listens to it (ACPI's PWRBTN_EN), so that it
        shuts itself down; returns whether it listens."""
        from vmm.power import press_power_button

        return press_power_button(self)

    def stop(self) -> None:
        """End the run in progress, from any thread; it returns with the reason "stopped"."""
        self._control.state.end(Ending("stopped"))

    def end(self, ending: Ending) -> None:
        """End the run in progress for a reason of a device: poweroff, reset, debug_exit."""
        self._control.state.end(ending)

    def die(self, ending: Ending) -> None:
        """End the run in progress, on a vCPU's thread, for a death that a device was told of;
        `on_death` is asked."""
        self._control.die(ending)

    def fail(self, error: BaseException) -> None:
        """End the run in progress because something of the machine's raised, on any thread; the
        run raises it again."""
        self._control.state.fail(error)

    @property
    def generation_id(self) -> UUID | None:
        """What tells the guest that it is a copy: another in each machine that is made of a
        snapshot, and in each fork. None where the guest was told of none."""
        from vmm.snapshot.generation import generation_id

        return generation_id(self)

    # -- closing ---------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the run, if there is one, and give everything back. May be called twice.

        Raises:
            LifecycleError: called by a device, which would wait for itself.
        """
        if self._closed:
            return
        self._control.shut()
        end = None
        result = self.last_result
        if result is not None:  # while there is memory to look at
            if result.died:
                result.report()
            if self.trace is not None and self.trace.path is not None:
                end = result.facts()
        self._closed = True
        for close in reversed(self.closers):
            close()
        self._hardware.close()
        self._control.state.close()
        self._backplane.flush_journal()
        if self.phase is not Phase.STOPPED:
            self._control.state.lifecycle.to(Phase.STOPPED)
        self._runs.catch_up()
        if self.trace is not None:
            self.trace.close(end)

    # -- inside ---------------------------------------------------------------------------

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

    def _make_debug_exit(self) -> Device:
        from devices.debug_exit import DebugExit

        return self.make(DebugExit, on_exit=self._debug_exit)

    def _debug_exit(self, value: int) -> None:
        self._control.state.end(Ending("debug_exit", value=value))
