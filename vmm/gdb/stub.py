"""What GDB asks for, packet by packet.

GDB's threads are the vCPUs, numbered from 1. All stand or all go on, except for steps, which one
vCPU makes alone.

Spec: GDB manual, "Remote Protocol: Packets", "Stop Reply Packets", "General Query Packets".
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vmm.cpustate import CpuState
from vmm.errors import VmmError
from vmm.gdb import registers
from vmm.gdb.fields import bounds_of, index_of, point_of, range_of
from vmm.gdb.monitor import Monitor
from vmm.gdb.packets import LONGEST, escape, from_hex
from vmm.gdb.points import Point
from vmm.gdb.target import Ended, Going, Stop, Target
from vmm.gdb.target_xml import LAYOUTS, Layout, layout_of
from vmm.vcpu import Vcpu

__all__ = ["Stub"]

_BAD, _NO_MEMORY, _NO_THREAD, _NO_ROOM = b"E16", b"E0e", b"E03", b"E1c"
"""EINVAL, EFAULT, ESRCH and ENOSPC, as GDB's users read them."""

_MOST_READ = LONGEST // 2 - 16
_READ_XML = re.compile(rb"target\.xml:([0-9a-f]{1,8}),([0-9a-f]{1,8})")
_MODES = {16: "16-bit", 32: "32-bit", 64: "64-bit"}


