"""A tracer: a class whose hooks are called as the guest runs, at ports and at registers by name.

The same file serves the command: vmm run payload:serial_echo --tracer examples/tracer.py:Serial
"""

from collections import Counter

import vmm


class Serial:
    """What the guest does with its serial port."""

    device = "com1"

    def __init__(self) -> None:
        self.text = bytearray()
        self.ports: Counter[int] = Counter()
        self.polls = self.interrupts = 0

    def w_THR(self, value: int) -> None:
        """The guest sent a character."""
        self.text.append(value)

    def r_LSR(self, value: int) -> None:
        """It asked whether there is room, or a character."""
        self.polls += 1

    def on_pio(self, exit: vmm.Exit) -> None:
        """It used a port."""
        self.ports[exit.address] += 1

    def on_irq(self, gsi: int, level: bool) -> None:
        """A device drove an interrupt line."""
        self.interrupts += level

    def on_state(self, phase: vmm.Phase) -> None:
        """The machine runs, stands still, or is closed."""
        if phase is vmm.Phase.STOPPED:
            print(f"sent {bytes(self.text)!r}, read LSR {self.polls} times")
            print(f"{self.interrupts} interrupts; accesses to {len(self.ports)} ports")


if __name__ == "__main__":
    with vmm.boot("payload:serial_echo") as machine:
        machine.trace.attach(Serial)
        machine.console.send(b"hi\rq")
        machine.run(timeout=30)
