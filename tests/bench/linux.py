"""Boot Debian's kernel beside QEMU's microvm, in one run on one host: make bench-linux.

Runs inside the lab, where there are a kernel in /boot, busybox and QEMU. Nothing passes or fails
here: the figures are printed, and kept as JSON in /results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "guest")]

from initramfs import make_initramfs  # noqa: E402

INIT = b"init is here"
SCRIPT = f"echo {INIT.decode()}\nread line\npoweroff -f\n"
MEMORY_MIB = 256
APPEND = "console=ttyS0 quiet panic=-1 reboot=t"
PATIENCE_S = 240
KVMTOOL_S = 8.0
"""What kvmtool took to init on such a host, measured once; it is in no Debian release."""


class Boot:
    """What one boot took.

    `to_init` and `in_all` are seconds of the host's clock from the start of the program, `own_kib`
    the memory that the program holds beside the guest's when init runs.
    """

    def __init__(self, to_init: float, in_all: float, own_kib: int) -> None:
        self.to_init, self.in_all, self.own_kib = to_init, in_all, own_kib


def boot(command: Sequence[str]) -> Boot:
    """Boot a guest to its init, look at the program's memory, and let the guest power off.

    Raises:
        RuntimeError: it did not get there; the text has the end of its console.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        text = b""
        try:
            while INIT not in text:
                piece = os.read(process.stdout.fileno(), 4096)
                text += piece
                if not piece or time.monotonic() - began > PATIENCE_S:
                    last = text.decode(errors="replace")[-600:]
                    raise RuntimeError(f"{command[0]} did not reach init:\n{last}")
            to_init = time.monotonic() - began
            own = own_memory_kib(process.pid)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.wait(PATIENCE_S)
        finally:
            process.kill()
    return Boot(to_init, time.monotonic() - began, own)


def own_memory_kib(pid: int) -> int:
    """The memory of a process that is its share, without mappings as large as the guest's RAM."""
    own = size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Size":
            size = int(value.split()[0])
        elif name == "Pss" and size < MEMORY_MIB * 1024 * 0.9:
            own += int(value.split()[0])
    return own


def ours(kernel: Path, initrd: Path, cpus: int) -> list[str]:
    """The command that boots with this monitor."""
    return [
        *(sys.executable, "-m", "vmm", "run", str(kernel), "--initrd", str(initrd)),
        *("--append", APPEND, "--memory", f"{MEMORY_MIB}M", "--cpus", str(cpus)),
        *("--cpu", "-xsave"),
    ]


def qemu(kernel: Path, initrd: Path, cpus: int) -> list[str]:
    """The command that boots with QEMU's microvm, as its documentation has it for a PC's serial
    port; CPUs of the host, and the same kernel, memory and command line."""
    return [
        *("qemu-system-x86_64", "-M", "microvm,accel=kvm", "-cpu", "host,-xsave"),
        *("-m", f"{MEMORY_MIB}M", "-smp", str(cpus), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", APPEND),
    ]


def main() -> int:
    """Measure, print, keep; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=1)
    options = parser.parse_args()
    kernel = max(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as folder:
        initrd = Path(folder) / "initrd"
        initrd.write_bytes(make_initramfs(SCRIPT))
        rounds = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
            sides = [("ours", ours), ("qemu", qemu)]
            if number % 2:
                sides.reverse()
            found = {name: boot(make(kernel, initrd, options.cpus)) for name, make in sides}
            rounds.append({name: vars(one) for name, one in found.items()})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report(kernel, options.cpus, rounds)
    return 0


def report(kernel: Path, cpus: int, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print the figures and keep them."""

    def middle(side: str, what: str) -> float:
        return statistics.median(one[side][what] for one in rounds)

    def ratios(what: str) -> list[float]:
        return sorted(one["ours"][what] / one["qemu"][what] for one in rounds)

    print(f"{kernel.name}, {cpus} CPUs, {MEMORY_MIB} MiB, {len(rounds)} rounds, median")
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("to init", "to_init", lambda value: f"{value:.1f} s"),
        ("to the end", "in_all", lambda value: f"{value:.1f} s"),
        ("own memory", "own_kib", lambda value: f"{value / 1024:.1f} MiB"),
    ]
    for label, what, form in rows:
        spread = ratios(what)
        one, other = form(middle("ours", what)), form(middle("qemu", what))
        between = f"{statistics.median(spread):.2f} ({spread[0]:.2f}..{spread[-1]:.2f})"
        print(f"{label:12} ours {one:>10}   QEMU {other:>10}   ratio {between}")
    print(f"kvmtool took {KVMTOOL_S:.0f} s to init on a host like this one, at another time")
    results = Path("/results")
    if results.is_dir():
        kept = {"kernel": kernel.name, "cpus": cpus, "memory_mib": MEMORY_MIB, "rounds": rounds}
        (results / f"linux-{cpus}.json").write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    raise SystemExit(main())
