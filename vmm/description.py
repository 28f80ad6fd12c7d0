"""What a machine is, as plain data: what a trace file says of the machine that wrote it.

Registers are in it by name and bit field, so that whoever reads the file needs neither the devices'
modules nor KVM.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.registers import RegisterTable
from vmm.kvm import backend
from vmm.trace.tables import table_to_data

if TYPE_CHECKING:
    from vmm.bus import Bus
    from vmm.machine import Machine

__all__ = ["describe_machine"]


def describe_machine(machine: Machine) -> dict[str, Any]:
    """Describe a machine: versions, host, configuration, the devices by address, and their tables
    of registers by name."""
    plan = machine.plan
    config: dict[str, Any] = dict(machine.settings)
    if plan is not None:
        config["format"] = plan.format
    if machine.started is not None:
        start = machine.started
        config["start"] = {"mode": start.mode, "entry": start.entry, "cpl": start.cpl}
    return {
        "vmm": _version(),
        "backend": backend(),
        "host": {"cpu": _processor(), "kernel": platform.release(), "system": platform.system()},
        "config": config,
        "devices": list(_devices((machine.pio, machine.mmio))),
    }


def _devices(buses: Iterable[Bus]) -> Iterator[dict[str, Any]]:
    told: set[str] = set()
    for bus in buses:
        for mapping in bus:
            entry = {
                "name": mapping.name,
                "class": _class(mapping.device),
                "bus": bus.name,
                "start": mapping.start,
                "end": mapping.end,
                "base": mapping.base,
            }
            table = getattr(mapping.device, "registers", None)
            # Many devices answer at several places; their registers are told once.
            if isinstance(table, RegisterTable) and mapping.name not in told:
                entry["registers"] = table_to_data(table)
                told.add(mapping.name)
            yield entry


def _class(device: object) -> str:
    kind = type(device)
    return f"{kind.__module__}.{kind.__qualname__}"


def _version() -> str:
    try:
        return metadata.version("glassvm")
    except metadata.PackageNotFoundError:
        return ""


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    model = next((line for line in lines if line.startswith("model name")), "")
    return model.partition(":")[2].strip()
