"""The devices of a PC, wired to a machine.

What is where, and which interrupt line it drives:

    0x60, 0x64   keyboard controller       IRQ 1, 12
    0x61         speaker port              (in the kernel where it has the PIT)
    0x70         CMOS and clock            IRQ 8
    0x80         POST codes
    0x92         port 92 (A20, reset)
    0xE9, 0x402  debug console
    0xF4         debug exit
    0x3B4..0x3DA VGA in text mode          (its registers; the page at 0xB8000 is memory)
    0x3F8        COM1                      IRQ 4
    0x510        fw_cfg
    0x600        ACPI power management     IRQ 9
    0xCF8        PCI configuration         (an empty bus with its host bridge)
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from devices.acpi_pm import PORTS as PM_PORTS
from devices.acpi_pm import AcpiPm
from devices.cmos_rtc import CmosRtc
from devices.debugcon import DebugCon
from devices.fw_cfg import FwCfg
from devices.i8042 import BASE as KEYBOARD_BASE
from devices.i8042 import I8042
from devices.i8042 import PORTS as KEYBOARD_PORTS
from devices.pci_host import PciHost
from devices.port61 import Port61
from devices.port92 import Port92
from devices.post import PostPort
from devices.protocols import Device, Signal
from devices.uart16550 import Uart16550
from devices.vga_text import BASE as VGA_BASE
from devices.vga_text import PORTS as VGA_PORTS
from devices.vga_text import VgaText
from vmm.endings import Ending
from vmm.host.console import Console
from vmm.host.irq1 import KernelIrq1, NoIrq1
from vmm.host.routing import InputRoute, connect_input
from vmm.layout import MemoryLayout
from vmm.lifecycle import Phase
from vmm.timers import DeviceTimer

if TYPE_CHECKING:
    from vmm.machine import Machine

__all__ = ["add_pc"]

_COM1 = range(0x3F8, 0x400)


def add_pc(
    machine: Machine,
    console: Console,
    *,
    input: InputRoute = "auto",
    bios: bool = False,
    testdev: bool = False,
) -> Device:
    """Give a machine the devices of a PC; returns COM1.

    Args:
        machine: a new machine.
        console: gets what the guest writes to COM1 and to the debug console.
        input: where the console's input goes.
        bios: BIOS services will be added, which take keys from the console.
        testdev: add QEMU's pc-testdev. Its registers lie where the debug console's port 0xE9
            is, which then answers at 0x402 only.
    """
    layout = machine.memory.layout
    reset, poweroff = _ending(machine, "reset"), _ending(machine, "poweroff")
    com1 = Uart16550("com1", irq=machine.irq(4), out=console.write, on_room=console.offer)
    keyboard = I8042(irq_keyboard=machine.irq(1), irq_mouse=machine.irq(12), on_reset=reset)

    def later(seconds: float, call: Callable[[], None]) -> None:
        if machine.phase is not Phase.STOPPED:
            machine.events.call_later(seconds, call)

    serial, keys = connect_input(
        input,
        console,
        com1,
        keyboard,
        bios=bios,
        later=later,
        irq1=KernelIrq1(machine.vm, machine.memory, bios=bios) if machine.irqchip else NoIrq1(),
    )
    machine.add_device(serial, pio=_COM1)
    for port in KEYBOARD_PORTS:
        machine.add_device(keys, pio=range(port, port + 1), base=KEYBOARD_BASE)
    vga = VgaText()
    for ports in VGA_PORTS:
        machine.add_device(vga, pio=ports, base=VGA_BASE)
    if not machine.irqchip:
        machine.add_device(Port61(), pio=range(0x61, 0x62))
    rtc_timer = DeviceTimer(machine, time.time_ns)
    rtc = CmosRtc(
        clock=time.time_ns,
        memory_below_4g=layout.low_end,
        memory_above_4g=layout.size - layout.low_end,
        cpus=len(machine.vcpus),
        irq=machine.irq(8),
        on_schedule=rtc_timer.reschedule,
    )
    rtc_timer.connect(rtc)
    machine.add_device(rtc, pio=range(0x70, 0x72))
    machine.add_device(PostPort(), pio=range(0x80, 0x81))
    machine.add_device(Port92(on_reset=reset), pio=range(0x92, 0x93))
    debugcon = DebugCon(out=console.write)
    if not testdev:
        machine.add_device(debugcon, pio=range(0xE9, 0xEA))
    machine.add_device(debugcon, pio=range(0x402, 0x403))
    fw_cfg = FwCfg(memory=machine.memory, cpus=len(machine.vcpus), ram_size=layout.size)
    fw_cfg.add_file("etc/e820", _e820_file(layout))
    machine.add_device(fw_cfg, pio=range(0x510, 0x51C))
    pm_timer = DeviceTimer(machine, time.monotonic_ns)
    pm = AcpiPm(
        clock=time.monotonic_ns,
        irq=machine.irq(9),
        on_poweroff=poweroff,
        on_schedule=pm_timer.reschedule,
    )
    pm_timer.connect(pm)
    machine.add_device(pm, pio=PM_PORTS)
    machine.add_device(PciHost(on_reset=reset), pio=range(0xCF8, 0xD00))
    if testdev:
        _add_testdev(machine)
    return serial


def _add_testdev(machine: Machine) -> None:
    from devices.pc_testdev import PcTestDev

    def drive(line: int, level: bool) -> None:
        machine.irq(line)(level)

    device = PcTestDev(irq=drive)
    for ports, part in device.pio():
        machine.add_device(part, pio=ports)
    for addresses, part in device.mmio():
        machine.add_device(part, mmio=addresses)


def _e820_file(layout: MemoryLayout) -> bytes:
    """RAM as firmware reads it from fw_cfg: 20 bytes an entry, type 1.

    Spec: QEMU, "QEMU Firmware Configuration (fw_cfg) Device"; ACPI 6.5, "INT 15H, E820H - Query
    System Address Map".
    """
    return b"".join(struct.pack("<QQI", r.start, r.size, 1) for r in layout.ranges)


def _ending(machine: Machine, reason: str) -> Signal:
    def signal() -> None:
        machine.end(Ending("reset" if reason == "reset" else "poweroff"))

    return signal