class Stub:
    """One debugger's session.

    Args:
        target: the machine.
        send: sends a packet with this content.
    """

    def __init__(self, target: Target, send: Callable[[bytes], None]) -> None:
        self.closing = False
        """The connection is to be closed when what was sent is sent."""
        self.acknowledged = True
        """Whether packets are acknowledged."""
        self._target = target
        self._send = send
        self._monitor = Monitor(target)
        self._thread = 0
        """The vCPU that registers and memory are of."""
        self._layout: Layout = LAYOUTS[64]
        """The description that GDB has read last."""
        self._told = 0
        self._lasting = False
        """GDB's connection is to outlive the guest (extended mode)."""
        self._killed = False
        self._names = {
            b"?": self._why, b"g": self._read_registers, b"G": self._write_registers,
            b"p": self._read_register, b"P": self._write_register, b"m": self._read_memory,
            b"M": self._write_memory, b"X": self._write_binary, b"Z": self._add_point,
            b"z": self._remove_point, b"H": self._choose_thread, b"T": self._is_alive,
            b"c": self._continue, b"C": self._continue, b"s": self._step, b"S": self._step,
            b"b": self._back, b"D": self._detach, b"k": self._kill, b"!": self._extend,
            b"R": self._restart, b"q": self._query, b"Q": self._set, b"v": self._verb,
        }  # fmt: skip

    # -- from the server ------------------------------------------------------------------

    def packet(self, content: bytes) -> None:
        """Do what a packet asks for. Whatever it holds, there is at most an error to answer."""
        handle = self._names.get(content[:1])
        try:
            answer = b"" if handle is None else handle(content[1:])
        except (VmmError, ValueError, OSError):
            answer = _BAD
        if answer is not None:
            self._send(answer)

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self._target.running:
            self._target.interrupt()

    def advance(self) -> None:
        """Have the guest go on, and tell GDB when it has come to a stop."""
        if not self._target.running:
            return
        came = self._target.advance()
        if came is None:
            self._tell_notes()
            return
        if isinstance(came, Stop):
            self._thread = came.vcpu
            self._tell_mode()
        self._tell_notes()
        if isinstance(came, Ended):
            self._send(b"W%02x" % (came.status & 0xFF))
        else:
            self._send(self._why(b""))

    # -- why it stands --------------------------------------------------------------------

    def _why(self, _: bytes) -> bytes:
        stop = self._target.last
        point = "" if stop.point is None else _POINTS[stop.point.type](stop.point)
        if stop.begins:
            point = "replaylog:begin;"
        return f"T{stop.signal:02x}thread:{stop.vcpu + 1:x};{point}".encode()

    def _tell_notes(self) -> None:
        while self._target.notes:
            self._console(f"vmm: {self._target.notes.popleft()}\n")

    def _tell_mode(self) -> None:
        """Say when the mode is not that of the description that GDB has."""
        now = layout_of(registers.state_of(self._vcpu)).bits
        if now not in (self._layout.bits, self._told):
            self._target.notes.append(
                f"{_MODES[now]} code; gdb shows it as {_MODES[self._layout.bits]} until "
                "'unset tdesc filename'"
            )
        self._told = now

    def _console(self, text: str) -> None:
        for start in range(0, len(text), 1000):
            self._send(b"O" + text[start : start + 1000].encode("utf-8", "replace").hex().encode())

    # -- registers and memory -------------------------------------------------------------

    @property
    def _vcpu(self) -> Vcpu:
        return self._target.vcpus[self._thread]

    def _read_registers(self, _: bytes) -> bytes:
        return registers.pack(self._layout, registers.read(self._vcpu)).encode()

    def _write_registers(self, data: bytes) -> bytes:
        wanted = registers.unpack(self._layout, from_hex(data.replace(b"x", b"0")))
        values = registers.read(self._vcpu)
        for name, value in wanted.items():
            # Some go with others: what is as it was is left alone.
            if value != values[name]:
                registers.write(self._vcpu, name, value)
                self._target.history.changed()
        return b"OK"

    def _read_register(self, text: bytes) -> bytes:
        register = self._layout.registers[index_of(text, len(self._layout.registers))]
        return registers.pack_one(register, registers.read(self._vcpu)[register.name]).encode()

    def _write_register(self, text: bytes) -> bytes:
        number, _, digits = text.partition(b"=")
        register = self._layout.registers[index_of(number, len(self._layout.registers))]
        data = from_hex(digits)
        if len(data) != register.size:
            return _BAD
        done = registers.write(self._vcpu, register.name, int.from_bytes(data, "little"))
        self._target.history.changed()
        return b"OK" if done else _BAD

    def _read_memory(self, text: bytes) -> bytes:
        address, size = range_of(text)
        data = self._target.memory.read(self._state, address, min(size, _MOST_READ))
        return data.hex().encode() if data or not size else _NO_MEMORY

    def _write_memory(self, text: bytes) -> bytes:
        where, _, digits = text.partition(b":")
        return self._write(where, from_hex(digits))

    def _write_binary(self, content: bytes) -> bytes:
        where, _, data = content.partition(b":")
        return self._write(where, data)

    def _write(self, where: bytes, data: bytes) -> bytes:
        address, size = range_of(where)
        if size != len(data):
            return _BAD
        if data:  # GDB asks with none whether X is known
            self._target.history.changed()
        return b"OK" if self._target.memory.write(self._state, address, data) else _NO_MEMORY

    @property
    def _state(self) -> CpuState:
        return registers.state_of(self._vcpu)

    # -- points ---------------------------------------------------------------------------

    def _add_point(self, text: bytes) -> bytes:
        point = point_of(text)
        # Processors have no watchpoints for reads alone; GDB then asks for one for accesses.
        if point is None or point.type == 3:
            return b""
        return b"OK" if self._target.points.add(point) else _NO_ROOM

    def _remove_point(self, text: bytes) -> bytes:
        point = point_of(text)
        if point is None:
            return b""
        self._target.points.remove(point)
        return b"OK"

    # -- threads --------------------------------------------------------------------------

    def _choose_thread(self, text: bytes) -> bytes:
        chosen = self._thread_of(text[1:])
        if text[:1] == b"g" and chosen is not None:
            self._thread = chosen
        return b"OK"

    def _is_alive(self, text: bytes) -> bytes:
        self._thread_of(text)
        return b"OK"

    def _thread_of(self, text: bytes) -> int | None:
        """A vCPU's number, or None for any or all.

        Raises:
            ValueError: there is no such thread.
        """
        if text in (b"0", b"-1", b""):
            return None
        return index_of(text, len(self._target.vcpus) + 1) - 1

    # -- going on -------------------------------------------------------------------------

    def _continue(self, text: bytes) -> None:
        self._go_to(text)
        self._target.go(Going())

    def _step(self, text: bytes) -> None:
        self._go_to(text)
        self._target.go(Going(self._thread, steps=True))

    def _back(self, text: bytes) -> bytes | None:
        """`bs` and `bc`. Where there is no way back GDB is told that it begins here, and the user
        why: an error would be a stop like another, from which GDB goes on."""
        if text not in (b"s", b"c"):
            return b""
        self._target.go(Going(self._thread, text == b"s", back=True))
        return None

    def _go_to(self, text: bytes) -> None:
        """`c ADDR`, or `C SIGNAL;ADDR`. Signals are nothing to a processor."""
        address = text.rpartition(b";")[2] if b";" in text or len(text) != 2 else b""
        if address:
            registers.write(self._vcpu, "rip", int(address, 16))
            self._target.history.changed()

    def _resume(self, actions: bytes) -> bytes | None:
        """vCont: the first action that fits a thread is its. Of threads that step the first does
        so; the others stand meanwhile."""
        done: set[int] = set()
        going: Going | None = None
        every = set(range(len(self._target.vcpus)))
        for action in actions.split(b";"):
            what, _, thread = action.partition(b":")
            chosen = self._thread_of(thread)
            here = (every if chosen is None else {chosen}) - done
            done |= here
            if not here or (going is not None and going.steps):
                continue
            if what[:1] in (b"s", b"S", b"r"):
                vcpu = self._thread if self._thread in here else min(here)
                start, end = bounds_of(what[1:]) if what[:1] == b"r" else (0, 0)
                going = Going(vcpu, True, start, end)
            elif what[:1] in (b"c", b"C"):
                alone = len(every) > 1 and chosen is not None
                going = Going(chosen if alone and going is None else None)
            else:
                return _BAD
        if going is None:
            return _BAD
        self._target.go(going)
        return None

    def _detach(self, _: bytes) -> None:
        self._target.release()
        self._send(b"OK")
        self.closing = True

    def _kill(self, _: bytes) -> None:
        self._target.kill()
        self.closing = True

    def leave(self) -> None:
        """GDB has gone."""
        if self._killed:
            self._target.kill()

    def _extend(self, _: bytes) -> bytes:
        self._lasting = True
        return b"OK"

    def _restart(self, _: bytes) -> bytes | None:
        """Begin anew. `R` has no answer but where it cannot be."""
        try:
            self._target.restart()
        except VmmError as error:
            self._console(f"vmm: {error}\n")
            return _BAD
        self._killed, self._thread = False, 0
        return None

    def _run(self) -> bytes:
        """`vRun`, whatever program it names: there is the guest."""
        return self._restart(b"") or self._why(b"")

    # -- queries --------------------------------------------------------------------------

    def _query(self, text: bytes) -> bytes | None:
        name, _, rest = text.partition(b":")
        if text.startswith(b"Rcmd,"):
            return self._command(text[5:])
        if text.startswith(b"ThreadExtraInfo,"):
            return self._describe_thread(text[16:])
        match name:
            case b"Supported":
                return (
                    f"PacketSize={LONGEST:x};QStartNoAckMode+;qXfer:features:read+;"
                    "vContSupported+;swbreak+;hwbreak+;ReverseStep+;ReverseContinue+"
                ).encode()
            case b"Xfer" if rest.startswith(b"features:read:"):
                return self._description(rest[14:])
            case b"fThreadInfo":
                return b"m" + b",".join(b"%x" % (n + 1) for n in range(len(self._target.vcpus)))
            case b"sThreadInfo":
                return b"l"
            case b"C":
                return b"QC%x" % (self._thread + 1)
            case b"Attached":
                return b"1"
            case b"qemu.PhyMemMode":
                return b"1" if self._target.memory.physical else b"0"
        return b""

    def _set(self, text: bytes) -> bytes | None:
        name, _, rest = text.partition(b":")
        if name == b"StartNoAckMode":
            self._send(b"OK")
            self.acknowledged = False
            return None
        if name == b"qemu.PhyMemMode":
            self._target.memory.physical = rest == b"1"
            return b"OK"
        return b""

    def _verb(self, text: bytes) -> bytes | None:
        if text == b"Cont?":
            return b"vCont;c;C;s;S;r"
        if text.startswith(b"Cont;"):
            return self._resume(text[5:])
        if text.startswith(b"Kill"):
            self._send(b"OK")
            if self._lasting:  # `run` may follow
                self._killed = True
                return None
            self._target.kill()
            self.closing = True
            return None
        if text.startswith(b"Run;"):
            return self._run()
        return b""  # vMustReplyEmpty, and all that is not known

    def _description(self, text: bytes) -> bytes:
        asked = _READ_XML.fullmatch(text)
        if asked is None:
            return b"E00"
        start, size = (int(part, 16) for part in asked.groups())
        if start == 0:
            self._layout = layout_of(self._state)
            self._told = self._layout.bits
        xml = self._layout.xml().encode()
        piece = xml[start : start + min(size, _MOST_READ)]
        return (b"l" if start + len(piece) >= len(xml) else b"m") + escape(piece)

    def _describe_thread(self, text: bytes) -> bytes:
        chosen = self._thread_of(text)
        vcpu = self._target.vcpus[chosen or 0]
        state = registers.state_of(vcpu)
        return f"vCPU {vcpu.index}, {state.mode} mode, ring {state.cpl}".encode().hex().encode()

    def _command(self, digits: bytes) -> bytes:
        line = from_hex(digits).decode("utf-8", "replace")
        self._console(self._monitor.run(line, self._thread))
        return b"OK"


_POINTS: dict[int, Callable[[Point], str]] = {
    0: lambda point: "swbreak:;",
    1: lambda point: "hwbreak:;",
    2: lambda point: f"watch:{point.address:x};",
    4: lambda point: f"awatch:{point.address:x};",
}
