"""vhost's requests: their numbers once more by hand, and what is said where there is no device."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kvm_bindings import KvmError, vhost

BY_HAND = {
    "VHOST_GET_FEATURES": 0x8008AF00,
    "VHOST_SET_FEATURES": 0x4008AF00,
    "VHOST_SET_OWNER": 0xAF01,
    "VHOST_SET_MEM_TABLE": 0x4008AF03,
    "VHOST_SET_VRING_NUM": 0x4008AF10,
    "VHOST_SET_VRING_ADDR": 0x4028AF11,
    "VHOST_SET_VRING_BASE": 0x4008AF12,
    "VHOST_GET_VRING_BASE": 0xC008AF12,
    "VHOST_SET_VRING_KICK": 0x4008AF20,
    "VHOST_SET_VRING_CALL": 0x4008AF21,
    "VHOST_SET_VRING_ERR": 0x4008AF22,
    "VHOST_NET_SET_BACKEND": 0x4008AF30,
    "VHOST_VSOCK_SET_GUEST_CID": 0x4008AF60,
    "VHOST_VSOCK_SET_RUNNING": 0x4004AF61,
}


def test_numbers() -> None:
    assert {name: int(request) for name, request in vhost.REQUESTS.items()} == BY_HAND


def test_a_device_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KvmError, match="modprobe vhost_net") as caught:
        vhost.VhostNet(str(tmp_path / "vhost-net"))
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(KvmError, match="modprobe vhost_vsock"):
        vhost.VhostVsock(str(tmp_path / "vhost-vsock"))


def test_what_is_not_vhost_is_closed_again() -> None:
    with pytest.raises(KvmError, match="VHOST_SET_OWNER") as caught:
        vhost.VhostNet("/dev/null")
    assert caught.value.errno == errno.ENOTTY
