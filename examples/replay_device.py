"""A recording as a unit test: a mistake in a device model, found without a guest and without KVM.

The machine's devices are recorded while a guest talks over its serial port. Then the models are
driven again, first as they are, then with a serial port that has one wrong bit.
"""

import tempfile
from pathlib import Path

import vmm
from devices.uart16550 import Uart16550


class Impatient(Uart16550):
    """Its line status never says that the next byte may be sent: bit 5 is missing."""

    def read(self, offset: int, size: int) -> int:
        """Answer as a UART, but for that bit."""
        value = super().read(offset, size)
        return value & ~0x20 if offset == 5 else value


with tempfile.TemporaryDirectory() as directory:
    recording = Path(directory) / "run.vtrace"
    with vmm.boot("payload:serial_echo", record=str(recording)) as machine:
        machine.console.send("hello, q")
        machine.run(timeout=10.0)

    print(vmm.replay(recording))

    result = vmm.replay(recording, device_overrides={"com1": Impatient})
    print(f"found: {result.difference}")
