"""Boot Debian's kernel beside QEMU's microvm, in one run on one host: make bench-linux.

Runs inside the lab, where there are a kernel in /boot, busybox and QEMU. Nothing passes or fails
here: the figures are printed, and kept as JSON in /results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "guest")]

import linux_boot  # noqa: E402
import linux_io  # noqa: E402
from initramfs import make_initramfs  # noqa: E402
from linux_sides import MEMORY_MIB, SIDES, Guest  # noqa: E402

from vmm.lab.initramfs import load_order, read_module  # noqa: E402

KVMTOOL_S = 8.0
"""What kvmtool took to init on such a host, measured once; it is in no Debian release."""

Rounds = list[dict[str, dict[str, float]]]


def modules_of(kernel: Path) -> dict[str, bytes]:
    """The modules that the devices need, by their names in the initramfs."""
    folder = Path("/lib/modules", kernel.name.removeprefix("vmlinuz-"))
    needs, builtin = (folder / "modules.dep").read_text(), (folder / "modules.builtin").read_text()
    paths = load_order(linux_io.MODULES, needs, builtin)
    return {f"modules/{number:02}.ko": read_module(folder / p) for number, p in enumerate(paths)}


def take_turns(count: int, measure: Callable[[str], dict[str, float]], what: str) -> Rounds:
    """Measure both sides in each round; who is first takes turns."""
    rounds: Rounds = []
    for number in range(count):
        print(f"{what}, round {number + 1} of {count} ...", file=sys.stderr, flush=True)
        sides = list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]
        rounds.append({side: measure(side) for side in sides})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    return rounds


def report(rounds: Rounds, units: Mapping[str, str]) -> None:
    """Print the figures: the medians, and the median and the spread of the rounds' ratios."""
    for what, unit in units.items():
        ratios = sorted(one["ours"][what] / one["qemu"][what] for one in rounds)
        own, other = (
            f"{statistics.median(one[side][what] for one in rounds):,.1f} {unit}" for side in SIDES
        )
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
        print(f"{what:20} ours {own:>14}   QEMU {other:>14}   ratio {spread}")


def main() -> int:
    """Measure, print, keep; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--only", choices=("boot", "io"), help="one of the two parts")
    options = parser.parse_args()
    kernel = max(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    kept: dict[str, object] = {"kernel": kernel.name, "cpus": options.cpus}
    print(f"{kernel.name}, {options.cpus} CPUs, {MEMORY_MIB} MiB, {options.rounds} rounds, medians")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        initrd = folder / "initrd"
        if options.only != "io":
            initrd.write_bytes(make_initramfs(linux_boot.SCRIPT))
            guest = Guest(kernel, initrd, options.cpus)
            rounds = take_turns(
                options.rounds, lambda side: linux_boot.measure(side, guest), "boot"
            )
            report(rounds, linux_boot.FIGURES)
            print(f"kvmtool took {KVMTOOL_S:.0f} s to init on such a host, at another time")
            kept["boot"] = rounds
        if options.only != "boot":
            initrd.write_bytes(make_initramfs(linux_io.script(), modules_of(kernel)))
            disk = linux_io.disk_of(folder)
            with linux_io.at_the_other_end("bench0", folder):
                for vhost in (True, False):
                    words = "with vhost" if vhost else "without vhost"
                    guest = Guest(kernel, initrd, options.cpus, disk, "bench0", vhost)
                    rounds = take_turns(
                        options.rounds, lambda side, g=guest: linux_io.measure(side, g), words
                    )
                    print(f"network {words}:")
                    report(rounds, linux_io.FIGURES)
                    kept[words] = rounds
    results = Path("/results")
    if results.is_dir():
        (results / f"linux-{options.cpus}.json").write_text(json.dumps(kept, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
