"""The kick without a vCPU: the signal is blocked and waited for, so that nothing is timed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm_bindings import signals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")

PATIENCE = 20.0


@pytest.fixture
def blocked() -> Iterator[None]:
    signals.install()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signals.KICK_SIGNAL})
    yield
    while signal.sigtimedwait({signals.KICK_SIGNAL}, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def arrived(patience: float = PATIENCE) -> bool:
    return signal.sigtimedwait({signals.KICK_SIGNAL}, patience) is not None


def test_a_real_time_signal() -> None:
    assert signal.SIGRTMIN < signals.KICK_SIGNAL < signal.SIGRTMAX


def test_a_kick_reaches_the_thread(blocked: None) -> None:
    assert not arrived(0)
    signals.kick(threading.get_ident())
    assert arrived()


def test_a_kick_without_a_vcpu_is_harmless() -> None:
    # In a process of its own, whose handler is installed by a thread that is not the main one:
    # without the handler the signal would end the process.
    script = (
        "import threading\n"
        "from kvm_bindings import signals\n"
        "t = threading.Thread(target=signals.install); t.start(); t.join()\n"
        "for _ in range(100): signals.kick(threading.get_ident())\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


def test_a_blocking_read_goes_on_after_a_kick() -> None:
    signals.install()
    readable, writable = os.pipe()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.read(readable, 1)))
    reader.start()
    assert reader.ident is not None
    for _ in range(50):
        signals.kick(reader.ident)
    os.write(writable, b"x")
    reader.join(PATIENCE)
    assert got == [b"x"]
    os.close(readable)
    os.close(writable)


def test_a_heartbeat_repeats_until_it_is_stopped(blocked: None) -> None:
    with signals.Heartbeat() as heartbeat:
        heartbeat.start(1_000_000, 1_000_000)
        for _ in range(5):
            assert arrived()
        heartbeat.stop()
        arrived(0)  # one may have come before the stop
        assert not arrived(0.05)


def test_a_heartbeat_kicks_the_thread_that_made_it(blocked: None) -> None:
    result: list[bool] = []

    def work() -> None:
        # The mask is inherited: blocked here too.
        with signals.Heartbeat() as heartbeat:
            heartbeat.start(1_000_000, 1_000_000)
            result.append(arrived())
            heartbeat.stop()
            arrived(0)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join(PATIENCE)
    assert result == [True]
    assert not arrived(0)


def test_a_heartbeat_is_closed_once_and_silent_then(blocked: None) -> None:
    heartbeat = signals.Heartbeat()
    heartbeat.close()
    heartbeat.close()
    heartbeat.start(1_000_000, 1_000_000)
    heartbeat.stop()
    assert not arrived(0.02)


@pytest.mark.parametrize("times", [(0, 1), (1, 0), (-1, 1)])
def test_a_heartbeat_needs_times_above_zero(times: tuple[int, int]) -> None:
    with signals.Heartbeat() as heartbeat, pytest.raises(ValueError, match="above 0"):
        heartbeat.start(*times)


def test_closed_heartbeats_leave_no_timers() -> None:
    timers = Path("/proc/self/timers")
    if not timers.exists():
        pytest.skip("this kernel does not list timers")
    ours = f"signal: {signals.KICK_SIGNAL}/"
    before = timers.read_text().count(ours)  # of machines that are open
    with signals.Heartbeat():
        assert timers.read_text().count(ours) == before + 1
    for _ in range(100):
        signals.Heartbeat().close()
    assert timers.read_text().count(ours) == before
