"""Machines that are always closed, and waits that never hang."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vmm
from vmm.pytest_plugin.machines import VmFactory

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _replays(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """With --replay: whatever a test does, its machines' devices do the same when replayed."""
    if not request.config.getoption("--replay"):
        yield
        return
    made, closed = vmm.Machine.__init__, vmm.Machine.close
    open_: dict[vmm.Machine, Path] = {}
    found: list[str] = []
    numbers = itertools.count()

    def make(self: vmm.Machine, *args: Any, **options: Any) -> None:
        if options.get("trace", True) is not True or "journal" in options:
            made(self, *args, **options)
            return
        path = tmp_path / f"machine{next(numbers)}.vtrace"
        made(self, *args, **options | {"trace": str(path), "journal": True})
        open_[self] = path

    def close(self: vmm.Machine) -> None:
        closed(self)
        path = open_.pop(self, None)
        if path is not None:
            found.append(str(vmm.replay(path)))
            path.unlink()

    monkeypatch.setattr(vmm.Machine, "__init__", make)
    monkeypatch.setattr(vmm.Machine, "close", close)
    yield
    assert [text for text in found if not text.endswith("identical")] == []


@pytest.fixture
def machine(vm_factory: VmFactory) -> Callable[..., vmm.Machine]:
    """A machine with code (hexadecimal) at 0x1000, ready to start there."""

    def make(code: str = "f4", mode: str = "real", *, cpl: int = 0, **options: Any) -> vmm.Machine:
        machine = vm_factory(**options)
        machine.memory.write(0x1000, bytes.fromhex(code))
        machine.start_at(0x1000, mode, cpl=cpl)  # type: ignore[arg-type]
        return machine

    return make


@pytest.fixture
def boot(vm_factory: VmFactory) -> VmFactory:
    """`vmm.boot`, with the machine closed at the end."""
    return vm_factory


@pytest.fixture
def replay_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., vmm.ReplayResult]:
    """`vmm.replay`, where nothing can be made of KVM."""

    def no_kvm(*args: object, **options: object) -> None:
        raise AssertionError("a replay has no machine")

    def replay(path: str | Path, **options: Any) -> vmm.ReplayResult:
        with monkeypatch.context() as patch:
            patch.setattr("vmm.kvm.open_kvm", no_kvm)
            patch.setattr("vmm.hardware.open_kvm", no_kvm)
            patch.setattr("vmm.memory.GuestMemory.__init__", no_kvm)
            return vmm.replay(path, **options)

    return replay


class Background:
    """A call on a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._outcome: list[tuple[Any, BaseException | None]] = []
        self._function = function
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._outcome.append((self._function(), None))
        except BaseException as error:
            self._outcome.append((None, error))

    @property
    def done(self) -> bool:
        return bool(self._outcome)

    def result(self, seconds: float = PATIENCE) -> Any:
        """What the call returned or raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it hangs"
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


@pytest.fixture
def background() -> Callable[[Callable[[], Any]], Background]:
    """Start a call on another thread; `.result()` waits for it and fails if it hangs."""
    return Background


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for something that another thread brings about."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.001)

    return wait


@pytest.fixture(scope="session")
def ring0_is_emulated() -> bool:
    """Whether KVM's instruction emulator runs what is at CPL 0 (the kvm_pvm backend)."""
    return Path("/sys/module/kvm_pvm").is_dir()


@pytest.fixture(scope="session")
def slow_host() -> bool:
    """Whether this is the emulated host of the lab."""
    return "GLASSVM_LAB" in os.environ
