"""A real boot loader on the Python BIOS: Debian's GRUB, from its boot sector to its prompt."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import vmm

SCRIPT = Path(__file__).parents[1] / "grub" / "make_image.py"
EMULATED_RING_0 = Path("/sys/module/kvm_pvm").exists()

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        EMULATED_RING_0,
        reason="GRUB takes a minute where KVM emulates ring 0 (kvm_pvm); run it in the lab",
    ),
]


@pytest.fixture(scope="module")
def grub():
    spec = importlib.util.spec_from_file_location("make_image", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    missing = module.missing_tools()
    if missing:
        pytest.skip(missing)
    return module


def run_until(machine, text: str, *, tries: int = 300) -> None:
    """Run in slices until the console shows `text`."""
    for _ in range(tries):
        if text in machine.console.text:
            return
        result = machine.run(timeout=1)
        assert result.reason == "timeout", result.report()
    pytest.fail(f"no {text!r} on the console:\n{machine.console.text[-2000:]}")


def test_grub_on_the_serial_line(grub, tmp_path):
    image = tmp_path / "grub.img"
    image.write_bytes(grub.make_image())
    with vmm.boot(str(image), memory="64M") as machine:
        run_until(machine, "grub> ")
        machine.console.send("echo glass${x}box\r")
        run_until(machine, "\rglassbox")
        machine.console.send("halt\r")
        result = machine.run(timeout=60)
        assert result.reason == "poweroff", result.report()
        assert machine.bios.calls[0x13] > 1
        assert machine.bios.notes == []


def test_grub_on_screen_and_keyboard(grub, tmp_path):
    image = tmp_path / "grub.img"
    config = "terminal_input console\nterminal_output console\n"
    image.write_bytes(grub.make_image(config))
    with vmm.boot(str(image), memory="64M") as machine:
        run_until(machine, "grub> ")
        machine.console.send("echo glass${x}box\r")
        run_until(machine, "\rglassbox")
        assert any(row.startswith("glassbox") for row in machine.bios.screen)
        machine.console.send("reboot\r")
        result = machine.run(timeout=60)
        assert result.reason == "reset", result.report()
