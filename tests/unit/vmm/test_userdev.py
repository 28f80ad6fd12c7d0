"""Devices from the user's files: what is asked for, what is wrong with it, and reading it again."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from vmm.bus import Bus
from vmm.errors import ConfigError, MappingOverlap
from vmm.late import Devices
from vmm.userdev import add_user_device, parse_spec, user_devices

COUNTER = """
class Counter:
    name = "counter"

    def __init__(self):
        self.total = 0

    def read(self, offset, size):
        return self.total

    def write(self, offset, size, value):
        self.total += value

    def reset(self):
        self.total = 0
"""

TABLE = """
from devices.registers import Register, RegisterDevice, RegisterTable

class Cells(RegisterDevice):
    name = "cells"
    registers = RegisterTable(Register("A", 0), Register("B", 2, size=2, reset=7))

    def read_A(self):
        return self.values["A"] + 1
"""

SAVED = """
from devices.records import Record

class State(Record):
    kind = "saved"
    version = 1
    value: int

class Saved:
    name = "saved"
    def __init__(self):
        self.value = 1
        self.made_by = "the old one"
    def read(self, offset, size):
        return self.value
    def write(self, offset, size, value):
        self.value = value
    def reset(self):
        pass
    def save(self):
        return State(self.value)
    def load(self, state):
        self.value = state.value
