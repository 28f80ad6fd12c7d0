"""A vCPU's registers as attributes: `m.regs.rcx = 100`, `m.sregs.cs.base`.

They are fetched from KVM when first looked at and written back, if something changed, before the
guest runs again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["RegisterView"]


class RegisterView:
    """A register file of one vCPU; the attributes are the fields of KVM's struct.

    Args:
        fetch: returns the current struct.
        store: takes a changed one.
    """

    __slots__ = ("_fetch", "_original", "_store", "_struct")

    _fetch: Callable[[], ctypes.Structure]
    _store: Callable[[Any], None]
    _struct: ctypes.Structure | None
    _original: bytes

    def __init__(self, fetch: Callable[[], ctypes.Structure], store: Callable[[Any], None]) -> None:
        object.__setattr__(self, "_fetch", fetch)
        object.__setattr__(self, "_store", store)
        object.__setattr__(self, "_struct", None)
        object.__setattr__(self, "_original", b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.struct(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        struct = self.struct()
        if not hasattr(struct, name):
            raise AttributeError(f"no register {name!r}; there are {', '.join(dir(self))}")
        if isinstance(value, int):
            # ctypes cuts off silently what does not fit; -1 is fine, 1 << 64 is a mistake.
            size = getattr(type(struct), name).size
            if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size):
                raise ValueError(f"{name} = {value:#x}: does not fit in {8 * size} bits")
        setattr(struct, name, value)

    def __dir__(self) -> list[str]:
        return [field[0] for field in type(self.struct())._fields_]

    def __repr__(self) -> str:
        struct = self.struct()
        shown = (
            f"{field[0]}={getattr(struct, field[0]):#x}"
            for field in type(struct)._fields_
            if isinstance(getattr(struct, field[0]), int)
        )
        return f"<{' '.join(shown)}>"

    def struct(self) -> ctypes.Structure:
        """KVM's struct, fetched if it is not there yet. Changes to it are written back."""
        if self._struct is None:
            struct = self._fetch()
            object.__setattr__(self, "_struct", struct)
            object.__setattr__(self, "_original", bytes(struct))
            return struct
        return self._struct

    def forget(self) -> None:
        """Forget what was fetched, changed or not."""
        object.__setattr__(self, "_struct", None)

    def flush(self) -> None:
        """Write changes back and forget what was fetched: the guest is about to run."""
        struct = self._struct
        if struct is not None:
            if bytes(struct) != self._original:
                self._store(struct)
            object.__setattr__(self, "_struct", None)
