"""The lab: an AMD-V host that QEMU emulates, to run tests on /dev/kvm where there is none."""
