"""A vCPU without KVM, which follows a script, and rigs that run one or several of them."""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kvm_bindings import recording
from kvm_bindings.exit_ring import ExitRing, ring_size
from kvm_bindings.structs import kvm_regs, kvm_sregs
from vmm.bus import Bus
from vmm.endings import Ending
from vmm.playback.player import Player
from vmm.playback.result import ReplayResult
from vmm.run import RunControl
from vmm.trace.journal import Entry, entries
from vmm.trace.recorder import Journal
from vmm.vcpu import Vcpu

IMMEDIATE_EXIT = 1
DATA = 0x1000
"""Where the data of port I/O lies in the page, as in the kernel's."""
IO, MMIO = 2, 6
CAPACITY = 1 << 12


def new_ring() -> ExitRing:
    return ExitRing(memoryview(bytearray(ring_size(CAPACITY))), CAPACITY)


PATIENCE = 20.0

Step = int | Callable[[Any], int]


def until(condition):
    """Wait for something that another thread brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.0005)


class ScriptedVcpu:
    """Stands in for `kvm_bindings.Vcpu`.

    A step of the script is an exit reason, a negative errno, or a function of this object that
    fills the page and returns one of them. Like KVM it first finishes the exit before (what the
    guest read goes to `given`), and returns -EINTR where `immediate_exit` is set. Behind its
    script the guest loops for ever, and a heartbeat interrupts it every millisecond.
    """

    def __init__(self, *script: Step, index: int = 0) -> None:
        self.index = index
        self.page = memoryview(bytearray(0x3000))
        self.script = deque(script)
        self.rest: deque[Step] = deque()
        """More exits of the instruction that is being finished: these come in any case."""
        self.entries = 0
        self.sent_back = 0
        """How often `immediate_exit` kept it from the guest."""
        self.given: list[bytes] = []
        self.regs = kvm_regs()
        self.sregs = kvm_sregs()
        self.stored: list[kvm_regs | kvm_sregs] = []
        self.mp_state = 0
        self.closed = False
        self._reading: tuple[int, int] | None = None

    def runner(self, ring: ExitRing | None) -> Any:
        if ring is None:
            return SimpleNamespace(enter=self.enter, finish=lambda: None, run=None, exits=0)
        made: Any = recording.Recorder(self.enter, self.index, memoryview(self.page), ring)
        made.run, made.exits = None, 0
        return made

    def enter(self) -> int:
        self.entries += 1
        if self._reading is not None:
            start, size = self._reading
            self._reading = None
            self.given.append(bytes(self.page[start : start + size]))
        if self.rest:
            return self._take(self.rest.popleft())
        if self.page[IMMEDIATE_EXIT]:
            self.sent_back += 1
            time.sleep(0.0005)  # KVM_RUN lets other threads of Python go on
            return -errno.EINTR
        if not self.script:
            time.sleep(0.001)
            return -errno.EINTR
        return self._take(self.script.popleft())

    def _take(self, step: Step) -> int:
        reason = step if isinstance(step, int) else step(self)
        if reason >= 0:
            self.page[8:12] = reason.to_bytes(4, "little")
        return reason

    def get_mp_state(self) -> int:
        return self.mp_state

    def get_regs(self) -> kvm_regs:
        return kvm_regs.from_buffer_copy(self.regs)

    def set_regs(self, regs: kvm_regs) -> None:
        self.stored.append(regs)
        self.regs = regs

    def get_sregs(self) -> kvm_sregs:
        return kvm_sregs.from_buffer_copy(self.sregs)

    def set_sregs(self, sregs: kvm_sregs) -> None:
        self.stored.append(sregs)
        self.sregs = sregs

    def close(self) -> None:
        self.closed = True

    # -- steps ----------------------------------------------------------------------------

    @staticmethod
    def out(port: int, value: int, size: int = 1) -> Step:
        return ScriptedVcpu.outs(port, value.to_bytes(size, "little"), size)

    @staticmethod
    def outs(port: int, data: bytes, size: int = 1) -> Step:
        def step(self: ScriptedVcpu) -> int:
            struct.pack_into("<BBHIQ", self.page, 32, 1, size, port, len(data) // size, DATA)
            self.page[DATA : DATA + len(data)] = data
            return IO

        return step

    @staticmethod
    def ins(port: int, size: int = 1, count: int = 1) -> Step:
        def step(self: ScriptedVcpu) -> int:
            struct.pack_into("<BBHIQ", self.page, 32, 0, size, port, count, DATA)
            self.page[DATA : DATA + 0x1000] = bytes([0xCC]) * 0x1000
            self._reading = (DATA, size * count)
            return IO

        return step

    @staticmethod
    def store(gpa: int, data: bytes) -> Step:
        def step(self: ScriptedVcpu) -> int:
            struct.pack_into("<Q8sIB", self.page, 32, gpa, data, len(data), 1)
            return MMIO

        return step

    @staticmethod
    def load(gpa: int, size: int) -> Step:
        def step(self: ScriptedVcpu) -> int:
            struct.pack_into("<Q8sIB", self.page, 32, gpa, bytes([0xCC]) * 8, size, 0)
            self._reading = (40, size)
            return MMIO

        return step

    @staticmethod
    def words(reason: int, form: str, *values: int) -> Step:
        """An exit whose part of the page is `values`, packed as `form`."""

        def step(self: ScriptedVcpu) -> int:
            struct.pack_into(form, self.page, 32, *values)
            return reason

        return step


class Recorder:
    """A device that remembers what it was asked and answers with the byte lanes' numbers."""

    def __init__(self, name="recorder"):
        self.name = name
        self.log = []

    def read(self, offset, size):
        self.log.append(("r", offset, size))
        return int.from_bytes(bytes(0xA0 + lane for lane in range(size)), "little")

    def write(self, offset, size, value):
        self.log.append(("w", offset, size, value))

    def reset(self):
        self.log.clear()


