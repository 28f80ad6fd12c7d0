"""Device models, one chip a file: pure Python, no KVM, no file descriptors, no threads.

What is listed in `__all__` is imported when it is first used.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from devices.protocols import Device, Pausable, Snapshottable, State
    from devices.registers import Field, Register, RegisterDevice, RegisterTable, When, bits
    from devices.wiring import GuestAddressError, StateError

__all__ = [
    "Device",
    "Field",
    "GuestAddressError",
    "Pausable",
    "Register",
    "RegisterDevice",
    "RegisterTable",
    "Snapshottable",
    "State",
    "StateError",
    "When",
    "bits",
]

_HOMES = {
    "protocols": {"Device", "Pausable", "Snapshottable", "State"},
    "wiring": {"GuestAddressError", "StateError"},
}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'devices' has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "registers")
    value = globals()[name] = getattr(import_module(f"devices.{home}"), name)
    return value
