"""Builds `kvm_bindings._fastrun`, the compiled runner.

It is an option: without a C compiler the installation goes on, and the runner that goes through
ctypes is used.
"""

from __future__ import annotations

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    struct glassvm_vcpu {
        int fd;
        uint32_t *exit_reason;
    };
    int glassvm_enter(struct glassvm_vcpu *vcpu);
    """
)

# KVM_RUN is spelled out, _IO(0xAE, 0x80), so that no kernel header is needed to build it.
ffibuilder.set_source(
    "kvm_bindings._fastrun",
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/ioctl.h>

    struct glassvm_vcpu {
        int fd;
        uint32_t *exit_reason;
    };

    static int glassvm_enter(struct glassvm_vcpu *vcpu)
    {
        if (ioctl(vcpu->fd, 0xAE80UL, 0UL) < 0)
            return -errno;
        return (int)*(volatile uint32_t *)vcpu->exit_reason;
    }
    """,
    optional=True,
)
