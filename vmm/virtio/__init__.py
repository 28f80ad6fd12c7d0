"""virtio devices of a machine: their slots, notifications, interrupts and threads."""
