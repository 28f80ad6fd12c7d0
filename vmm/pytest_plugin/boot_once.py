"""Guests that are booted once and gone on from in many tests.

Booting is what takes time. So it is done once in a session (in each process of pytest-xdist), to a
place that does not depend on time, and a snapshot is taken there; every test then gets a machine of
its own out of that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from vmm.errors import VmmError
from vmm.launch import boot
from vmm.machine import Machine
from vmm.pytest_plugin.console import VmConsole
from vmm.snapshot.snapshot import Snapshot

__all__ = ["BootedGuests", "Until", "VmBooted"]

Until = str | re.Pattern[str] | Callable[[Machine], object]
"""What the console is to match, or what runs the machine to where it is wanted."""


class VmBooted(Protocol):
    """What the fixture `booted` gives."""

    def __call__(
        self, image: str | Path | bytes, until: Until, *, timeout: float = 60.0, **options: Any
    ) -> Snapshot:
        """Boot a guest, unless it was booted so in this session, and keep it as it stands then.

        Args:
            image: as for `vmm.boot`.
            until: a regular expression, behind whose match on the console the guest stands; or a
                function that runs the machine.
            timeout: seconds.
            options: of `vmm.boot`.

        Returns:
            What `vm_factory` makes machines of.

        Raises:
            pytest.fail.Exception: it never came there, or cannot be booted.
        """


class BootedGuests:
    """The guests that were booted in a session."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, Snapshot | str]] = []

    def boot(
        self, image: str | Path | bytes, until: Until, *, timeout: float = 60.0, **options: Any
    ) -> Snapshot:
        """Boot a guest once (`VmBooted`)."""
        __tracebackhide__ = True
        key = (image, until, options)
        found = next((kept for known, kept in self._kept if known == key), None)
        if found is None:
            found = self._boot(image, until, timeout, options)
            self._kept.append((key, found))
        if isinstance(found, str):
            pytest.fail(found, pytrace=False)
        return found

    def close(self) -> None:
        """Let go of all of them."""
        for _, kept in self._kept:
            if isinstance(kept, Snapshot):
                kept.close()
        self._kept.clear()

    def _boot(
        self, image: str | Path | bytes, until: Until, timeout: float, options: dict[str, Any]
    ) -> Snapshot | str:
        """The snapshot, or why there is none, which every test is then told without waiting."""
        try:
            machine = boot(image, **options)
        except (TypeError, VmmError) as error:
            return f"booted: {error}"
        with machine:
            try:
                if callable(until):
                    until(machine)
                else:
                    VmConsole(machine).expect(until, timeout)
                return machine.snapshot()
            except (pytest.fail.Exception, VmmError) as error:
                result = machine.last_result
                report = f"\n{result.report()}" if result is not None and result.died else ""
                return f"booted: {error}{report}"
