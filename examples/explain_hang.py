"""A guest hangs; the explanation says what it waits for, in words and as data for tools.

This one waits for a byte on COM1. Nobody sends one, and the run ends by its timeout.
"""

import vmm

with vmm.boot("payload:poll_uart", memory="2M") as m:
    result = m.run(timeout=0.5)
    why = result.explanation()
    assert why is not None

print(f"reason: {result.reason}, status: {result.status}")
print(f"cause: {why['cause']}")
for line in why["code"]:
    print("->" if line["current"] else "  ", f"{line['address']:#06x}", line["text"])
print("last exit:", why["last_exits"][-1]["place"], "=", why["last_exits"][-1]["meaning"])
