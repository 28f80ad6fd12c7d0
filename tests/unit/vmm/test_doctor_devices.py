"""What the doctor says of taps, vhost and programs, on hosts that the test makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm import doctor_devices
from vmm.doctor_devices import devices
from vmm.findings import Host


def test_a_host_with_everything(tmp_path: Path) -> None:
    for name in ("net/tun", "vhost-net", "vhost-vsock"):
        node = tmp_path / "dev" / name
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
    found = list(devices(Host(root=tmp_path, which=lambda name: f"/usr/bin/{name}")))
    assert [f.name for f in found] == [
        "/dev/net/tun",
        "/dev/vhost-net",
        "/dev/vhost-vsock",
        "passt",
        "virtiofsd",
        "qemu-storage-daemon",
    ]
    assert {(f.level, f.fix, f.value.split(":")[0]) for f in found} == {("ok", "", "there")}


def test_a_host_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_devices, "PLACES", ())
    found = list(devices(Host(root=tmp_path, which=lambda name: None)))
    assert {f.level for f in found} == {"note"}
    assert all(f.value.startswith("missing: ") for f in found)
    fixes = [f.fix for f in found]
    assert fixes[:3] == [f"sudo modprobe {m}" for m in ("tun", "vhost_net", "vhost_vsock")]
    assert all("apt-get install" in fix for fix in fixes[3:])
