"""Driving device models again from a recording, without a machine and without KVM.

The package is called `playback` because `vmm.replay` is the function that does all of it.
"""

from vmm.playback.replay import replay
from vmm.playback.result import Difference, ReplayResult

__all__ = ["Difference", "ReplayResult", "replay"]
