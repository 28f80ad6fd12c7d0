"""A second machine that goes on from where one is, with memory shared until either writes."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.bus import FunctionPort
from vmm.config import MachineConfig
from vmm.snapshot.capture import held, take_state
from vmm.snapshot.identities import own_settings
from vmm.snapshot.put import put_state
from vmm.snapshot.ram import MemoryImage, freeze, image_regions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine import Machine

__all__ = ["fork"]


def fork(
    machine: Machine,
    *,
    net: Sequence[str] | None = None,
    vsock: str | None = None,
    new_identity: bool = False,
) -> Machine:
    """Make a copy of a machine (`Machine.fork`)."""
    settings = own_settings(machine.settings, net=net, vsock=vsock, new_identity=new_identity)
    config: dict[str, Any] = {name: settings[name] for name in MachineConfig._fields}
    config["cpu"] = ""  # what the vCPUs show is in their state; a template's file may have changed
    with held(machine):
        memory = machine.memory
        fd, offset = freeze(memory)
        ram = tuple(region for region in image_regions(memory) if not region.readonly)
        state = take_state(machine, MemoryImage(fd, offset, ram))
        roms = [(r.gpa, bytes(r.view), r.what) for r in memory if r.kind == "rom"]
        child: Machine = type(machine)(**config, trace=machine.trace is not None)
        try:
            for gpa, data, what in roms:
                child.memory.add_rom(gpa, data, what)
            put_state(child, state, machine.furnish, None, settings)
            _share_functions(machine, child)
        except BaseException:
            child.close()
            raise
    return child


def _share_functions(machine: Machine, child: Machine) -> None:
    """Functions on ports have no state that is ours: both machines call them."""
    for mapping in machine.pio:
        port = mapping.device
        if isinstance(port, FunctionPort) and child.pio.find(mapping.start) is None:
            if port.on_in is not None:
                child.on_in(mapping.start)(port.on_in)
            if port.on_out is not None:
                child.on_out(mapping.start)(port.on_out)
