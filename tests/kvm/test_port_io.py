"""Port I/O that was seen before: carried out by the compiled runner, and in Python alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import vmm
from kvm_bindings.runner import runner_kind

pytestmark = pytest.mark.kvm

OUT = 0x10
IN = 0x12

WIDTHS = bytes.fromhex(
    "bb 03 00"  #           mov bx, 3
    "66 b8 88 77 66 55"  #  again: mov eax, 0x55667788
    "e6 10"  #              out 0x10, al
    "e7 10"  #              out 0x10, ax
    "66 e7 10"  #           out 0x10, eax
    "e4 12"  #              in al, 0x12
    "e6 10"  #              out 0x10, al
    "e5 12"  #              in ax, 0x12
    "e7 10"  #              out 0x10, ax
    "66 e5 12"  #           in eax, 0x12
    "66 e7 10"  #           out 0x10, eax
    "4b"  #                 dec bx
    "75 e2"  #              jnz again
    "f4"  #                 hlt
)

LOOP = bytes.fromhex(
    "e4 12"  #  again: in al, 0x12
    "e6 10"  #  out 0x10, al
    "eb fa"  #  jmp again
)


@pytest.fixture(params=["compiled", "ctypes"], autouse=True)
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ctypes":
        monkeypatch.setenv("GLASSVM_RUNNER", "ctypes")
    elif runner_kind() != "compiled":
        pytest.skip("the compiled runner was not built")


@pytest.fixture
def machine() -> Iterator[vmm.Machine]:
    with vmm.Machine(memory="64K") as made:
        made.start_at(0x1000)
        yield made


class Chip:
    """A device of 4 ports that notes what it is asked."""

    name = "chip"

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return 0x1122_3344_5566_7788

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))

    def reset(self) -> None:
        pass


ROUND = [
    *((0x88, 1), (0x7788, 2), (0x55667788, 4)),
    *((0xFE, 1), (0xFFFE, 2), (0xFFFFFFFE, 4)),
]


def test_every_width_both_ways(machine: vmm.Machine) -> None:
    written: list[tuple[int, int]] = []
    asked: list[int] = []

    def answer(size: int) -> int:
        asked.append(size)
        return -2

    machine.memory.write(0x1000, WIDTHS)
    machine.on_out(OUT)(lambda value, size: written.append((value, size)))
    machine.on_in(IN)(answer)
    result = machine.run()
    assert result.reason == "halt"
    assert result.exits == 3 * 9 + 1
    assert written == 3 * ROUND
    assert asked == 3 * [1, 2, 4]


def test_a_device_sees_offsets(machine: vmm.Machine) -> None:
    chip = Chip()
    machine.memory.write(0x1000, LOOP)
    machine.add_device(chip, pio=range(0x10, 0x14))
    machine.run(max_exits=6)
    assert chip.seen == 3 * [(2, 1), (0, 1, 0x88)]


def test_a_bound_on_exits_is_met_to_the_exit(machine: vmm.Machine) -> None:
    calls = 0

    @machine.on_out(OUT)
    def count(value: int, size: int) -> None:
        nonlocal calls
        calls += 1

    machine.memory.write(0x1000, LOOP)
    for bound, total in ((1, 0), (2, 1), (100, 51), (1001, 552)):
        assert machine.run(max_exits=bound).exits == bound
        assert calls == total
    assert machine.vcpus[0].exits == 1104


def test_what_a_function_raises_is_a_fault_of_its_exit(machine: vmm.Machine) -> None:
    calls = 0

    @machine.on_out(OUT)
    def third(value: int, size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("three")

    machine.memory.write(0x1000, LOOP)
    with pytest.raises(vmm.DeviceFault, match="three") as caught:
        machine.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert machine.vcpus[0].exits == 5  # the sixth is not handled
    assert machine.lock.acquire(blocking=False)  # and the lock is free
    machine.lock.release()


def test_a_function_that_answers_no_number_is_at_fault(machine: vmm.Machine) -> None:
    answers = iter([1, True, None])
    machine.memory.write(0x1000, LOOP)
    machine.on_in(IN)(lambda size: next(answers))
    with pytest.raises(vmm.DeviceFault, match="TypeError"):
        machine.run()
    assert machine.vcpus[0].exits == 4


def test_a_function_may_be_replaced_out_of_itself(machine: vmm.Machine) -> None:
    seen: list[str] = []

    def first(value: int, size: int) -> None:
        seen.append("first")
        if len(seen) == 3:
            machine.on_out(OUT)(lambda value, size: seen.append("second"))

    machine.memory.write(0x1000, LOOP)
    machine.on_out(OUT)(first)
    machine.run(max_exits=10)
    assert seen == ["first", "first", "first", "second", "second"]


def test_the_lock_is_held_while_a_function_is_called(machine: vmm.Machine) -> None:
    from threading import Thread

    free: list[bool] = []

    def try_it() -> None:
        free.append(machine.lock.acquire(blocking=False))

    def other_thread(value: int, size: int) -> None:
        thread = Thread(target=try_it)
        thread.start()
        thread.join()

    machine.memory.write(0x1000, LOOP)
    machine.on_out(OUT)(other_thread)
    machine.run(max_exits=6)
    assert free == [False] * 3
