"""A device of your own: registers in a table, methods where a register does something.

The same object answers at ports and at addresses in memory.
"""

import vmm
from devices.registers import Register, RegisterDevice, RegisterTable, bits


class Multiplier(RegisterDevice):
    """Two factors in, the product out; STATUS says whether it was more than 16 bits."""

    name = "multiplier"
    registers = RegisterTable(
        Register("A", 0, size=2),
        Register("B", 2, size=2),
        Register("PRODUCT", 4, size=2, access="r"),
        Register("STATUS", 6, access="r", fields=bits(OVERFLOW=0)),
    )

    def read_PRODUCT(self) -> int:
        """Multiply, when somebody asks."""
        return self.values["A"] * self.values["B"] & 0xFFFF

    def read_STATUS(self) -> int:
        """Say whether the product lost bits."""
        return int(self.values["A"] * self.values["B"] > 0xFFFF)


# Protected mode: factors through memory at 0xD0000000, the product through port 0x304.
CODE = bytes.fromhex(
    "66c705000000d02c01"  # mov word [0xD0000000], 300
    "66c705020000d02c01"  # mov word [0xD0000002], 300
    "66ba0403 66ed 89c1"  # mov dx, 0x304; in ax, dx; mov ecx, eax
    "8a1d060000d0"  # mov bl, [0xD0000006]
    "f4"  # hlt
)

with vmm.Machine() as m:
    device = Multiplier()
    m.add_device(device, pio=range(0x300, 0x308))
    m.add_device(device, mmio=range(0xD000_0000, 0xD000_1000))
    m.memory.write(0x1000, CODE)
    m.start_at(0x1000, mode="protected")
    print(m.run(timeout=5.0).summary())
    status = Multiplier.registers["STATUS"].decode(m.regs.rbx & 0xFF)
    print(f"300 * 300 = {m.regs.rcx & 0xFFFF} (mod 65536), status {status}")
