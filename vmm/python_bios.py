"""Giving a machine the Python BIOS: trap port, disks, keyboard, and the screen at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from firmware.bios_rom import TRAP_PORT
from vmm.bios.dispatch import Bios
from vmm.bios.host import BiosHost, Request
from vmm.bios.port import BiosPort
from vmm.bios.post import program_interrupts
from vmm.bus import FunctionPort
from vmm.endings import Ending
from vmm.host.console import Console
from vmm.host.disk import DiskImage

if TYPE_CHECKING:
    from devices.protocols import Device
    from vmm.machine import Machine

__all__ = ["add_bios"]


def add_bios(
    machine: Machine,
    console: Console,
    *,
    disks: Mapping[int, DiskImage],
    com1: Device,
    terminal: bool = False,
) -> Bios:
    """Install the BIOS in a machine; what it asks of the machine ends the run."""

    def request(what: Request) -> None:
        if what == "reset":
            machine.end(Ending("reset"))
        elif what == "poweroff":
            machine.end(Ending("poweroff"))
        else:
            machine.end(Ending("stopped", detail="; ".join(bios.notes)))

    def set_crtc(index: int, value: int) -> None:
        from devices.vga_text import VgaText

        vga = machine.devices.get("vga")
        if isinstance(vga, VgaText):
            vga.set_crtc(index, value)

    bios = Bios(
        BiosHost(
            memory=machine.memory,
            layout=machine.memory.layout,
            console=console.write,
            keys=console,
            disks=disks,
            serial={0: com1},
            terminal=terminal,
            request=request,
            pause=console.pause,
            interrupts=machine.irqchip,
            crtc=set_crtc,
        )
    )
    bios.install()
    if machine.irqchip:
        program_interrupts(machine.vm)
    vcpu = machine.vcpus[0]
    trap = FunctionPort("bios")
    port = BiosPort(
        bios,
        get_regs=vcpu.kvm.get_regs,
        get_sregs=vcpu.kvm.get_sregs,
        set_regs=vcpu.kvm.set_regs,
        set_sregs=vcpu.kvm.set_sregs,
        on_wait=vcpu.kick,
    )
    trap.on_out = port if machine.journal is None else machine.journal.foreign_out(trap, port)
    machine.add_device(trap, pio=range(TRAP_PORT, TRAP_PORT + 1))
    for disk in disks.values():
        machine.closers.append(disk.close)
    return bios
