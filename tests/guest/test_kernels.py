"""Kernels of other ages and widths than that of the host, to their init.

    make lab-guests

fetches them and runs this in the lab, with the others of this folder. Elsewhere $GLASSVM_KERNELS
is the folder that `fetch_kernels.py` has filled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guest.emulation import IN_THE_LAB

Linux = Callable[..., Any]

KERNELS = Path(os.environ.get("GLASSVM_KERNELS", "/files"))
COMPLAINTS = "WARNING|BUG:|Oops|Call Trace|unchecked MSR|unexpected|Firmware Bug|not responding"
SCRIPT = f"""\
echo "init runs on $(uname -rm) with $(nproc) CPUs"
echo complaints; dmesg | grep -iE "{COMPLAINTS}"; echo end of complaints
poweroff -f
"""


# In the lab QEMU's microvm, the control, ends in the same way with these: its AMD-V, which is
# emulated, is not up to them.
NOT_IN_THE_LAB = {
    ("bookworm-686-pae", 1): "a kernel with PAE comes to no console, in QEMU's guests as well",
    ("bookworm-686-pae", 2): "a kernel with PAE comes to no console, in QEMU's guests as well",
}


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize(
    ("name", "release", "machine"),
    [
        ("bullseye", r"5\.10\.", "x86_64"),
        ("bookworm-backports", r"6\.\d+\.", "x86_64"),
        ("bookworm-686", r"6\.1\.", "i686"),
        ("bookworm-686-pae", r"6\.1\.", "i686"),
    ],
)
def test_a_kernel(linux: Linux, name: str, release: str, machine: str, cpus: int) -> None:
    image = KERNELS / f"{name}.vmlinuz"
    if not image.is_file():
        pytest.skip(f"no {image}: the head of {Path(__file__).name} says how to have one")
    if IN_THE_LAB and (name, cpus) in NOT_IN_THE_LAB:
        pytest.skip(f"not in the lab: {NOT_IN_THE_LAB[name, cpus]}")
    options = {"busybox": KERNELS / "busybox-i386"} if machine == "i686" else {}
    guest = linux(SCRIPT, image=image, cpus=cpus, **options)
    assert re.search(rf"init runs on {release}\S+ {machine} with {cpus} CPUs", guest.text), (
        guest.result.report()
    )
    assert guest.between("complaints", "end of complaints") == []
    assert guest.result.reason == "poweroff", guest.result.report()
