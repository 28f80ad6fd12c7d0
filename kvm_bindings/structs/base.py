"""How the kernel's structures are declared here: one annotated line per field.

    class kvm_segment(Struct):
        base: u64
        limit: u32

The annotations are the layout: `Struct` makes them ctypes' `_fields_`, so that a field is written
once and type checkers know it. An array is `Annotated[Array[c_uint8], 16]`. A type checker sees
in `u64` an int and in `Array[c_uint8]` an array; when it runs, `u64` is ctypes' type and
`Annotated` multiplies.

The modules of this package leave out `from __future__ import annotations`: the layouts are read
from the annotations when a class is made, and evaluating strings then would cost some
milliseconds of every start.
"""

import ctypes
from ctypes import (
    Array,
    c_int16,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any, Self

__all__ = [
    "Annotated",
    "Array",
    "Struct",
    "Union",
    "c_uint8",
    "c_uint16",
    "c_uint32",
    "c_uint64",
    "s16",
    "s32",
    "s64",
    "u8",
    "u16",
    "u32",
    "u64",
]

if TYPE_CHECKING:
    u8 = Annotated[int, c_uint8]
    u16 = Annotated[int, c_uint16]
    u32 = Annotated[int, c_uint32]
    u64 = Annotated[int, c_uint64]
    s16 = Annotated[int, c_int16]
    s32 = Annotated[int, c_int32]
    s64 = Annotated[int, c_int64]
else:
    u8, u16, u32, u64 = c_uint8, c_uint16, c_uint32, c_uint64
    s16, s32, s64 = c_int16, c_int32, c_int64

    class Annotated:
        """`Annotated[Array[c_uint8], 16]` is `c_uint8 * 16`; of an array of arrays the outer count
        comes first."""

        def __class_getitem__(cls, hint):
            array, *counts = hint
            for _ in counts:
                (array,) = array.__args__
            for count in reversed(counts):
                array *= count
            return array


def _laid_out(base: type) -> "Any":
    """Make the metaclass that gives the classes derived from `base` their `_fields_`."""

    # Not __init_subclass__: ctypes has not set the class up yet when that is called.
    class Meta(type(base)):  # type: ignore[misc]
        def __init__(cls, name: str, bases: tuple[type, ...], namespace: "dict[str, Any]") -> None:
            super().__init__(name, bases, namespace)
            cls._fields_ = list(cls.__annotations__.items())

    return Meta


class Struct(ctypes.Structure, metaclass=_laid_out(ctypes.Structure)):  # type: ignore[metaclass]
    """A structure laid out by its annotations, in native order and alignment."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_show(getattr(self, name))}" for name, *_ in self._fields_)
        return f"{type(self).__name__}({shown})"

    def copy(self) -> "Self":
        """Return a structure of the same type and content that shares nothing with this one."""
        copied: Self = type(self).from_buffer_copy(self)
        return copied


class Union(ctypes.Union, metaclass=_laid_out(ctypes.Union)):  # type: ignore[metaclass]
    """A union of the annotated members."""


def _show(value: "Any") -> str:
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, ctypes.Array):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    return repr(value)
