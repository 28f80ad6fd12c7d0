"""Tables of registers as plain data: what a trace file says of a device, and back again.

So a recording is decoded by the tables of the machine that wrote it, also where the device's module
is another version by now, or cannot be imported at all.
"""

from __future__ import annotations

from typing import Any

from devices.registers import Field, Register, RegisterTable, When

__all__ = ["table_from_data", "table_to_data"]

_MOST_BITS = 64


def table_to_data(table: RegisterTable) -> list[dict[str, Any]]:
    """Say a table as values that JSON has; what is as usual is left out."""
    return [_register_to_data(register) for register in table]


def table_from_data(data: Any) -> RegisterTable:
    """Make the table again.

    Raises:
        ValueError: the data is not that of a table.
    """
    try:
        return RegisterTable(*(_register_from_data(entry) for entry in data))
    except (AttributeError, LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"not a table of registers: {error!r}") from None


def _register_to_data(register: Register) -> dict[str, Any]:
    data: dict[str, Any] = {"name": register.name, "offset": register.offset}
    data |= {"size": register.size, "access": register.access, "reset": register.reset}
    if register.exact:
        data["exact"] = True
    if register.when is not None:
        data["when"] = [register.when.register, register.when.mask, register.when.equals]
    if register.fields:
        data["fields"] = [
            [field.name, field.low, field.width]
            + ([{str(value): name for value, name in field.values.items()}] if field.values else [])
            for field in register.fields
        ]
    return data


def _register_from_data(data: dict[str, Any]) -> Register:
    when = data.get("when")
    access = data["access"]
    if access not in ("r", "w", "rw"):
        raise ValueError(f"access {access!r}")
    return Register(
        _text(data["name"]),
        _number(data["offset"], 1 << 52),
        _number(data["size"], 9),
        access,
        _number(data["reset"], 1 << _MOST_BITS),
        tuple(_field_from_data(*entry) for entry in data.get("fields", ())),
        None if when is None else When(_text(when[0]), _number(when[1]), _number(when[2])),
        exact=bool(data.get("exact")),
    )


def _field_from_data(
    name: str, low: int, width: int, values: dict[str, str] | None = None
) -> Field:
    names = {int(value): _text(word) for value, word in (values or {}).items()}
    return Field(_text(name), _number(low, _MOST_BITS), _number(width, _MOST_BITS + 1), names)


def _number(value: Any, limit: int = 1 << _MOST_BITS) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is not a number below {limit:#x}")
    return value


def _text(value: Any) -> str:
    """A name, which is shown on terminals: nothing in it may move the cursor."""
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a name")
    return value if value.isprintable() else ascii(value)[1:-1]
