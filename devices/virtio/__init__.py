"""virtio 1.2: split virtqueues, the MMIO transport, and one file a device type.

    queue.py      the virtqueue, seen from the device
    device.py     what a device type is to its transport
    transport.py  status, features, queues and interrupts, whatever they are reached through
    mmio.py       the registers of virtio over MMIO in front of a transport
    driver.py     a driver for tests: the other side of queue and registers

A device type is pure, as every device model is: the memory it shares with the guest, the interrupt,
and what its requests do outside are given to it. `vmm.virtio` connects it to a machine.

Spec: Virtual I/O Device (VIRTIO) Version 1.2.
"""
