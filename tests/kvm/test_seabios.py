"""Real firmware: Debian's SeaBIOS, from the reset vector to its last boot attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

import vmm

IMAGES = [Path("/usr/share/seabios/bios.bin"), Path("/usr/share/seabios/bios-256k.bin")]


@pytest.mark.kvm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_seabios_boots_and_looks_for_something_to_boot(image: Path) -> None:
    if not image.exists():
        pytest.skip(f"{image.name} is not here: apt install seabios")
    with vmm.boot(image) as machine:
        assert machine.plan is not None
        assert machine.plan.format == "firmware"
        for _ in range(100):
            result = machine.run(timeout=2)
            if "No bootable device." in machine.console.text:
                break
            assert result.reason == "timeout", result.report()
    text = machine.console.text
    assert text.index("SeaBIOS (version") < text.index("enter handle_19")
    assert "fw_cfg DMA interface supported" in text
    assert "PCI: init bdf=00:00.0 id=8086:1237" in text
    assert "Booting from Floppy..." in text
    assert "Booting from Hard Disk..." in text
    assert text.rstrip().endswith("Retrying in 60 seconds.")
