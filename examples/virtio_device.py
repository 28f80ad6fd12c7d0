"""A virtio device of your own in a dozen lines, and its driver without a guest.

Registers, features, rings and interrupts are the transport's; what the device gets are requests:
bytes to be read, and room to be written. Linux finds it as any other (`vmm.boot(...).add_virtio`).
"""

import vmm
from devices.virtio.device import VirtioDevice
from devices.virtio.driver import Driver
from devices.virtio.queue import Queue


class Upper(VirtioDevice):
    """Gives back what it gets, in capital letters."""

    name = "upper"
    device_id = 0x3F
    queue_sizes = (64,)

    def serve(self, queue: Queue) -> None:
        """Carry out the requests that wait."""
        for chain in queue:
            queue.push(chain, chain.write(chain.read().upper()))


with vmm.Machine("2M") as m:
    place = m.add_virtio(Upper())
    driver = Driver(place.registers, m.memory, base=0x1_0000)
    driver.start()
    print(driver.ask(0, b"hello over a virtqueue", room=64).decode())
    driver.queues[0].describe(0, 1 << 40, 4, 0)  # a buffer that is not in memory
    driver.queues[0].make_available(0)
    driver.notify(0)
    status = place.registers.registers["Status"].decode(driver.read(0x070))
    print(f"status {status}: {place.transport.fault.split(': ')[1]}")
