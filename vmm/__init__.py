"""glassvm: a KVM virtual machine monitor in which every exit can be seen, scripted and tested.

    import vmm

    with vmm.Machine(memory="2M") as machine:
        machine.memory.write(0x1000, b"\\xb0\\x48\\xe6\\xe9\\xf4")  # mov al, 'H'; out 0xE9, al; hlt
        machine.on_out(0xE9)(lambda value, size: print(chr(value)))
        machine.start_at(0x1000, mode="real")
        print(machine.run().reason)

What is listed in `__all__` is the public interface; it is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm import trace
    from vmm.errors import (
        BootError,
        ConfigError,
        DeviceFault,
        ExitStatus,
        GuestMemoryError,
        KvmUnavailable,
        LifecycleError,
        MappingOverlap,
        SnapshotError,
        VmmError,
    )
    from vmm.exits import Exit
    from vmm.from_snapshot import restore
    from vmm.hardware_exits import HardwareExits, NoHardwareExits
    from vmm.launch import boot
    from vmm.lifecycle import Phase
    from vmm.machine import Machine
    from vmm.playback import Difference, ReplayResult, replay
    from vmm.pool import Pool
    from vmm.result import RunResult
    from vmm.snapshot.snapshot import Snapshot

__all__ = [
    "BootError",
    "ConfigError",
    "DeviceFault",
    "Difference",
    "Exit",
    "ExitStatus",
    "GuestMemoryError",
    "HardwareExits",
    "KvmUnavailable",
    "LifecycleError",
    "Machine",
    "MappingOverlap",
    "NoHardwareExits",
    "Phase",
    "Pool",
    "ReplayResult",
    "RunResult",
    "Snapshot",
    "SnapshotError",
    "VmmError",
    "boot",
    "replay",
    "restore",
    "trace",
]

_HOMES = {
    "Difference": "vmm.playback",
    "Exit": "vmm.exits",
    "HardwareExits": "vmm.hardware_exits",
    "Machine": "vmm.machine",
    "NoHardwareExits": "vmm.hardware_exits",
    "Phase": "vmm.lifecycle",
    "Pool": "vmm.pool",
    "ReplayResult": "vmm.playback",
    "RunResult": "vmm.result",
    "Snapshot": "vmm.snapshot.snapshot",
    "boot": "vmm.launch",
    "replay": "vmm.playback",
    "restore": "vmm.from_snapshot",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vmm' has no attribute {name!r}")
    if name == "trace":
        return import_module("vmm.trace")
    value = getattr(import_module(_HOMES.get(name, "vmm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
