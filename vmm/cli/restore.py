"""`vmm restore`: let the machine of a snapshot run on, with its console on this terminal."""

from __future__ import annotations

import os

from vmm.cli.options import Options
from vmm.cli.run import run_machine
from vmm.cli.session import Outlet
from vmm.machine import Machine

__all__ = ["restore"]


def restore(options: Options) -> int:
    """Restore, run, report; returns the exit status.

    Raises:
        VmmError: nothing was run: the file is damaged, or this host cannot hold the state.
    """
    return run_machine(options, _restore)


def _restore(options: Options, outlet: Outlet) -> Machine:
    from vmm.from_snapshot import restore

    return restore(
        options.image,
        console=outlet.write,
        terminal=os.isatty(1),
        disks=options.disks,
        net=options.net or None,
        vsock=options.vsock,
        new_identity=options.new_identity,
        trust=options.trust,
        trace=options.trace or True,
    )
