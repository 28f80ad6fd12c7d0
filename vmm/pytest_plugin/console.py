"""A conversation with a guest over its console."""

from __future__ import annotations

import codecs
import re

import pytest

from vmm.machine import Machine
from vmm.pytest_plugin.report import console_tail
from vmm.result import RunResult

__all__ = ["VmConsole"]

_WINDOW = 4096
"""While output comes, a match is looked for in the last so many characters of it."""


class VmConsole:
    """The console of a machine, which runs while something is expected and stands still else.

    Args:
        machine: the machine; nobody else runs it.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.before = ""
        """What the guest wrote between the last two matches."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread: list[str] = []
        self._window = ""
        self._wanted: re.Pattern[str] | None = None
        self._found: re.Match[str] | None = None
        self._take(machine.console.output)
        machine.console.tee(self._take)

    @property
    def text(self) -> str:
        """All that the guest has written."""
        return self.machine.console.text

    @property
    def unread(self) -> str:
        """What the guest has written behind the last match."""
        return "".join(self._unread)

    def send(self, data: bytes | str) -> None:
        """Give the guest input."""
        self.machine.console.send(data)

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> re.Match[str]:
        """Run the guest until its output, behind the last match, matches; it then stands still
        behind the instruction that wrote the last character of the match.

        Args:
            pattern: a regular expression, which is searched for with each character that comes:
                one that begins with ".*" takes long. What is in front of a match is in `before`.
            timeout: seconds.

        Returns:
            The match.

        Raises:
            pytest.fail.Exception: the guest ended, or the time was up.
        """
        __tracebackhide__ = True
        wanted = re.compile(pattern)
        unread = self.unread
        found = wanted.search(unread)
        if found is None:
            result = self._run_until(wanted, timeout)
            if self._found is not None:
                return self._found
            # A match that is longer than the window is found when the guest stands still.
            unread = self.unread
            found = wanted.search(unread)
            if found is None:
                pytest.fail(
                    f"the console never matched {wanted.pattern!r}: {result.summary()}\n"
                    + (console_tail(unread, 10) or "(the guest wrote nothing more)")
                )
        self._split(unread, found)
        return found

    def _split(self, unread: str, found: re.Match[str]) -> None:
        """A match was found: what is in front of it, and what has not been read yet."""
        start = len(unread) - len(found.string)
        self.before = unread[: start + found.start()]
        self._unread = [unread[start + found.end() :]]

    def _run_until(self, wanted: re.Pattern[str], timeout: float) -> RunResult:
        self._wanted, self._found, self._window = wanted, None, self.unread[-_WINDOW:]
        try:
            return self.machine.run(timeout)
        finally:
            self._wanted = None

    def _take(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        self._unread.append(text)
        if self._wanted is None or self._found is not None:
            return
        self._window = self._window[-_WINDOW:] + text
        self._found = self._wanted.search(self._window)
        if self._found is not None:
            self._split(self.unread, self._found)
            self.machine.stop()
