"""The catalogue of guests: complete, consistent with the images, and honest about what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

import firmware.payloads
from firmware.payloads import PAYLOADS, SMP_CPUS_OFFSET, Payload, payload
from firmware.start_tables import START_TABLES_SIZE

DIRECTORY = Path(firmware.payloads.__file__).parent
EACH = pytest.mark.parametrize("guest", PAYLOADS.values(), ids=PAYLOADS.keys())


def test_every_guest_that_the_project_promises_is_there() -> None:
    assert set(PAYLOADS) >= {
        "hello16",
        "hello32",
        "hello64",
        "bootsector",
        "serial_echo",
        "pit_ticks",
        "lapic_ticks",
        "smp",
        "mmio",
        "page_fault",
        "triple_fault",
        "ring3_compute",
    }


def test_every_image_and_source_belongs_to_the_catalogue() -> None:
    images = {path.stem for path in DIRECTORY.glob("*.bin")}
    assert images == set(PAYLOADS)
    sources = {path.stem for path in DIRECTORY.glob("*.S")}
    assert set(PAYLOADS) <= sources
    for shared in sources - set(PAYLOADS):
        text = (DIRECTORY / f"{shared}.S").read_text()
        assert text.startswith("# Shared by the payloads"), shared
        included = f'.include "{shared}.S"'
        assert any(included in guest.source_path.read_text() for guest in PAYLOADS.values())


@EACH
def test_image_fits_its_machine(guest: Payload) -> None:
    image = guest.image()
    assert image
    end = guest.load_addr + len(image)
    if guest.format in ("bootsector", "flat16"):
        assert guest.load_addr == 0x7C00
        assert end <= 0x10000
    elif guest.format == "firmware":
        assert end == 1 << 32
        assert not len(image) % 4096
    else:
        assert guest.load_addr == 0x100000
        assert end <= guest.memory - START_TABLES_SIZE


@EACH
def test_description_is_consistent(guest: Payload) -> None:
    assert (guest.status is not None) == (guest.ends == "debug_exit")
    assert guest.cpl == 0 or guest.format in ("flat32", "flat64")
    assert guest.cpus == 1 or guest.irqchip, "INIT and SIPI travel through the local APICs"
    assert guest.ends != "halt" or not guest.irqchip, "HLT waits where there is an irqchip"


@pytest.mark.parametrize(
    "name",
    ["hello16", "hello32", "hello64", "bootsector", "pit_ticks", "lapic_ticks", "mmio"],
)
def test_image_holds_the_text_it_prints(name: str) -> None:
    guest = payload(name)
    assert guest.console + b"\0" in guest.image()


def test_bootsector_is_one_sector_with_the_signature() -> None:
    image = payload("bootsector").image()
    assert len(image) == 512
    assert image[510:] == b"\x55\xaa"


def test_smp_waits_for_as_many_processors_as_it_is_given() -> None:
    guest = payload("smp")
    cell = guest.image()[SMP_CPUS_OFFSET : SMP_CPUS_OFFSET + 4]
    assert int.from_bytes(cell, "little") == guest.cpus
    numbers = " ".join(map(str, range(guest.cpus))).encode()
    assert numbers in guest.console
    other = guest.image(cpus=2)
    assert int.from_bytes(other[SMP_CPUS_OFFSET : SMP_CPUS_OFFSET + 4], "little") == 2
    assert other[SMP_CPUS_OFFSET + 4 :] == guest.image()[SMP_CPUS_OFFSET + 4 :]


def test_serial_echo_answers_in_upper_case_up_to_q() -> None:
    guest = payload("serial_echo")
    banner, answer = guest.console.split(b"\n", 1)
    typed, rest = guest.input.split(b"q", 1)
    assert answer == typed.upper()
    assert rest == b""
    assert banner + b"\n\0" in guest.image()


def test_ring3_compute_prints_what_the_generator_gives() -> None:
    """The n-th value in closed form: x -> a*x + c, composed with itself by squaring."""
    mask = (1 << 64) - 1
    a, c = 6364136223846793005, 1442695040888963407
    total_a, total_c, steps = 1, 0, 10_000_000
    while steps:
        if steps & 1:
            total_a, total_c = total_a * a & mask, (total_c * a + c) & mask
        a, c = a * a & mask, (c * a + c) & mask
        steps >>= 1
    assert payload("ring3_compute").console == b"%016x\n" % total_c


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no payload 'hello'; there are hello16, "):
        payload("hello")


def test_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PAYLOADS["x"] = payload("spin")  # type: ignore[index]
