"""A device with a bug: the machine stops at it, its file is mended, and the guest goes on.

At a terminal this is a conversation: what failed is shown, and $EDITOR opens at the line.

    vmm run divide.bin --format flat16 --device divider.py:Divider@pio:0x10
"""

import tempfile
from pathlib import Path

import vmm
from vmm.userdev import user_devices

DIVIDER = """\
class Divider:
    name = "divider"

    def __init__(self, out):
        self.divisor, self.out = 1, out  # `out` is given by its name: bytes for the console

    def read(self, offset, size):
        self.out(f"asked for 100 / {self.divisor}\\n".encode())
        return 100 // self.divisor

    def write(self, offset, size, value):
        self.divisor = value

    def reset(self):
        pass
"""

# Divide by 7 and by 0: mov al, 7; out 0x10, al; in al, 0x10; mov bl, al; ...; hlt
CODE = bytes.fromhex("b007 e610 e410 88c3 b000 e610 e410 f4")

with tempfile.TemporaryDirectory() as directory:
    device, image = Path(directory, "divider.py"), Path(directory, "divide.bin")
    device.write_text(DIVIDER)
    image.write_bytes(CODE)
    with vmm.boot(image, format="flat16", devices=[f"{device}:Divider@pio:0x10"]) as m:

        def mend(fault: vmm.DeviceFault) -> str:
            print(fault)
            device.write_text(DIVIDER.replace("// self.divisor", "// (self.divisor or 10)"))
            user_devices(m)[0].reload()  # the new class, with the old state
            return "retry"

        m.on_device_fault = mend
        print(f"{m.run(timeout=5.0).summary()}\n{m.console.text}", end="")
        print(f"100 / 7 = {m.regs.rbx & 0xFF}, 100 / 0 = {m.regs.rax & 0xFF}")