"""


class Machine:
    """As much of a machine as a device gets to see."""

    def __init__(self, irqchip=True):
        self.irqchip = irqchip
        self.lock = threading.RLock()
        self.pio = Bus("port", 0x10000)
        self.mmio = Bus("MMIO", 1 << 52)
        self.devices = Devices()
        self.memory = object()
        self.journal = None
        self.console = SimpleNamespace(write=lambda data: None)
        self.lines = []

    def irq(self, gsi):
        return lambda level: self.lines.append((gsi, level))

    def add_device(self, device, *, pio=None, mmio=None):
        (self.mmio if pio is None else self.pio).map(mmio if pio is None else pio, device)
        self.devices.add(device)


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_dev.py"

    def write(text):
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.py:D@pio:0x10", ("a.py", "D", "pio", 0x10, None, None, None)),
        ("a.py:D@pio:16-0x17", ("a.py", "D", "pio", 16, 8, None, None)),
        ("a.py:D@mmio:0xd0000000+0x1000", ("a.py", "D", "mmio", 0xD000_0000, 0x1000, None, None)),
        ("a.py:D@pio:1,irq=5", ("a.py", "D", "pio", 1, None, 5, None)),
        ("a.py:D@pio:1,name=one,irq=0xb", ("a.py", "D", "pio", 1, None, 11, "one")),
        ("/x@y/a:b.py:D@pio:1-1", ("/x@y/a:b.py", "D", "pio", 1, 1, None, None)),
    ],
)
def test_what_an_option_asks_for(text, expected):
    spec = parse_spec(text)
    assert (
        spec.path, spec.cls, spec.bus, spec.start, spec.size, spec.irq, spec.name,
    ) == expected  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give FILE"),
        ("a.py", "give FILE"),
        ("a.py:D", "give FILE"),
        ("a.py@pio:1", "give FILE"),
        ("a.py:1D@pio:1", "give FILE"),
        ("a.py:D@port:1", "give FILE"),
        ("a.py:D@pio:", "give FILE"),
        ("a.py:D@pio:x", "'x' is not a number"),
        ("a.py:D@pio:-1", "'' is not a number"),
        ("a.py:D@pio:5-4", "5-4 is empty"),
        ("a.py:D@pio:5+0", "5\\+0 is empty"),
        ("a.py:D@pio:5,irq=", "give irq=GSI"),
        ("a.py:D@pio:5,dma=1", "give irq=GSI"),
        ("a.py:D@pio:5,irq=x", "'x' is not a number"),
    ],
)
def test_what_no_option_is(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_it_answers_where_it_was_put(machine, file):
    add_user_device(machine, f"{file(COUNTER)}:Counter@pio:0x10")
    machine.pio.write(0x10, 1, 5)
    machine.pio.write(0x10, 1, 6)
    assert machine.pio.read(0x10, 1) == 11
    assert machine.pio.find(0x11) is None  # one address, where no table says more
    assert "counter" in machine.devices


@pytest.mark.parametrize(("span", "end"), [("", 4), ("-0xd000001f", 0x10), ("+8", 8)])
def test_a_table_says_how_many_addresses_it_has(machine, file, span, end):
    add_user_device(machine, f"{file(TABLE)}:Cells@mmio:0xd0000010{span}")
    mapping = machine.mmio.find(0xD000_0010)
    assert (mapping.start, mapping.end) == (0xD000_0010, 0xD000_0010 + end)
    assert machine.mmio.read(0xD000_0012, 2) == 7


def test_the_constructor_is_given_what_it_asks_for(machine, file):
    text = COUNTER.replace(
        "__init__(self):", "__init__(self, irq, memory, *, clock, out, name, other=3, **rest):"
    ).replace("self.total = 0", "self.given = (irq, memory, clock, out, name, other, rest)", 1)
    device = add_user_device(machine, f"{file(text)}:Counter@pio:0x10,irq=5,name=first").device
    irq, memory, clock, out, name, other, rest = device.given
    irq(True)
    assert machine.lines == [(5, True)]
    assert memory is machine.memory
    assert clock() < clock()
    assert out is machine.console.write
    assert (name, other, rest) == ("first", 3, {})
    assert "first" in machine.devices


def test_two_of_one_class_need_two_names(machine, file):
    path = file(COUNTER)
    add_user_device(machine, f"{path}:Counter@pio:0x10")
    with pytest.raises(ConfigError, match="a device called counter already; add ,name=NAME"):
        add_user_device(machine, f"{path}:Counter@pio:0x20")
    add_user_device(machine, f"{path}:Counter@pio:0x20,name=second")
    assert [one.name for one in user_devices(machine)] == ["counter", "second"]
    with pytest.raises(MappingOverlap, match=r"third.*overlaps second"):
        add_user_device(machine, f"{path}:Counter@pio:0x20,name=third")


@pytest.mark.parametrize(
    ("text", "option", "words"),
    [
        (COUNTER, "Count@pio:1", "no class Count; it has Counter"),
        ("x = 1", "Counter@pio:1", "no class Counter; it has no classes"),
        ("from os import path\n", "path@pio:1", "no class path; it has no classes"),
        ("def broken(:\n", "A@pio:1", r"my_dev.py:1: SyntaxError: invalid syntax"),
        ("x = 1\n\nx = y\n", "A@pio:1", r"my_dev.py:3: NameError: name 'y' is not defined"),
        ("import nowhere_to_be_found", "A@pio:1", r"my_dev.py:1: ModuleNotFoundError"),
        ("raise SystemExit(3)", "A@pio:1", r"my_dev.py:1: SystemExit: 3"),
        ("a = '\0'", "A@pio:1", "my_dev.py.*null byte"),
        (
            "class A:\n  def __init__(self):\n    self.x = 1 // 0\n",
            "A@pio:1",
            r"my_dev.py:3: A\(\): ZeroDivisionError",
        ),
        ("class A:\n  name = 'a'\n", "A@pio:1", r"A has no read\(\), write\(\), reset\(\)"),
        (COUNTER.replace('name = "counter"', ""), "Counter@pio:1", "Counter has no name"),
        (COUNTER.replace('"counter"', "3"), "Counter@pio:1", "Counter has no name"),
        (COUNTER.replace("(self):", "(self, dma):", 1), "Counter@pio:1", "wants 'dma'.*offered"),
        (COUNTER.replace("(self):", "(self, irq):", 1), "Counter@pio:1", "wants 'irq'.*,irq="),
        (COUNTER, "Counter@pio:1,irq=5", "takes no irq"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(machine, file, text, option, words):
    with pytest.raises(ConfigError, match=words) as caught:
        add_user_device(machine, f"{file(text)}:{option}")
    assert "\n" not in str(caught.value)
    assert list(machine.devices) == []


def test_a_file_that_is_not_there(machine, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.py: No such file or directory"):
        add_user_device(machine, f"{tmp_path}/none.py:A@pio:1")


def test_an_interrupt_line_needs_a_controller(file):
    with pytest.raises(ConfigError, match="add --irqchip on"):
        add_user_device(Machine(irqchip=False), f"{file(COUNTER)}:Counter@pio:1,irq=5")


def test_files_beside_it_can_be_imported_and_nothing_is_left_there(machine, file, tmp_path):
    (tmp_path / "beside_my_dev.py").write_text("STEP = 3\n")
    text = "import beside_my_dev\n" + COUNTER.replace("+= value", "+= beside_my_dev.STEP")
    add_user_device(machine, f"{file(text)}:Counter@pio:0x10")
    machine.pio.write(0x10, 1, 1)
    assert machine.pio.read(0x10, 1) == 3
    assert not list(tmp_path.rglob("my_dev*.pyc"))


# -- read again -------------------------------------------------------------------------------


def test_a_new_class_goes_on_with_the_old_state(machine, file):
    place = add_user_device(machine, f"{file(COUNTER)}:Counter@pio:0x10")
    device = place.device
    machine.pio.write(0x10, 1, 5)
    # Of the same length, and within the same second.
    file(COUNTER.replace("+= value", "-= value"))
    place.reload()
    machine.pio.write(0x10, 1, 2)
    assert machine.pio.read(0x10, 1) == 3
    assert place.device is device


def test_what_the_run_loop_remembers_is_forgotten(machine, file):
    place = add_user_device(machine, f"{file(COUNTER)}:Counter@pio:0x10")
    machine.pio.remember(1, True, 0x10, 1)
    machine.pio.read(0x10, 1)
    assert machine.pio.calls
    place.reload()
    assert not machine.pio.calls
    assert not machine.pio.readers


def test_attributes_that_the_new_constructor_has_more(machine, file):
    place = add_user_device(machine, f"{file(COUNTER)}:Counter@pio:0x10")
    machine.pio.write(0x10, 1, 5)
    file(COUNTER.replace("self.total = 0", "self.total = 0; self.step = 4", 1)
         .replace("+= value", "+= self.step"))  # fmt: skip
    place.reload()
    machine.pio.write(0x10, 1, 1)
    assert machine.pio.read(0x10, 1) == 9


def test_a_table_is_connected_again(machine, file):
    place = add_user_device(machine, f"{file(TABLE)}:Cells@pio:0x10-0x17")
    machine.pio.write(0x10, 1, 5)
    machine.pio.write(0x12, 2, 6)
    assert machine.pio.read(0x10, 1) == 6
    file(TABLE.replace("+ 1", "+ 2").replace("reset=7)", 'reset=7), Register("C", 4, reset=9)'))
    place.reload()
    assert [machine.pio.read(at, size) for at, size in ((0x10, 1), (0x12, 2), (0x14, 1))] == [
        7, 6, 9,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Counter(:\n", "my_dev.py:1: SyntaxError"),
        ("x = 1", "no class Counter"),
        ("class Counter:\n  pass\n", "has no read"),
        (COUNTER.replace("self.total = 0", "self.total = 1 // 0", 1), "ZeroDivisionError"),
        (COUNTER.replace("name =", '__slots__ = ("total",)\n    name ='), "another layout"),
    ],
)
def test_a_file_that_will_not_do_leaves_everything_as_it_was(machine, file, text, words):
    place = add_user_device(machine, f"{file(COUNTER)}:Counter@pio:0x10")
    machine.pio.write(0x10, 1, 5)
    file(text)
    with pytest.raises(ConfigError, match=words) as caught:
        place.reload()
    assert "\n" not in str(caught.value)
    machine.pio.write(0x10, 1, 2)
    assert machine.pio.read(0x10, 1) == 7


def test_a_device_with_save_and_load_is_made_anew_from_its_state(machine, file):
    place = add_user_device(machine, f"{file(SAVED)}:Saved@pio:0x10")
    machine.pio.write(0x10, 1, 5)
    text = SAVED.replace("the old one", "the new one")
    file(text.replace("return self.value\n", "return self.value + 1\n"))
    place.reload()
    assert place.device.made_by == "the new one"
    assert machine.devices["saved"] is place.device
    assert machine.pio.read(0x10, 1) == 6


def test_a_state_that_does_not_fit_leaves_the_old_device(machine, file):
    place = add_user_device(machine, f"{file(SAVED)}:Saved@pio:0x10")
    machine.pio.write(0x10, 1, 5)
    file(SAVED.replace("self.value = state.value", "self.value = state.amount"))
    with pytest.raises(ConfigError, match=r"its state does not fit.*amount"):
        place.reload()
    assert machine.pio.read(0x10, 1) == 5
    assert place.device.made_by == "the old one"
