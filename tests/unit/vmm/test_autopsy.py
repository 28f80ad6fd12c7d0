"""From the ending of a run to its explanation."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from devices.uart16550 import Uart16550
from kvm_bindings import KvmError
from kvm_bindings import constants as c
from vmm.autopsy import Autopsy
from vmm.endings import Ending
from vmm.errors import GuestMemoryError
from vmm.exits import Exit
from vmm.loader.plan import Start


class Bus:
    def __init__(self, name: str) -> None:
        self.name = name
        self.unclaimed: Counter[tuple[int, bool]] = Counter()

    def name_at(self, address: int) -> str:
        return "com1" if address & ~7 == 0x3F8 else ""

    def find(self, address: int) -> Any:
        return SimpleNamespace(device=Uart16550, base=0x3F8) if self.name_at(address) else None


class Machine:
    """What an autopsy looks at."""

    def __init__(self, *exits: Exit) -> None:
        self.pio, self.mmio = Bus("port"), Bus("MMIO")
        self.bios = None
        self.irqchip = False
        self.symbols = None
        self.notes: list[str] = []
        self.started: Start | None = Start("long", 0x1000)
        self.memory = SimpleNamespace(read=self.read)

        def unreadable():
            raise KvmError("KVM_GET_REGS", 5)

        kvm = SimpleNamespace(get_regs=unreadable, get_sregs=unreadable)
        vcpu = SimpleNamespace(index=0, kvm=kvm, last_exits=lambda count: list(exits)[-count:])
        self.vcpus = (vcpu,)

    def last_seen(self, vcpu: int) -> None:
        return None

    def read(self, gpa: int, size: int) -> bytes:
        raise GuestMemoryError("closed")


@pytest.mark.parametrize("reason", ["shutdown", "fail_entry", "internal_error", "timeout", "panic"])
def test_a_death_is_explained_without_registers_too(reason):
    found = Autopsy(Machine(), Ending(reason, detail="what KVM said"), 3, 0.1)
    assert found.cpu is None
    text = found.explanation.text()
    assert text.startswith("guest ")
    assert "the guest was started at 0x1000 in long mode" in text


def test_a_panic_is_told_in_the_kernels_words():
    found = Autopsy(Machine(), Ending("panic", detail="Fatal exception"), 3, 0.1)
    headline = found.explanation.headline
    assert headline == "guest died: its kernel panicked after 3 exits: it says 'Fatal exception'"
    silent = Autopsy(Machine(), Ending("panic"), 3, 0.1)
    assert silent.explanation.headline.endswith("after 3 exits: why is not on its console")


def test_the_last_exits_are_told_with_their_devices():
    exits = [
        Exit(c.KVM_EXIT_IO, address=0x3F8, size=1, count=1, write=True, value=0x48),
        Exit(c.KVM_EXIT_MMIO, address=0xFF00_0000, size=4, count=1),
        Exit(c.KVM_EXIT_SHUTDOWN),
    ]
    found = Autopsy(Machine(*exits), Ending("shutdown"), 3, 0.1)
    assert found.last_exits[0].text == "IO out 0x3f8 1b 0x48 'H' com1 THR/DLL"
    assert found.last_exits[1].text.startswith("MMIO read 0xff000000 4b")
    assert found.last_exits[2].text == "SHUTDOWN"


def test_suberror_and_data_come_from_the_exit():
    ending = Ending(
        "internal_error",
        detail="KVM internal error, suberror 3",
        exit_reason=c.KVM_EXIT_INTERNAL_ERROR,
        numbers=(3, 0x8000_0000),
    )
    found = Autopsy(Machine(), ending, 1, 0.1)
    assert found.explanation.headline.startswith("guest died: KVM internal error")


def test_a_strict_machine_says_what_nobody_claims():
    ending = Ending("internal_error", detail="the guest wrote to port 0x99", exit_reason=2)
    found = Autopsy(Machine(), ending, 1, 0.1)
    text = " ".join(found.explanation.text().split())
    assert text.startswith("guest stopped after 1 exit: the guest wrote to port 0x99 try: put a")


def test_what_nobody_claimed_and_what_the_bios_missed_is_noted():
    machine = Machine()
    machine.bios = SimpleNamespace(notes=["INT 15h AX=9999h is missing"])
    machine.pio.unclaimed.update({(0x99, True): 2, (0x98, False): 1})
    found = Autopsy(machine, Ending("shutdown"), 1, 0.1)
    text = found.explanation.text()
    assert "INT 15h AX=9999h is missing" in text
    assert "port 0x99, which no device claims, was written to 2 times" in text
    assert "port 0x98, which no device claims, was read once" in text


def test_an_access_is_told_in_the_words_of_its_register():
    exits = [
        Exit(c.KVM_EXIT_IO, address=0x3FD, size=1, count=1, value=0x60),
        Exit(c.KVM_EXIT_IO, address=0x3F8, size=1, count=2, write=True, value=0x4142),
    ]
    found = Autopsy(Machine(*exits), Ending("timeout"), 2, 0.1)
    status, string = found.last_exits
    assert status.text == "IO in 0x3fd 1b 0x60 '`' com1 LSR = THRE|TEMT"
    assert (status.place, status.meaning) == ("port 0x3fd (com1 LSR)", "THRE|TEMT")
    assert status.bits[0x01] == "DR"
    assert string.place == "port 0x3f8 (com1)"


def test_an_access_that_nobody_answers_says_so():
    exits = [Exit(c.KVM_EXIT_IO, address=0x2FD, size=1, count=1, value=0xFF)]
    found = Autopsy(Machine(*exits), Ending("timeout"), 1, 0.1)
    assert found.last_exits[0].place == "port 0x2fd (no device)"
