"""Where typed input goes, for each kind of guest."""

from __future__ import annotations

import pytest

from devices.i8042 import I8042
from devices.uart16550 import Uart16550
from vmm.decode import decode_access
from vmm.host.console import Console
from vmm.host.routing import InputRouter

THR, IER, LSR, MCR = 0, 1, 5, 4


class Pc:
    def __init__(self, route, *, bios, irq1="none"):
        self.irq1 = irq1
        self.console = Console()
        self.uart = Uart16550("com1")
        self.chip = I8042()
        router = InputRouter(route, self.console, bios=bios, later=lambda seconds, call: None)
        self.com1 = router.serial(self.uart)
        self.keys = router.keyboard(self.chip, self)

    def handler(self):
        return self.irq1

    def in_service(self):
        return False

    def went(self):
        """Where a typed key went."""
        self.console.send("k")
        if self.uart.read(LSR, 1) & 1:
            return "serial"
        if self.chip.read(4, 1) & 1:
            return "keyboard"
        return "nowhere" if self.console.waiting else "lost"


@pytest.mark.parametrize("bios", [False, True])
def test_serial_takes_everything(bios):
    assert Pc("serial", bios=bios, irq1="kernel").went() == "serial"


@pytest.mark.parametrize("bios", [False, True])
@pytest.mark.parametrize(
    ("irq1", "where"),
    [("none", "nowhere"), ("bios", "nowhere"), ("int9", "keyboard"), ("kernel", "keyboard")],
)
def test_the_keyboard_is_for_whoever_takes_its_interrupt(bios, irq1, where):
    for route in ("auto", "keyboard"):
        assert Pc(route, bios=bios, irq1=irq1).went() == where


def test_without_a_bios_using_com1_is_enough():
    pc = Pc("auto", bios=False, irq1="kernel")
    pc.com1.write(MCR, 1, 3)
    assert pc.went() == "serial"


def test_with_a_bios_com1_has_to_be_waited_for():
    pc = Pc("auto", bios=True, irq1="bios")
    for _ in range(20):
        pc.com1.read(LSR, 1)
        pc.com1.write(THR, 1, 0x2E)
    assert pc.went() == "nowhere"
    pc.com1.write(IER, 1, 1)
    assert pc.console.waiting == 0
    assert pc.uart.read(THR, 1) == ord("k")


def test_polling_the_line_status_is_waiting():
    pc = Pc("auto", bios=True, irq1="int9")
    for _ in range(3):
        pc.com1.read(LSR, 1)
    assert pc.went() == "serial"


def test_a_kernel_that_talks_on_com1_is_not_typed_at_its_keyboard():
    pc = Pc("auto", bios=True, irq1="kernel")
    pc.com1.write(THR, 1, 0x2E)
    assert pc.went() == "nowhere"
    pc = Pc("auto", bios=True, irq1="int9")
    pc.com1.write(THR, 1, 0x2E)
    assert pc.went() == "keyboard"


def test_keyboard_leaves_com1_out():
    pc = Pc("keyboard", bios=False, irq1="kernel")
    pc.com1.write(IER, 1, 1)
    assert pc.went() == "keyboard"


@pytest.mark.parametrize("route", ["auto", "serial", "keyboard"])
def test_whatever_stands_in_front_of_a_device_has_its_registers(route):
    pc = Pc(route, bios=True)
    assert decode_access(pc.com1, LSR, 1, False, 0x60) == "LSR = THRE|TEMT"
    assert decode_access(pc.keys, 4, 1, False, 0x1C) == "STATUS = SYS|CMD|UNLOCKED"
