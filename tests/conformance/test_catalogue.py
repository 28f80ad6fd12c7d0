"""Every device model of the package is in the catalogue, so the suite sees all of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import devices
from devices import Device, RegisterDevice, Snapshottable

CONTRACTS = {Device, RegisterDevice}


def device_classes() -> set[str]:
    """The classes that answer reads and writes, as "module.Class"."""
    found = set()
    for info in pkgutil.walk_packages(devices.__path__, "devices."):
        module = importlib.import_module(info.name)
        for name, cls in inspect.getmembers(module, inspect.isclass):
            answers = all(callable(getattr(cls, method, None)) for method in DEVICE_METHODS)
            if cls.__module__ == module.__name__ and answers and cls not in CONTRACTS:
                found.add(f"{info.name.removeprefix('devices.')}.{name}")
    return found


DEVICE_METHODS = ("read", "write", "reset")


def test_every_device_class_is_in_the_catalogue(catalogue, not_on_a_bus):
    listed = {model.path for model in catalogue}
    assert device_classes() == listed | set(not_on_a_bus)
    assert not listed & set(not_on_a_bus)


def test_a_device_is_built_without_arguments(model):
    device = model.cls()()
    assert isinstance(device, Device)
    assert device.name


def test_a_device_can_be_saved_or_says_why_not(model):
    device = model.build()
    if not isinstance(device, Snapshottable):
        assert isinstance(device.cannot_save, str)
        assert device.cannot_save


ASKED_ONLY = {"save", "load", "file", "attach", "connect"}
"""Methods that change nothing, and those that are not for a machine that runs."""


def test_what_the_host_does_to_a_device_is_declared(model):
    """A recording has the calls of these methods; one that is forgotten cannot be replayed."""
    device = model.build()
    public = {
        name
        for name, _ in inspect.getmembers(type(device), inspect.isfunction)
        if not name.startswith(("_", "read_", "write_")) and name not in DEVICE_METHODS
    }
    assert set(getattr(device, "inputs", ())) == public - ASKED_ONLY


def test_names_and_kinds_are_unique(catalogue):
    names = [model.build().name for model in catalogue]
    assert len(set(names)) == len(names)
    kinds = {model.path: type(model.build().save()).kind for model in catalogue}
    assert len(set(kinds.values())) == len(kinds)
