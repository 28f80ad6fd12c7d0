"""A parameter sweep: one snapshot of a guest that is ready, and a run from there for each input.

On processes of its own; with --dask, unchanged, on a Dask cluster (pip install 'glassvm[dask]').

The question: for which AL does `aad` (D5 0A) set the zero flag, when AH is 3? AL = 10 * AH + AL,
modulo 256, so there is one answer.
"""

import logging
import sys
import tempfile
from concurrent.futures import Executor

import vmm

CODE = bytes.fromhex("b80003 f4 d50a f4")  # mov ax, 0x0300; hlt; aad; hlt
ZERO_FLAG = 1 << 6


def try_one(machine: vmm.Machine, al: int) -> bool:
    """One run: the machine is back at the snapshot, and nothing of the run before is left."""
    machine.regs.rax |= al
    result = machine.run(timeout=10.0)
    assert result.reason == "halt", result.report()
    return bool(machine.regs.rflags & ZERO_FLAG)


def sweep(executor: Executor | None = None) -> None:
    with vmm.Machine(memory="64K") as machine:
        machine.memory.write(0x1000, CODE)
        machine.start_at(0x1000)
        machine.run(timeout=10.0)  # up to the first hlt
        ready = machine.snapshot()
    with ready, vmm.Pool(ready, executor=executor) as pool:
        found = [al for al, zero in enumerate(pool.map(try_one, range(256))) if zero]
    print(f"256 runs from one snapshot: AL = {', '.join(f'{al:#x}' for al in found)}")


def quieten() -> None:
    """On a worker: a heartbeat that crosses with the end is no error; calls that fail raise."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


def sweep_on_dask() -> None:
    import dask
    from dask.distributed import Client, LocalCluster

    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(temporary_directory=folder),
        LocalCluster(2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(quieten)
        sweep(client.get_executor(pure=False))  # equal calls are calls of their own


if __name__ == "__main__":
    sweep_on_dask() if "--dask" in sys.argv else sweep()
