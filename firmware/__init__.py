"""Functions from values to bytes: descriptor tables, page tables, and guests of our own.

Nothing here touches KVM or a running machine; what these modules return is written into guest
memory by whoever starts the machine.
"""
