from __future__ import annotations

from collections.abc import Callable

import pytest

from vmm.errors import BootError
from vmm.loader import load
from vmm.loader.plan import BootOptions

Options = Callable[..., BootOptions]
ANYWAY = "; use --format flat16 to run it anyway"
SECTOR = b"\xeb\xfe" + bytes(508) + b"\x55\xaa"


def test_the_first_sector_starts_at_7c00_with_a_bios(options: Options) -> None:
    plan = load(SECTOR + b"rest of the disk" * 64, options(boot_drive=0x81), "bootsector")
    assert plan.format == "bootsector"
    assert [(w.gpa, bytes(w.data)) for w in plan.writes] == [(0x7C00, SECTOR)]
    assert plan.bios
    assert (plan.start.mode, plan.start.entry, plan.start.segment) == ("real", 0x7C00, 0)
    assert plan.start.registers == {"rdx": 0x81, "rsp": 0x7C00}


def test_first_hard_disk_by_default(options: Options) -> None:
    assert load(SECTOR, options()).start.registers["rdx"] == 0x80


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            bytes(512),
            "k: not a boot sector: bytes 510..511 are 00 00, expected 55 aa" + ANYWAY,
        ),
        (
            SECTOR[:511],
            "k: not a boot sector: 511 bytes, expected at least 512" + ANYWAY,
        ),
    ],
)
def test_no_signature(options: Options, image: bytes, message: str) -> None:
    with pytest.raises(BootError) as caught:
        load(image, options(), "bootsector")
    assert str(caught.value) == message


def test_the_bios_needs_its_memory(options: Options) -> None:
    with pytest.raises(BootError, match=r"memory ends at 0xa0000; use --memory 1M"):
        load(SECTOR, options(640 << 10))
    assert load(SECTOR, options(1 << 20)).bios
