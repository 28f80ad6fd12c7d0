"""Two guests, one in real mode and one in long mode, with their consoles and exits.

Where KVM cannot be used it says why, and runs itself in the lab if QEMU is installed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import vmm
from vmm.cli.stats import print_stats

ROOT = Path(__file__).resolve().parent.parent


def show(name: str) -> None:
    """Boot a built-in guest, print its console as it comes, then its exits."""
    print(f"-- payload:{name}", flush=True)
    with vmm.boot(f"payload:{name}", console=write) as machine:
        counts = machine.count_exits()
        result = machine.run(timeout=60)
        sys.stdout.flush()
        print_stats(machine, counts, result)
        print(f"   {result.summary()}, {result.seconds * 1000:.1f} ms\n", flush=True)


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def in_the_lab() -> int:
    """Run this same file in the lab."""
    if os.environ.get("GLASSVM_LAB") or not shutil.which("qemu-system-x86_64"):
        print("the lab would run it without KVM: sudo apt install qemu-system-x86", file=sys.stderr)
        return 4
    print("running the demo in the lab, on an AMD-V host emulated by QEMU:", flush=True)
    lab = [sys.executable, "-m", "vmm.lab", "--folder", str(ROOT)]
    return subprocess.call([*lab, "--", "python3", "examples/demo.py"])


def main() -> int:
    try:
        show("hello16")
        show("hello64")
    except vmm.KvmUnavailable as error:
        print(f"no KVM: {error}", file=sys.stderr)
        return in_the_lab()
    return 0


if __name__ == "__main__":
    sys.exit(main())
