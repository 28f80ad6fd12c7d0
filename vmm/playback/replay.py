"""`vmm.replay`: a recording's devices, driven again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from devices.protocols import Device
from vmm.errors import ConfigError
from vmm.playback.player import Player
from vmm.playback.result import ReplayResult
from vmm.playback.source import Recording
from vmm.trace.journal import JournalError

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
        ConfigError: the file cannot be read, holds no journal, or is damaged.
    """
    with Recording(path) as recording:
        player = Player(
            recording.entries(),
            began_ns=recording.began_ns,
            overrides=dict(device_overrides or {}),
            only=device,
        )
        try:
            player.play()
        except JournalError as error:
            raise ConfigError(
                f"{recording.path}: the journal is damaged after access {player.accesses}: {error}"
            ) from None
        player.check_names()
        return player.result(complete=recording.finished)
