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
    0x505        pvpanic                   (where ACPI tells of it)
    0x510        fw_cfg
    0x600        ACPI power management     IRQ 9
    0xCF8        PCI configuration         (an empty bus with its host bridge)
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from devices import pc_ports as ports
from vmm.endings import Ending
from vmm.host.routing import InputRoute, InputRouter
from vmm.late import LateDevice
from vmm.lifecycle import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from devices.protocols import Device
    from devices.wiring import Clock
    from vmm.host.console import Console
    from vmm.host.irq1 import Irq1
    from vmm.layout import MemoryLayout
    from vmm.machine import Machine
    from vmm.timers import DeviceTimer

__all__ = ["add_pc"]


def add_pc(
    machine: Machine,
    console: Console,
    *,
    input: InputRoute = "auto",
    bios: bool = False,
    testdev: bool = False,
    pvpanic: bool = False,
) -> None:
    """Give a machine the devices of a PC. Each is made when it is first wanted.

    Args:
        machine: a new machine.
        console: gets what the guest writes to COM1 and to the debug console.
        input: where the console's input goes.
        bios: BIOS services will be added, which take keys from the console.
        testdev: add QEMU's pc-testdev. Its registers lie where the debug console's port 0xE9
            is, which then answers at 0x402 only.
        pvpanic: add the port at which a kernel says that it has panicked.
    """
    pc = _Pc(machine, console, input, bios)
    console.add_late_taker(pc.add("com1", pc.com1, ports.COM1_PORTS))
    keyboard = [range(port, port + 1) for port in ports.I8042_PORTS]
    console.add_late_taker(pc.add("i8042", pc.i8042, *keyboard, base=ports.I8042_BASE))
    pc.add("vga", pc.vga, *ports.VGA_PORTS, base=ports.VGA_BASE)
    if not machine.irqchip:
        pc.add("port61", pc.port61, range(0x61, 0x62))
    pc.add("rtc", pc.rtc, ports.CMOS_PORTS)
    pc.add("post", pc.post, range(0x80, 0x81))
    pc.add("port92", pc.port92, range(0x92, 0x93))
    own = () if testdev else (range(0xE9, 0xEA),)
    pc.add("debugcon", pc.debugcon, *own, range(0x402, 0x403))
    if pvpanic:
        pc.add("pvpanic", pc.pvpanic, range(ports.PVPANIC_PORT, ports.PVPANIC_PORT + 1))
    pc.add("fw_cfg", pc.fw_cfg, ports.FW_CFG_PORTS)
    pc.add("acpi-pm", pc.acpi_pm, ports.ACPI_PM_PORTS)
    pc.add("pci", pc.pci, ports.PCI_PORTS)
    if testdev:
        _add_testdev(machine)


