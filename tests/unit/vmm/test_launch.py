"""From an image to a machine: everything that is decided before there is KVM."""

from __future__ import annotations

import pytest

import vmm.launch
from vmm.errors import BootError, ConfigError, KvmUnavailable
from vmm.launch import boot
from vmm.loader.plan import BootPlan, Start


@pytest.fixture
def asked(monkeypatch):
    """What kind of machine would have been made."""
    found = {}

    def machine(memory, cpus, irqchip, **options):
        found.update(memory=memory, cpus=cpus, irqchip=irqchip, **options)
        raise KvmUnavailable("no KVM in this test")

    monkeypatch.setattr(vmm.launch, "Machine", machine)

    def ask(*args, **options):
        with pytest.raises(KvmUnavailable):
            boot(*args, **options)
        return found

    return ask


@pytest.fixture
def image(tmp_path):
    def make(data: bytes, name: str = "image"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


BOOT_SECTOR = b"\xf4".ljust(510, b"\0") + b"\x55\xaa"


def test_a_flat_guest_gets_a_bare_processor(asked, image):
    found = asked(image(b"\xf4"), format="flat16")
    assert (found["memory"], found["cpus"], found["irqchip"]) == (64 << 20, 1, False)


def test_a_boot_sector_gets_interrupts(asked, image):
    assert asked(image(BOOT_SECTOR))["irqchip"] is True
    assert asked(image(BOOT_SECTOR), irqchip=False)["irqchip"] is False


@pytest.mark.parametrize("format", ["linux", "linux32", "vmlinux", "pvh"])
def test_a_linux_kernel_gets_more_memory_and_interrupts(asked, image, monkeypatch, format):
    seen = []

    def load(data, options, format):
        seen.append(options)
        return BootPlan(format, Start("long"), wants_tables=True)

    monkeypatch.setattr(vmm.launch, "load", load)
    initrd = image(b"cpio", "initrd")
    found = asked(image(b"kernel"), format=format, initrd=initrd)
    assert (found["memory"], found["cpus"], found["irqchip"]) == (256 << 20, 1, True)
    assert asked(image(b"kernel"), format=format, memory="5G")["memory"] == 5 << 30
    (first, second) = seen
    assert (first.initrd.name, bytes(first.initrd.data)) == ("initrd", b"cpio")
    assert second.initrd is None
    assert len(first.rng_seed) == 32
    assert first.rng_seed != second.rng_seed


def test_tables_want_interrupt_controllers(monkeypatch, image):
    plan = BootPlan("linux", Start("long"), wants_tables=True)
    monkeypatch.setattr(vmm.launch, "load", lambda data, options, format: plan)
    with pytest.raises(ConfigError, match=r"^--smbios: image finds no tables .*--irqchip on$"):
        boot(image(b"kernel"), format="linux", irqchip=False, smbios=["serial=x"])


def test_an_initrd_that_cannot_be_read(image, tmp_path):
    with pytest.raises(BootError, match=r"initrd\.img: no such file"):
        boot(image(b"kernel"), format="linux", initrd=tmp_path / "initrd.img")


def test_a_payload_knows_what_it_needs(asked):
    found = asked("payload:smp")
    assert (found["cpus"], found["irqchip"]) == (4, True)
    assert asked("payload:smp", cpus=2)["cpus"] == 2
    assert asked("payload:hello64")["irqchip"] is False


def test_options_reach_the_machine(asked):
    found = asked(
        "payload:hello16",
        memory="2M",
        cpu="-cx16",
        strict=True,
        huge_pages=True,
        kvm="/dev/other",
    )
    expected = {"memory": 2 << 20, "cpu": "-cx16", "strict": True, "huge_pages": True}
    assert found.items() >= {**expected, "kvm": "/dev/other"}.items()


@pytest.mark.parametrize(
    ("size", "drive"), [(512, 0x80), (1440 << 10, 0x00), (360 << 10, 0x00), (10 << 20, 0x80)]
)
def test_an_image_of_a_floppys_size_is_a_floppy(asked, image, monkeypatch, size, drive):
    plans = []
    load = vmm.launch.load

    def look(data, options, name):
        plans.append(options)
        return load(data, options, name)

    monkeypatch.setattr(vmm.launch, "load", look)
    path = image(BOOT_SECTOR.ljust(size, b"\0"))
    asked(path)
    asked(path, boot_drive=0x81)
    assert [options.boot_drive for options in plans] == [drive, 0x81]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ("", {}, "the name of the image is empty"),
        ("payload:", {}, "'vmm payloads' lists them"),
        ("payload:tripple_fault", {}, "did you mean payload:triple_fault?"),
        ("no-such-file", {}, "no-such-file: no such file"),
        ("/", {}, "a directory"),
        ("payload:hello16", {"memory": 0}, "memory of 0 bytes"),
        ("payload:hello16", {"memory": "4K"}, "outside of memory"),
        ("payload:hello16", {"modules": ["no-such-module"]}, "no-such-module: no such file"),
        ("payload:hello16", {"append": "x"}, "means nothing to the format flat16"),
        ("payload:hello16", {"cpl": 3}, "means nothing to the format flat16"),
        ("payload:hello16", {"disks": ["x"]}, "hello16 is booted as flat16"),
        ("payload:hello16", {"smbios": ["serial=x"]}, "which finds no SMBIOS tables"),
        ("payload:hello16", {"smbios": ["serial"]}, "'serial' is not NAME=VALUE"),
        ("payload:bootsector", {"smbios": ["serial=x"]}, "is booted as bootsector, which finds no"),
        ("payload:hello16", {"format": "elf64"}, "not an ELF file"),
        ("payload:hello16", {"format": "exe"}, "--format exe: not known"),
        ("payload:bootsector", {"boot_drive": 0x100}, "boot drive 0x100"),
    ],
)
def test_what_is_wrong_is_said_without_kvm(arguments, options, message):
    with pytest.raises((BootError, ConfigError)) as caught:
        boot(arguments, **options)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert caught.value.status == 2


def test_an_image_that_was_emptied_is_refused(image):
    path = image(BOOT_SECTOR)
    path.write_bytes(b"")
    with pytest.raises(BootError, match="empty"):
        boot(path)
