"""Whatever a driver does, a device answers, ends what it does, and says when it needs a reset."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.driver import Driver, Ram
from devices.virtio.mmio import VirtioMmio


@pytest.fixture(scope="module")
def hostile(request):
    """The attack of this folder's conftest."""
    plugins = request.config.pluginmanager.get_plugins()
    return next(p for p in plugins if hasattr(p, "Attack") and hasattr(p, "DEVICES"))


KINDS = ("rng", "blk", "console", "ports", "net", "vsock", "balloon", "pmem")


def test_every_kind_is_attacked(hostile):
    assert set(hostile.DEVICES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=50, max_size=800))
def test_attacks_end(hostile, kind, data):
    hostile.Attack(kind, hostile.Numbers(data)).run()


@pytest.mark.parametrize("kind", KINDS)
def test_long_attacks_end(hostile, kind):
    for seed in range(15):
        data = random.Random(seed).randbytes(4000)
        hostile.Attack(kind, hostile.Numbers(data)).run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_works_again_after_an_attack(hostile, kind):
    """A reset is enough: nothing of what was done before is left."""
    attack = hostile.Attack(kind, hostile.Numbers(random.Random(kind).randbytes(4000)))
    attack.run()
    fresh = VirtioMmio(hostile.DEVICES[kind](), memory=Ram(0x10000))
    attack.device.reset()
    assert attack.device.save() == fresh.save()
    assert Driver(attack.device, attack.memory, 0x1000, 0x8000).start(queue_size=8)