class _Pc:
    """Makes the devices of one PC; a method a device, which imports its model.

    What a device counts from is the time when this was made: the power came on then.
    """

    def __init__(self, machine: Machine, console: Console, route: InputRoute, bios: bool) -> None:
        self._machine = machine
        self._make = machine.make
        self._console = console
        self._bios = bios
        self._input = InputRouter(route, console, bios=bios, later=self._later)
        self._since_epoch_ns = time.time_ns()
        self._since_boot_ns = time.monotonic_ns()

    def add(
        self, name: str, make: Callable[[], Device], *places: range, base: int | None = None
    ) -> Callable[[], Device]:
        """Put a device on the bus; returns what gives it, and makes it if nobody has."""
        late = LateDevice(name, make, self._machine.lock)
        for place in places:
            self._machine.add_device(late, pio=place, base=base)
        return lambda: late.device

    def com1(self) -> Device:
        from devices.uart16550 import Uart16550

        console, irq = self._console, self._machine.irq(4)
        uart = self._make(Uart16550, "com1", irq=irq, out=console.write, on_room=console.offer)
        return self._input.serial(uart)

    def i8042(self) -> Device:
        from devices.i8042 import I8042

        irq = self._machine.irq
        chip = self._make(I8042, irq_keyboard=irq(1), irq_mouse=irq(12), on_reset=self._reset)
        return self._input.keyboard(chip, self._irq1())

    def vga(self) -> Device:
        from devices.vga_text import VgaText

        return self._make(VgaText)

    def port61(self) -> Device:
        from devices.port61 import Port61

        return self._make(Port61)

    def rtc(self) -> Device:
        from devices.cmos_rtc import CmosRtc

        layout = self._machine.memory.layout
        timer = self._timer(time.time_ns)
        rtc = self._make(
            CmosRtc,
            clock=time.time_ns,
            memory_below_4g=layout.low_end,
            memory_above_4g=layout.size - layout.low_end,
            cpus=len(self._machine.vcpus),
            irq=self._machine.irq(8),
            on_schedule=timer.reschedule,
            since_ns=self._since_epoch_ns,
        )
        timer.connect(rtc)
        return rtc

    def post(self) -> Device:
        from devices.post import PostPort

        return self._make(PostPort)

    def port92(self) -> Device:
        from devices.port92 import Port92

        return self._make(Port92, on_reset=self._reset)

    def debugcon(self) -> Device:
        from devices.debugcon import DebugCon

        return self._make(DebugCon, out=self._console.write)

    def pvpanic(self) -> Device:
        from devices.pvpanic import PvPanic

        return self._make(
            PvPanic, on_panicked=self._panicked, on_crash_loaded=self._crash_kernel_takes_over
        )

    def fw_cfg(self) -> Device:
        from devices.fw_cfg import FwCfg

        machine = self._machine
        layout = machine.memory.layout
        device = self._make(
            FwCfg, memory=machine.memory, cpus=len(machine.vcpus), ram_size=layout.size
        )
        device.add_file("etc/e820", _e820_file(layout))
        return device

    def acpi_pm(self) -> Device:
        from devices.acpi_pm import AcpiPm

        timer = self._timer(time.monotonic_ns)
        pm = self._make(
            AcpiPm,
            clock=time.monotonic_ns,
            irq=self._machine.irq(9),
            on_poweroff=lambda: self._machine.end(Ending("poweroff")),
            on_schedule=timer.reschedule,
            since_ns=self._since_boot_ns,
        )
        timer.connect(pm)
        return pm

    def pci(self) -> Device:
        from devices.pci_host import PciHost

        return self._make(PciHost, on_reset=self._reset)

    def _reset(self) -> None:
        self._machine.end(Ending("reset"))

    def _panicked(self) -> None:
        from vmm.last_words import last_words

        vcpu = next((vcpu.index for vcpu in self._machine.vcpus if vcpu.on_this_thread), 0)
        self._machine.die(Ending("panic", vcpu, detail=last_words(self._console.output)))

    def _crash_kernel_takes_over(self) -> None:
        said = "the guest's kernel panicked; its crash kernel takes over"
        # Without the device lock, which this is under: whoever is told may take long.
        self._later(0, lambda: self._machine.notes.add(said))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if self._machine.phase is not Phase.STOPPED:
            self._machine.events.call_later(seconds, call)

    def _timer(self, clock: Clock) -> DeviceTimer:
        from vmm.timers import DeviceTimer

        return DeviceTimer(self._machine, clock)

    def _irq1(self) -> Irq1:
        from vmm.host.irq1 import KernelIrq1, NoIrq1

        machine = self._machine
        if not machine.irqchip:
            return NoIrq1()
        return KernelIrq1(machine.vm, machine.memory, bios=self._bios)


def _add_testdev(machine: Machine) -> None:
    from devices import pc_testdev

    def drive(line: int, level: bool) -> None:
        machine.irq(line)(level)

    make, add = machine.make, machine.add_device
    add(make(pc_testdev.PcTestPorts), pio=pc_testdev.PORTS)
    add(make(pc_testdev.PcTestIrqLines, irq=drive), pio=pc_testdev.IRQ_PORTS)
    add(make(pc_testdev.PcTestMemory), mmio=pc_testdev.MMIO)


def _e820_file(layout: MemoryLayout) -> bytes:
    """RAM as firmware reads it from fw_cfg: 20 bytes an entry, type 1.

    Spec: QEMU, "QEMU Firmware Configuration (fw_cfg) Device"; ACPI 6.5, "INT 15H, E820H - Query
    System Address Map".
    """
    return b"".join(struct.pack("<QQI", r.start, r.size, 1) for r in layout.ranges)
