"""Talk to a guest over its serial port: it echoes what it is sent, in upper case."""

import vmm

with vmm.boot("payload:serial_echo", memory="2M") as machine:
    # Typed before the guest runs, or from another thread while it does: it waits for its reader.
    machine.console.send("hello over com1\rq")
    result = machine.run(timeout=30.0)

    for line in machine.console.text.replace("\r", "\n").splitlines():
        print(f"guest: {line}")

print(result.summary())
