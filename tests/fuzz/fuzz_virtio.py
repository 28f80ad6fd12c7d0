"""Fuzz every virtio device type through its registers and rings: nothing raises or hangs.

    python tests/fuzz/fuzz_virtio.py -max_total_time=60

Arguments are libFuzzer's. The first byte of an input chooses a device type; the rest is what a
driver does to it (`tests/unit/devices/virtio/conftest.py`).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris

ROOT = Path(__file__).resolve().parents[2]

with atheris.instrument_imports(include=["devices"]):
    spec = importlib.util.spec_from_file_location(
        "fuzz_attack", ROOT / "tests/unit/devices/virtio/conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    attack = importlib.util.module_from_spec(spec)
    sys.modules[attack.__name__] = attack
    spec.loader.exec_module(attack)

KINDS = tuple(attack.DEVICES)


def test_one_input(data: bytes) -> None:
    """Do to one device what the input says; raise if it breaks a rule."""
    numbers = attack.Numbers(data)
    attack.Attack(KINDS[numbers.take() % len(KINDS)], numbers).run()


def main() -> None:
    """Run libFuzzer with the arguments of the command line."""
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
