"""Ten lines: a guest of five instructions that says "Hi" through a port."""

import vmm

CODE = bytes.fromhex("b048 e6e9 b069 e6e9 f4")  # 'H' and 'i' to port 0xE9, hlt

with vmm.Machine(memory="2M") as m:
    m.memory.write(0x1000, CODE)

    @m.on_out(0xE9)
    def debugcon(value: int, size: int) -> None:
        print(chr(value), end="")

    m.start_at(0x1000, mode="real")
    result = m.run(timeout=5.0)

print(f"\n{result.reason} after {result.exits} exits")
