"""Many workers with machines of one snapshot."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vmm

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(300)]

# Waits at the first exit for what to add up, in 0x2000: mov al, [0x2000]; add al, [0x2001]; hlt
ADDER = bytes.fromhex("e680 a00020 02060120 f4")


def ignore(machine):
    machine.on_out(0x80)(lambda value, size: None)


def add(machine, first, second=1):
    assert machine.memory.read(0x2000, 2) == b"\0\0"  # nothing is left of the task before
    machine.memory.write(0x2000, bytes([first, second]))
    assert machine.run(timeout=60).reason == "halt"
    return machine.regs.rax & 0xFF


def fail(machine):
    raise LookupError("on purpose")


@pytest.fixture
def waiting(machine):
    m = machine()
    m.memory.write(0x1000, ADDER)
    ignore(m)
    m.run(max_exits=1)
    with m.snapshot() as snapshot:
        yield snapshot


@pytest.mark.command
def test_processes_of_its_own(waiting):
    with vmm.Pool(waiting, workers=2, setup=ignore) as pool:
        assert list(pool.map(add, range(50), range(50, 100))) == [50 + 2 * n for n in range(50)]
        assert pool.submit(add, 2, second=3).result() == 5
        with pytest.raises(LookupError, match="on purpose"):
            pool.submit(fail).result()
        assert pool.submit(add, 4).result() == 5  # the worker goes on
    with pytest.raises(RuntimeError):
        pool.submit(add, 1)


def test_an_executor_of_somebody_elses(waiting, tmp_path):
    from vmm.snapshot.file import save_snapshot

    path = tmp_path / "adder.snap"
    save_snapshot(waiting, path).close()
    with ThreadPoolExecutor(3) as threads:
        with vmm.Pool(path, executor=threads, setup=ignore) as pool:
            assert sorted(pool.map(add, range(30))) == list(range(1, 31))
        assert threads.submit(len, "abc").result() == 3  # it is left as it was


def test_its_end_waits_for_the_calls_that_it_took(waiting):
    begun, go_on = threading.Event(), threading.Event()

    def hold(machine):
        begun.set()
        assert go_on.wait(60)
        return machine.regs.rip

    with ThreadPoolExecutor(1) as threads:
        pool = vmm.Pool(waiting, executor=threads, setup=ignore)
        held = pool.submit(hold)
        assert begun.wait(60)
        later = [pool.submit(add, number) for number in range(3)]
        assert later[2].cancel()
        threading.Timer(0.05, go_on.set).start()
        with pool:
            pass
        assert held.done()
        assert [future.result() for future in later[:2]] == [1, 2]
        with pytest.raises(RuntimeError, match="shut down"):
            pool.submit(add, 1)

        go_on.clear()
        pool = vmm.Pool(waiting, executor=threads, setup=ignore)
        held, dropped = pool.submit(hold), pool.submit(add, 1)
        threading.Timer(0.05, go_on.set).start()
        pool.shutdown(cancel_futures=True)
        assert held.done() or held.cancelled()
        assert dropped.cancelled()


def break_down(machine):
    machine.on_out(0x81)(lambda value, size: 1 // 0)
    machine.memory.write(0x1002, bytes.fromhex("e681"))  # out 0x81, al
    with pytest.raises(vmm.DeviceFault):
        machine.run(timeout=60)
    return machine.phase


def test_a_machine_that_failed_is_made_anew(waiting):
    with (
        ThreadPoolExecutor(1) as threads,
        vmm.Pool(waiting, executor=threads, setup=ignore) as pool,
    ):
        assert pool.submit(break_down).result() is vmm.Phase.FAILED
        assert pool.submit(add, 4).result() == 5
        pool.submit(vmm.Machine.close).result()
        assert pool.submit(add, 4).result() == 5


def test_a_worker_keeps_the_machines_that_it_used_last(machine):
    def give(machine):
        return machine

    m = machine("40 ebfd")
    with ThreadPoolExecutor(1) as threads:
        made = []
        for _ in range(6):
            m.step()
            with m.snapshot() as snapshot, vmm.Pool(snapshot, executor=threads) as pool:
                made.append(pool.submit(give).result())
                assert pool.submit(give).result() is made[-1]
        assert [m.phase is vmm.Phase.STOPPED for m in made] == [True] * 2 + [False] * 4
        m.step()
        with (
            m.snapshot() as snapshot,
            vmm.Pool(snapshot, executor=threads, setup=fail) as pool,
            pytest.raises(LookupError),
        ):
            pool.submit(give).result()
        assert made[2].phase is not vmm.Phase.STOPPED  # what was not set up was not kept


def test_what_was_made_for_the_workers_goes_with_the_last_call(waiting):
    begun, go_on = threading.Event(), threading.Event()

    def hold(machine):
        begun.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as threads:
        pool = vmm.Pool(waiting, executor=threads, setup=ignore)
        folder = Path(pool._folder.name)
        last = [pool.submit(hold), pool.submit(add, 1)]
        assert begun.wait(60)
        pool.shutdown(wait=False)
        assert folder.exists()
        go_on.set()
        assert last[1].result() == 2
    assert not folder.exists()


def test_what_cannot_be(waiting, tmp_path):
    with pytest.raises(vmm.ConfigError, match="workers=0"):
        vmm.Pool(waiting, workers=0)
    with pytest.raises(vmm.SnapshotError, match="No such file"):
        vmm.Pool(tmp_path / "none.snap")
