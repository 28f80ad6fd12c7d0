"""Tracers: classes of the user's with hooks, each of them optional.

    class Serial:
        device = "com1"             # or several: ("com1", "rtc")

        def w_THR(self, value): ...             # the guest wrote the register THR of com1
        def r_LSR(self, value, exit): ...       # it read LSR, and was given `value`
        def on_exit(self, exit): ...            # any exit (vmm.exits.Exit)
        def on_pio(self, exit): ...             # port I/O
        def on_mmio(self, exit): ...            # memory that is none
        def on_irq(self, gsi, level): ...       # a device drove an interrupt line
        def on_state(self, phase): ...          # the machine's phase (vmm.lifecycle.Phase)

Hooks are called behind the exit, on the vCPU's thread and without the device lock, before the guest
is entered again. One lock is held over all hooks of a machine, so that a tracer needs none. Exits
of a vCPU come in their order; events (lines, phases) between them by their time, those that
come while no vCPU exits at the latest with the next heartbeat, at a pause or at the end of the run.

Which register an access went to is decided by the values that others had when the exit came (DLAB),
also where the access changes them; `value` has the bits that went over the bus, in their
places of the register. Of a string, register hooks are called for every element.

A tracer that raises is detached, and reported in one line. The guest does not notice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from devices.registers import RegisterTable
from kvm_bindings.constants import KVM_EXIT_IO, KVM_EXIT_MMIO
from vmm.errors import ConfigError
from vmm.trace.sight import Access, Sight, Surroundings
from vmm.trace.watch import Tell
from vmm.usercode import line_in

__all__ = ["TracerWatcher"]

_HOOKS = ("on_exit", "on_pio", "on_mmio", "on_irq", "on_state")
_DIRECTIONS = {"r_": False, "w_": True}


class TracerWatcher:
    """A tracer, attached.

    Args:
        tracer: the user's object.
        around: the machine that it is attached to.
        failed: told when a hook raised: this watcher, and the sentence that says so.

    Raises:
        ConfigError: it has no hooks, or one that no device has a register for.
    """

    def __init__(
        self, tracer: object, around: Surroundings, failed: Callable[[TracerWatcher, str], None]
    ) -> None:
        self.tracer = tracer
        self.name = type(tracer).__name__
        self._failed = failed
        self._live = True
        hooks = [name for name in _HOOKS if callable(_get(tracer, name))]
        exits = {name: self._told(name) for name in hooks}
        self._on_exit = exits.get("on_exit")
        self._on_bus = {KVM_EXIT_IO: exits.get("on_pio"), KVM_EXIT_MMIO: exits.get("on_mmio")}
        self.on_irq = self._guarded("on_irq") if "on_irq" in hooks else None
        self.on_state = self._guarded("on_state") if "on_state" in hooks else None
        self._devices = self._device_names()
        self._registers = self._register_hooks(around)
        self.needs_registers = bool(self._registers)
        if not hooks and not self._registers:
            raise ConfigError(
                f"tracer {self.name} has no hooks; give it {', '.join(_HOOKS)}, or device = "
                '"NAME" and r_REGISTER or w_REGISTER'
            )

    def route(self, access: Access) -> Sequence[Tell]:
        """The hooks for exits of a kind, as functions of a `Sight`."""
        calls: list[Tell] = []
        for hook in (self._on_exit, self._on_bus.get(access.reason)):
            if hook is not None:
                calls.append(hook)
        if self._registers and access.size:
            wanted = {
                (device, register): hook
                for (device, register, write), hook in self._registers.items()
                if write == access.write and register in access.candidates(device)
            }
            if wanted:
                calls.append(_given_registers(wanted))
        return calls

    def stop(self) -> None:
        """Call no hook any more."""
        self._live = False

    # -- inside ---------------------------------------------------------------------------

    def _device_names(self) -> tuple[str, ...]:
        named = _get(self.tracer, "device")
        if named is None:
            return ()
        names = (named,) if isinstance(named, str) else named
        if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f'tracer {self.name}: device = {named!r}: give a name, as in "com1"')
        return tuple(names)

    def _register_hooks(
        self, around: Surroundings
    ) -> dict[tuple[str, str, bool], Callable[..., None]]:
        """The hooks of registers, by device, register and direction."""
        tables = {name: self._table(around, name) for name in self._devices}
        found: dict[tuple[str, str, bool], Callable[..., None]] = {}
        for name in dir(self.tracer):
            if name.startswith("on_") and name not in _HOOKS:
                raise ConfigError(
                    f"tracer {self.name} has no use for {name}; hooks are {', '.join(_HOOKS)}"
                )
            register = name[2:]
            if name[:2] not in _DIRECTIONS or not callable(_get(self.tracer, name)):
                continue
            if not tables and register.isupper():
                raise ConfigError(
                    f'tracer {self.name}: {name} of which device? Give it device = "com1"'
                )
            write = _DIRECTIONS[name[:2]]
            owners = [
                device
                for device, table in tables.items()
                if register in table and ("w" if write else "r") in table[register].access
            ]
            if tables and not owners:
                raise ConfigError(self._no_register(name, tables, write))
            for device in owners:
                found[device, register, write] = self._with_exit_or_without(name)
        return found

    def _table(self, around: Surroundings, name: str) -> RegisterTable:
        if name not in around.devices:
            known = ", ".join(around.devices)
            raise ConfigError(f"tracer {self.name}: there is no device {name}; there are {known}")
        table = getattr(around.devices[name], "registers", None)
        if not isinstance(table, RegisterTable):
            raise ConfigError(f"tracer {self.name}: device {name} has no table of registers")
        return table

    def _no_register(self, name: str, tables: dict[str, RegisterTable], write: bool) -> str:
        known = [
            register.name
            for table in tables.values()
            for register in table
            if ("w" if write else "r") in register.access
        ]
        near = get_close_matches(name[2:], known, 1)
        hint = f"did you mean {name[:2]}{near[0]}?" if near else f"there are {', '.join(known)}"
        verb = "written" if write else "read"
        return (
            f"tracer {self.name}: {name}: no register {name[2:]} of {', '.join(tables)} can be "
            f"{verb}; {hint}"
        )

    def _with_exit_or_without(self, name: str) -> Callable[..., None]:
        """A register's hook as a function of value and exit; it may leave out the exit."""
        hook = self._guarded(name)
        try:
            inspect.signature(_get(self.tracer, name)).bind(0, None)
        except TypeError:
            return lambda value, exit: hook(value)
        except ValueError:  # a builtin that does not say what it takes
            pass
        return hook

    def _guarded(self, name: str) -> Callable[..., None]:
        """A hook that never raises."""
        function = _get(self.tracer, name)

        def hook(*arguments: Any) -> None:
            if not self._live:
                return
            try:
                function(*arguments)
            except Exception as error:
                self._raised(name, function, error)

        return hook

    def _told(self, name: str) -> Tell:
        """A hook of exits, which never raises."""
        function = _get(self.tracer, name)

        def tell(sight: Sight) -> None:
            if not self._live:
                return
            try:
                function(sight.exit)
            except Exception as error:
                self._raised(name, function, error)

        return tell

    def _raised(self, name: str, function: Any, error: Exception) -> None:
        self._live = False
        self._failed(self, self._complaint(name, function, error))

    def _complaint(self, name: str, function: Any, error: Exception) -> str:
        code = getattr(function, "__code__", None)
        path = getattr(code, "co_filename", "")
        line = line_in(path, error.__traceback__)
        where = "" if line is None else f" at {path}:{line}"
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        text = f"tracer {self.name} is detached: {name} raised{where}: {said}"
        return " ".join(text.split())


def _get(tracer: object, name: str) -> Any:
    return getattr(tracer, name, None)


def _given_registers(hooks: dict[tuple[str, str], Callable[..., None]]) -> Tell:
    def tell(sight: Sight) -> None:
        for device, register, value in sight.registers:
            hook = hooks.get((device, register.name))
            if hook is not None:
                hook(value, sight.exit)

    return tell
