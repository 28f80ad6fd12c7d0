"""Copies of a machine: each goes on by itself, with an identity of its own where that is asked."""

from __future__ import annotations

import shutil

import pytest

import vmm
from kvm_bindings import constants as c
from vmm.cli import main

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

DRIVER_OK, CONFIG_CHANGED = 4, 2


def exits_of(machine: vmm.Machine) -> int:
    return sum(vcpu.exits for vcpu in machine.vcpus)


def test_a_copy_goes_on_by_itself():
    with vmm.boot("payload:hello64") as machine:
        result = machine.run(timeout=60)
        wanted = (machine.console.output, exits_of(machine), result.reason, result.status)
    with vmm.boot("payload:hello64") as machine:
        machine.run(max_exits=20)
        before, exits = machine.console.output, exits_of(machine)
        with machine.fork() as first, machine.fork() as second, first.fork() as third:
            first.memory.write(0x3000, b"first")
            machine.memory.write(0x3000, b"mine!")
            with machine.fork() as later:
                for copy in (first, second, third, later):
                    result = copy.run(timeout=60)
                    found = (before + copy.console.output, exits + exits_of(copy))
                    assert (*found, result.reason, result.status) == wanted
                assert later.memory.read(0x3000, 5) == b"mine!"
            assert first.memory.read(0x3000, 5) == b"first"
            assert second.memory.read(0x3000, 5) == third.memory.read(0x3000, 5) == bytes(5)
        assert machine.run(timeout=60).reason == "halt"
        assert machine.console.output == wanted[0]


def test_a_copy_calls_the_same_functions_and_has_the_same_rom(machine):
    m = machine("e610 e411 f4")  # out 0x10, al; in al, 0x11; hlt
    seen = []
    m.on_out(0x10)(lambda value, size: seen.append(value))
    m.on_in(0x11)(lambda size: 0x5A)
    m.memory.add_rom(0xF_0000_0000, b"rom", "a rom")
    m.regs.rax = 7
    with m.fork() as copy:
        assert copy.run(timeout=60).reason == "halt"
        assert copy.regs.rax & 0xFF == 0x5A
        assert copy.memory.read(0xF_0000_0000, 4) == b"rom\xff"
    assert seen == [7]


def test_each_copy_has_another_generation_and_its_guest_is_told(machine):
    def told(machine):
        return machine.vm.get_irqchip(c.KVM_IRQCHIP_PIC_SLAVE).chip.pic.irr & 0x80

    m = machine("f4", irqchip=True)
    with m.snapshot() as none, vmm.restore(none) as copy:
        assert m.generation_id is copy.generation_id is None
        assert not told(copy)
    m.memory.write(0xE_F000, bytes(range(16)))
    m.settings["generation"] = [0xE_F000, 15]
    assert str(m.generation_id) == "03020100-0504-0706-0809-0a0b0c0d0e0f"
    with m.snapshot() as snapshot, vmm.restore(snapshot) as one, m.fork() as other:
        assert len({each.generation_id for each in (m, one, other)}) == 3
        assert [bool(told(each)) for each in (m, one, other)] == [False, True, True]
        drawn = one.generation_id
        with one.snapshot() as again:
            one.memory.write(0xE_F000, bytes(16))
            one.reset_to(again)  # the same machine, and the same again
            assert one.generation_id == drawn
    m.settings["generation"] = [1 << 40, 15]
    with m.snapshot() as snapshot, pytest.raises(vmm.SnapshotError, match="generation ID"):
        vmm.restore(snapshot)


@pytest.fixture
def original(boot, tmp_path):
    """A machine with a network card, whose driver is ready, and two disks."""
    if shutil.which("passt") is None:
        pytest.skip("no passt, which networks without privileges are made of")
    for name in ("root", "data"):
        (tmp_path / name).write_bytes(bytes(4096))
    disks = [f"{tmp_path}/root", f"{tmp_path}/data:ro,serial=D-1"]
    m = boot("payload:hello64", irqchip=True, net=["user,mac=52:54:00:00:00:01"], disks=disks)
    m.run(max_exits=5)
    m.devices["virtio-net"]  # made by now
    card(m).transport.status |= DRIVER_OK
    return m


def card(machine):
    return next(place.device for place in machine.virtio if place.name == "virtio-net")


def identity(machine):
    """The card's address, and the serial numbers of the disks."""
    mac = bytes(card(machine).values[f"mac{n}"] for n in range(6)).hex(":")
    serials = [
        p.device.disk.serial.decode() for p in machine.virtio if p.name.startswith("virtio-b")
    ]
    return mac, *serials


def test_a_copy_is_who_the_original_was_unless_it_is_to_be_another(original, tmp_path):
    was = ("52:54:00:00:00:01", "root", "D-1")
    assert identity(original) == was
    path = str(tmp_path / "snap")
    with original.snapshot(path):
        pass
    with original.fork() as copy:
        assert identity(copy) == was
        assert not card(copy).transport.interrupt_status & CONFIG_CHANGED
    others = {was}
    with original.fork(new_identity=True) as copy:
        others.add(identity(copy))
        assert card(copy).transport.interrupt_status & CONFIG_CHANGED  # its driver is told
        with copy.fork() as again:  # which is a copy of that one
            assert identity(again) == identity(copy)
        assert copy.run(timeout=60).reason == "halt"
    for _ in range(2):
        with vmm.restore(path, trust=True, new_identity=True) as copy:
            others.add(identity(copy))
    assert all(len(set(parts)) == 4 for parts in zip(*others, strict=True))
    with vmm.restore(path, net=["user,mac=52:54:00:00:00:02"], new_identity=True) as copy:
        assert identity(copy)[0] == "52:54:00:00:00:02"


def test_cables_can_lead_elsewhere(original, tmp_path, capsys):
    path = str(tmp_path / "snap")
    with original.snapshot(path):
        pass
    with pytest.raises(vmm.SnapshotError, match=r"net user,mac=.*--trust"):
        vmm.restore(path)
    with vmm.restore(path, net=["user"]) as copy:  # nothing of the snapshot's own is reached
        assert identity(copy)[0] == "52:54:00:00:00:01"
        assert copy.settings["net"] == ["user"]
    with original.fork(net=["user,mac=52:54:00:00:00:03"]) as copy:
        assert identity(copy)[0] == "52:54:00:00:00:03"
    with pytest.raises(vmm.ConfigError, match="has 1 network cards, and 2 are given"):
        original.fork(net=["user", "user"])
    with pytest.raises(vmm.ConfigError, match="has no sockets"):
        original.fork(vsock="4")
    assert main(["restore", path, "--net", "nowhere"]) == 2
    assert "begins with user or with tap=NAME" in capsys.readouterr().err
    assert main(["restore", path, "--net", "user", "--new-identity"]) == 0
