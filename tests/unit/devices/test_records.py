"""Records: frozen dataclasses to whoever uses them."""

from __future__ import annotations

import dataclasses
import pickle
from typing import ClassVar

import pytest

from devices.records import Record


class Point(Record):
    kind: ClassVar[str] = "point"
    x: int
    y: int = 7
    label: str = ""


class Noted(Record, aside=("note",)):
    x: int
    note: object = None


def test_fields_are_given_by_place_by_name_or_by_default() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 2).y, Point(1, label="a").label) == (1, 7, 2, "a")
    assert Point.kind == Point(1).kind == "point"


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        ((), {}, "missing x"),
        ((), {"y": 1}, "missing x"),
        ((1, 2, "", 4), {}, "has 3 fields"),
        ((1,), {"x": 2}, "field x"),
        ((1,), {"z": 2}, "field z"),
        ((1,), {"kind": "other"}, "field kind"),
    ],
)
def test_wrong_fields_are_refused(values: tuple[object, ...], named: dict, said: str) -> None:
    with pytest.raises(TypeError, match=f"Point.*{said}"):
        Point(*values, **named)


def test_a_record_is_frozen() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="colour"):
        point.colour = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        del point.x
    assert point == Point(1)


def test_records_are_equal_by_class_and_value() -> None:
    assert Point(1) == Point(1, 7) != Point(1, 8)
    assert hash(Point(1)) == hash(Point(1, 7))
    assert Point(1) != (1, 7, "")
    assert Noted(1) != Point(1)
    assert Noted(1, "a") == Noted(1, "b")
    assert repr(Point(1)) == "Point(x=1, y=7, label='')"
    assert repr(Noted(1, "a")) == "Noted(x=1)"


def test_dataclasses_know_a_record() -> None:
    assert dataclasses.is_dataclass(Point)
    assert [part.name for part in dataclasses.fields(Point(1))] == ["x", "y", "label"]
    assert dataclasses.replace(Point(1, label="a"), x=3) == Point(3, label="a")
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 7, "label": ""}


def test_a_record_may_add_to_another() -> None:
    class Wide(Point):
        z: int = 0

    assert (Wide(1, z=3).y, Wide(1, 2, "", 3).z) == (7, 3)
    assert Wide(1) != Point(1)
    assert dataclasses.replace(Wide(1), z=2) == Wide(1, z=2)


def test_a_record_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Point(1, label="a"))) == Point(1, label="a")
