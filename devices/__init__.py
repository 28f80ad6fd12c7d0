"""Device models, one chip a file: pure Python, no KVM, no file descriptors, no threads."""

from devices.protocols import (
    Device,
    GuestAddressError,
    Pausable,
    Snapshottable,
    State,
    StateError,
)
from devices.registers import Field, Register, RegisterDevice, RegisterTable, When, bits

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