class Control:
    """Answers `interrupted` from a list; when the list is used up it says to leave."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0
        self.flag_seen = []
        self.choices = []
        self.faults = []

    def interrupted(self, vcpu):
        self.asked += 1
        self.flag_seen.append(vcpu.kvm.page[IMMEDIATE_EXIT])
        return self.answers.pop(0) if self.answers else True

    def device_failed(self, vcpu, fault):
        self.faults.append(fault)
        return self.choices.pop(0) if self.choices else "raise"


class VcpuRig:
    """A vCPU on a script, with a device on ports 0x10..0x1F and on addresses 0xD0000000..."""

    def __init__(self, kvm, device=None, *, strict=False, irqchip=False, answers=(), ring=True):
        self.kvm = kvm
        self.device = device or Recorder()
        self.pio = Bus("port", 0x10000, strict=strict)
        self.mmio = Bus("MMIO", 1 << 52, strict=strict)
        self.pio.map(range(0x10, 0x20), self.device)
        self.mmio.map(range(0xD000_0000, 0xD000_1000), self.device)
        self.lock = threading.RLock()
        self.control = Control(*answers)
        self.vcpu = Vcpu(
            kvm,
            pio=self.pio,
            mmio=self.mmio,
            lock=self.lock,
            control=self.control,
            irqchip=irqchip,
            ring=new_ring() if ring else None,
        )


class Port:
    """A device that calls a function for each write."""

    name = "port"

    def __init__(self, function):
        self.function = function
        self.written = []

    def read(self, offset, size):
        return 0

    def write(self, offset, size, value):
        self.written.append(value)
        self.function(value)

    def reset(self):
        pass


class RunRig:
    """A RunControl over scripted vCPUs, with a device at port 0x10."""

    def __init__(self, *kvms, on_write=lambda value: None, irqchip=False):
        self.kvms = kvms
        self.control = RunControl()
        self.port = Port(on_write)
        pio, lock = Bus("port", 0x10000), threading.RLock()
        pio.map(range(0x10, 0x11), self.port)
        mmio = Bus("MMIO", 1 << 52)
        self.vcpus = [
            Vcpu(
                kvm,
                pio=pio,
                mmio=mmio,
                lock=lock,
                control=self.control,
                irqchip=irqchip,
                ring=new_ring(),
            )
            for kvm in kvms
        ]
        self.control.state.vcpus = self.vcpus
        self._outcome = []
        self._thread = None

    until = staticmethod(until)

    @property
    def phase(self):
        return self.control.state.lifecycle.phase

    def start(self, timeout=PATIENCE, max_exits=None):
        """Run on a thread, until the guest is seen to run."""
        before = [kvm.entries for kvm in self.kvms]

        def work():
            try:
                self._outcome.append(self.control.run(timeout, max_exits))
            except BaseException as error:
                self._outcome.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        until(lambda: all(k.entries > b for k, b in zip(self.kvms, before, strict=True)))

    def finish(self):
        """The ending, or the exception, of the run on the thread."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the run does not end"
        return self._outcome.pop()

    def runs_on(self):
        """Whether the guest is entered again and again."""
        before = self.kvms[0].entries
        until(lambda: self.kvms[0].entries > before + 3)
        return True


@pytest.fixture(scope="session")
def within() -> Callable[..., Any]:
    """Call a function on a thread of its own and fail, instead of hanging, if it hangs."""

    def call(function: Callable[[], Any], seconds: float = 10.0) -> Any:
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:
                outcome.append((None, error))

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(seconds)
        assert outcome, "it hangs"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return call


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedVcpu]:
    """The class: `scripted(scripted.out(0x80, 1), KVM_EXIT_HLT)`."""
    return ScriptedVcpu


@pytest.fixture(scope="session")
def rig(scripted):
    """One vCPU on a script: `rig(scripted.out(0x10, 1), KVM_EXIT_HLT)`."""

    def make(*script, index=0, **options):
        return VcpuRig(scripted(*script, index=index), **options)

    return make


@pytest.fixture
def several():
    """A machine's run control over vCPUs, one for each script, or ready-made."""
    made = []

    def make(*scripts, **options):
        kvms = [
            script if isinstance(script, ScriptedVcpu) else ScriptedVcpu(*script, index=number)
            for number, script in enumerate(scripts)
        ]
        made.append(RunRig(*kvms, **options))
        return made[-1]

    yield make
    for each in made:
        each.control.state.end(Ending("stopped"))


@pytest.fixture
def alone(several):
    """A machine's run control over one vCPU on a script."""
    return lambda *script, **options: several(script, **options)


class Tape:
    """A journal in memory: devices recorded without a machine, and played again."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, bytes]] = []
        self.exit = (7, 0)
        self.journal = Journal(self._write, lambda: self.exit)

    def _write(self, first: int, data: bytes) -> None:
        self.chunks.append((first, data))

    def entries(self) -> list[Entry]:
        self.journal.flush()
        return [entry for _, data in self.chunks for entry in entries(data)]

    def play(self, *, only: str | None = None, **overrides: Callable[..., Any]) -> ReplayResult:
        player = Player(iter(self.entries()[1:]), overrides=overrides, only=only)
        player.play()
        player.check_names()
        return player.result()


@pytest.fixture
def tape() -> Tape:
    return Tape()
