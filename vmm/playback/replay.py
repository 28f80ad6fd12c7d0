"""`vmm.replay`: a recording's devices, driven again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from vmm.errors import TraceError
from vmm.playback.player import Player
from vmm.playback.result import ReplayResult
from vmm.trace.journal import START, VERSION, Entry, JournalError, entries
from vmm.trace.layout import JOURNAL
from vmm.trace.source import TraceSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device

__all__ = ["replay"]


def replay(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    device_overrides: Mapping[str, Callable[..., Device]] | None = None,
) -> ReplayResult:
    """Drive the device models of a recording through the accesses that it holds, without KVM.

    Time, input and memory come out of the recording; answers, interrupts and output are compared
    with it, up to the first difference.

    Args:
        path: a recording: `vmm run --record`, `vmm.boot(record=...)`.
        device: replay this one alone.
        device_overrides: by the device's name, what to make it with in place of the class that
            was recorded: a class that was mended, or one with a mistake that has to be found.
            It is called with the arguments that are in the recording. A class of yours is
            replayed only if it is named here.

    Raises:
        TraceError: the file cannot be read, holds no journal, or is damaged.
        ConfigError: a device that is named is not in it.
    """
    with TraceSource.open(path) as source:
        player = Player(
            _journal(source),
            began_ns=source.header.monotonic_ns,
            overrides=dict(device_overrides or {}),
            only=device,
        )
        try:
            player.play()
        except JournalError as error:
            raise TraceError(
                f"{source.name}: the journal is damaged after access {player.accesses}: {error}"
            ) from None
        player.check_names()
        return player.result(complete=source.header.finished)


def _journal(source: TraceSource) -> Iterator[Entry]:
    """The journal's entries, without the first one, which says what it is.

    Raises:
        JournalError: it is damaged.
        TraceError: there is none.
    """
    begun = False
    for chunk in source.payloads(JOURNAL):
        for entry in entries(chunk):
            if not begun and (entry.kind != START or entry.who != VERSION):
                raise JournalError(f"it does not begin as one of version {VERSION}")
            if begun:
                yield entry
            begun = True
    if not begun:
        raise TraceError(
            f"{source.name}: no journal is in it, so there is nothing to replay; record one with: "
            "vmm run IMAGE --record FILE"
        )
