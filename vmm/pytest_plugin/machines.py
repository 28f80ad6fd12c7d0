"""The machines of one test: made, told of in its report, recorded, and closed."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest

from vmm.errors import VmmError
from vmm.from_snapshot import restore
from vmm.furnish import PAYLOAD_PREFIX
from vmm.kvm import backend
from vmm.launch import boot
from vmm.machine import Machine
from vmm.pytest_plugin.boot_once import VmBooted
from vmm.pytest_plugin.report import sections_of
from vmm.snapshot.snapshot import Snapshot

__all__ = ["TestMachines", "VmFactory", "marked_guest", "of_test"]

_MACHINES = pytest.StashKey["TestMachines"]()
_LONGEST_NAME = 200


class VmFactory(Protocol):
    """What the fixture `vm_factory` gives."""

    def __call__(
        self, image: str | Path | bytes | Snapshot | None = None, /, **options: Any
    ) -> Machine:
        """Make a machine: `vmm.boot(image, **options)`; of a snapshot,
        `vmm.restore(snapshot, **options)`; and without either, `vmm.Machine(**options)`.

        Raises:
            VmmError: it cannot be made so.
        """


def of_test(item: pytest.Item) -> TestMachines:
    """The machines of a test."""
    return item.stash.setdefault(_MACHINES, TestMachines(item))


def marked_guest(item: pytest.Item, booted: Callable[[], VmBooted]) -> Machine:
    """Make the machine that a test's marker `guest` asks for; a bare one where it has none.

    A relative path is looked for in the project's root, so that it does not matter where pytest
    was started.
    """
    machines = of_test(item)
    mark = item.get_closest_marker("guest")
    if mark is None:
        return machines.make()
    try:
        image, options = _guest(*mark.args, **mark.kwargs)
        if isinstance(image, str | Path) and not str(image).startswith(PAYLOAD_PREFIX):
            image = item.config.rootpath / image
        if "until" in options:
            image, options = booted()(image, **options), {}
        return machines.make(image, **options)
    except (TypeError, VmmError) as error:
        pytest.fail(f"@pytest.mark.guest: {error}", pytrace=False)


def _guest(image: str | Path | bytes | None = None, **options: Any) -> Any:
    return image, options


@dataclass
class _Made:
    name: str
    machine: Machine
    recording: Path | None
    closed_s: float = 0.0


class TestMachines:
    """Makes machines for one test and keeps an eye on them."""

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._made: list[_Made] = []
        self._failed = False
        self._folder: Path | None = item.config.getoption("--kvm-trace")

    def make(
        self, image: str | Path | bytes | Snapshot | None = None, /, **options: Any
    ) -> Machine:
        """Make a machine (`VmFactory`); a test's first one is told of as vm, the next as vm2."""
        name = f"vm{len(self._made) + 1}" if self._made else "vm"
        recording = self._recording(name)
        if recording is not None and not options.keys() & {"trace", "record", "journal"}:
            recording.parent.mkdir(parents=True, exist_ok=True)
            if image is None:
                options |= {"trace": str(recording), "journal": True}
            elif isinstance(image, Snapshot):
                options["trace"] = str(recording)
            else:
                options["record"] = str(recording)
        else:
            recording = None  # the test keeps a trace of its own, or none
        if isinstance(image, Snapshot):
            machine = restore(image, **options)
        else:
            machine = Machine(**options) if image is None else boot(image, **options)
        self._made.append(_Made(name, machine, recording))
        return machine

    def failed(self, report: pytest.TestReport) -> None:
        """Tell in the report of a failure what the machines did, and keep their recordings."""
        self._failed = True
        for made in self._made:
            try:
                found = list(sections_of(made.machine))
            except Exception as error:  # the failure is what has to be seen
                found = [("", f"nothing can be told of it: {type(error).__name__}: {error}")]
            if made.recording is not None:
                found.append(("recording", f"{made.recording}\nvmm trace show {made.recording}"))
            for title, text in found:
                report.sections.append((f"guest {made.name}: {title}".rstrip(": "), text))

    def close(self) -> None:
        """Close all machines; recordings are kept where the test failed."""
        for made in reversed(self._made):
            machine = made.machine
            machine.stop()
            machine.close()
            made.closed_s = time.monotonic()
            if made.recording is not None and not self._failed:
                made.recording.unlink(missing_ok=True)
                _remove_empty(made.recording.parent, self._folder)
        self._tell_junit()

    def _tell_junit(self) -> None:
        if not self._made:
            return
        properties: list[tuple[str, object]] = [("kvm_backend", backend() or "unknown")]
        for made in self._made:
            exits = sum(vcpu.exits for vcpu in made.machine.vcpus)
            properties.append((f"{made.name}_exits", exits))
            seconds = made.closed_s - made.machine.made_s
            properties.append((f"{made.name}_seconds", f"{seconds:.6f}"))
            if made.recording is not None and self._failed:
                properties.append((f"{made.name}_recording", str(made.recording)))
        self._item.user_properties += properties

    def _recording(self, name: str) -> Path | None:
        """Where a machine is recorded: folders as the test's name has them, so that no two tests
        share a file, whichever process runs them."""
        if self._folder is None:
            return None
        path, *inner = self._item.nodeid.split("::")
        return self._folder.joinpath(*map(_file_name, [*path.split("/"), *inner]), f"{name}.vtrace")


def _file_name(part: str) -> str:
    """A part of a test's name as the name of a file; different ones for different parts."""
    name = quote(part, safe=" []=,+@")
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(part.encode()).hexdigest()[:16]
        name = f"{name[: _LONGEST_NAME - 16]}{digest}"
    return "%2E%2E" if name == ".." else name


def _remove_empty(folder: Path, top: Path | None) -> None:
    """Remove folders that have become empty, up to `top`, which stays."""
    with contextlib.suppress(OSError):  # not empty: another test's recording is there
        while top is not None and folder != top and folder.is_relative_to(top):
            folder.rmdir()
            folder = folder.parent
