"""What `monitor COMMAND` does: what GDB's own commands cannot say of a machine.

A command is a method here; its first line of documentation is its help.
"""

from __future__ import annotations

from collections.abc import Callable

from kvm_bindings import constants as c
from vmm.decode import access_line
from vmm.errors import VmmError
from vmm.explain.page_walk import walk
from vmm.gdb.registers import state_of
from vmm.gdb.target import Target

__all__ = ["Monitor"]

_MOST_EXITS = 1000


class Monitor:
    """The commands of one session.

    Args:
        target: the machine.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._machine = target.machine
        self._commands: dict[str, Callable[[str], str]] = {
            name[3:]: getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def run(self, line: str, vcpu: int = 0) -> str:
        """Carry out a command on the vCPU that GDB looks at; what it says, with a newline."""
        self._vcpu = self._target.vcpus[vcpu]
        word, _, rest = line.strip().partition(" ")
        command = self._commands.get(word or "help")
        if command is None:
            return f"no command {word!r}; there are {', '.join(sorted(self._commands))}\n"
        try:
            return command(rest.strip()).rstrip("\n") + "\n"
        except ValueError:
            return f"{word}: {rest.strip()!r} is no number\n"
        except (VmmError, OSError) as error:
            return f"{word}: {error}\n"

    def do_help(self, _: str) -> str:
        """help            this list"""
        return "\n".join(str(command.__doc__) for command in self._commands.values())

    def do_exits(self, count: str) -> str:
        """exits [N]       the last N exits of this vCPU (10), oldest first"""
        machine, wanted = self._machine, int(count or "10", 0)
        seen = self._vcpu.last_exits(_MOST_EXITS)
        found = [event for event in seen if event.reason != c.KVM_EXIT_DEBUG]  # steps of ours
        lines = [access_line(event, machine.pio, machine.mmio) for event in found[-wanted:]]
        return "\n".join(lines) or "no exit has been noted"

    def do_devices(self, name: str) -> str:
        """devices [NAME]  where devices answer; with a name, the registers of one"""
        machine = self._machine
        if name:
            return self._device(name)
        return "\n".join(
            f"{mapping.device.name:16} {bus.name} {mapping.start:#x}..{mapping.end - 1:#x}"
            for bus in (machine.pio, machine.mmio)
            for mapping in bus
        )

    def do_status(self, _: str) -> str:
        """status          the machine, and where each vCPU stands"""
        machine = self._machine
        lines = [
            f"{machine.phase.value}{f', held by {machine.held_by}' if machine.held_by else ''}"
        ]
        for vcpu in machine.vcpus:
            state = state_of(vcpu)
            lines.append(
                f"vCPU {vcpu.index} at {state.location}, {state.mode} mode, ring {state.cpl}, "
                f"paging {state.paging}, {vcpu.exits} exits"
            )
        return "\n".join(lines)

    def do_walk(self, address: str) -> str:
        """walk ADDRESS    the page tables' way to a linear address"""
        state = state_of(self._vcpu)
        return "\n".join(walk(state, self._machine.memory.read, int(address, 0)).lines())

    def do_physical(self, wanted: str) -> str:
        """physical on|off have GDB's addresses be guest-physical, or linear again"""
        if wanted in ("on", "off"):
            self._target.memory.physical = wanted == "on"
        elif wanted:
            return "physical: say on or off"
        return f"addresses are {'guest-physical' if self._target.memory.physical else 'linear'}"

    def do_snapshot(self, path: str) -> str:
        """snapshot FILE   save the whole machine, for 'vmm restore FILE'"""
        if not path:
            return "snapshot: say which file"
        self._machine.snapshot(path).close()
        return f"saved to {path}; let it run on with: vmm restore {path}"

    def do_reset(self, _: str) -> str:
        """reset           back to before the guest's first instruction"""
        self._target.restart()
        return (
            "the guest is back before its first instruction; "
            "gdb reads registers anew after: maintenance flush register-cache"
        )

    def do_explain(self, _: str) -> str:
        """explain         how the run ended, where it has"""
        result = self._target.result
        if result is None:
            return "the guest has not ended"
        return result.report()

    def _device(self, name: str) -> str:
        machine = self._machine
        if name not in machine.devices:
            return f"devices: no {name!r}; there are {', '.join(machine.devices)}"
        from dataclasses import fields, is_dataclass

        with machine.lock:
            device = machine.devices[name]
            save = getattr(device, "save", None)
            if save is None:
                return getattr(device, "cannot_save", "it has no state to show")
            state = save()
        names = [f.name for f in fields(state)] if is_dataclass(state) else list(vars(state))
        return "\n".join(f"{each} = {_shown(getattr(state, each))}" for each in names)


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return value.hex() if isinstance(value, bytes) else str(value)
    return f"{value:#x}"
