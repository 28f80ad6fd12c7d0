"""Builds `kvm_bindings._fastrun`, the compiled runner.

It is an option: without a C compiler the installation goes on, and the runner that goes through
ctypes is used. What it writes into the ring is described in `kvm_bindings/exit_ring.py`; the two
runners are compared by a test.
"""

from __future__ import annotations

from cffi import FFI

ffibuilder = FFI()

_STRUCT = """
    struct glassvm_vcpu {
        int fd;
        uint16_t index;
        uint8_t *run;           /* struct kvm_run, and the data of port I/O behind it */
        uint64_t *rip;          /* where KVM delivers RIP with each exit, or NULL */
        uint64_t *ring;         /* the ring's header, or NULL: nothing is noted */
        uint8_t *records;
        uint64_t mask;          /* records in the ring, less one */
        uint64_t limit;         /* the record before which -ENOBUFS asks for a flush */
        uint64_t spent_ns;      /* in the guest, since the last exit */
        uint8_t *open;          /* the record of the exit that is being handled */
    };
"""

ffibuilder.cdef(
    _STRUCT
    + """
    static const int GLASSVM_RUNNER;
    int glassvm_enter(struct glassvm_vcpu *vcpu);
    void glassvm_finish(struct glassvm_vcpu *vcpu);
    """
)

# KVM_RUN is spelled out, _IO(0xAE, 0x80), so that no kernel header is needed to build it.
ffibuilder.set_source(
    "kvm_bindings._fastrun",
    """
    #include <errno.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <time.h>
    """
    + _STRUCT
    + """
    static const int GLASSVM_RUNNER = 2;    /* kvm_bindings.runner.VERSION */

    struct record {
        uint64_t time_ns, guest_ns, address, value, rip;
        uint32_t handler_ns, count, sequence, reason;
        uint16_t vcpu;
        uint8_t kind, size, flags, irqs;
        uint16_t zero;
    };

    enum { HEAD, DONE, FLUSHED, EXITS, IRQS };
    enum { EXIT = 1, DATA = 2 };
    enum { WRITE = 1, HAS_RIP = 2, UNFINISHED = 4 };
    enum { KVM_EXIT_IO = 2, KVM_EXIT_MMIO = 6 };

    /* HLT, IRQ_WINDOW_OPEN, SHUTDOWN, INTR, SET_TPR, NMI */
    static const uint64_t without_details = 1u << 5 | 1u << 7 | 1u << 8 | 1u << 10 | 1u << 11
        | 1u << 16;

    static uint64_t now_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static struct record *slot(struct glassvm_vcpu *vcpu, uint64_t number)
    {
        return (struct record *)vcpu->records + (number & vcpu->mask);
    }

    /* The bytes of a string behind the eighth. */
    static uint64_t more_data(struct glassvm_vcpu *vcpu, const struct record *exit,
                              const uint8_t *data, uint64_t number)
    {
        uint64_t left = (uint64_t)exit->size * exit->count;
        for (left = left > 8 ? left - 8 : 0, data += 8; left; number++) {
            uint8_t bytes = left < 48 ? (uint8_t)left : 48;
            struct record *more = slot(vcpu, number);
            memset(more, 0, sizeof *more);
            memcpy(more, data, bytes);
            more->sequence = (uint32_t)number;
            more->vcpu = vcpu->index;
            more->kind = DATA;
            more->size = bytes;
            data += bytes;
            left -= bytes;
        }
        return number;
    }

    static void close_record(struct glassvm_vcpu *vcpu, uint64_t now)
    {
        struct record *last = (struct record *)vcpu->open;
        uint64_t took = now - last->time_ns, number = vcpu->ring[HEAD];
        const uint8_t *run = vcpu->run;

        last->handler_ns = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
        if (last->reason == KVM_EXIT_IO) {
            const uint8_t *data = run + *(const uint64_t *)(run + 40);
            uint64_t bytes = (uint64_t)last->size * last->count, value = 0;
            memcpy(&value, data, bytes < 8 ? bytes : 8);
            last->value = value;
            if (bytes > 8)
                number = more_data(vcpu, last, data, number);
        } else if (last->reason == KVM_EXIT_MMIO) {
            uint64_t value = 0;
            memcpy(&value, run + 40, last->size);
            last->value = value;
        }
        last->flags &= (uint8_t)~UNFINISHED;
        vcpu->open = 0;
        __atomic_store_n(&vcpu->ring[HEAD], number, __ATOMIC_RELEASE);
        __atomic_store_n(&vcpu->ring[DONE], number, __ATOMIC_RELEASE);
    }

    static void open_record(struct glassvm_vcpu *vcpu, uint64_t now, uint32_t reason)
    {
        const uint8_t *run = vcpu->run;
        uint64_t number = vcpu->ring[HEAD], word, second;
        uint32_t irqs = __atomic_exchange_n((uint32_t *)&vcpu->ring[IRQS], 0, __ATOMIC_RELAXED);
        struct record *new = slot(vcpu, number);

        memcpy(&word, run + 32, 8);
        memcpy(&second, run + 40, 8);
        new->time_ns = now;
        new->guest_ns = vcpu->spent_ns;
        new->handler_ns = 0;
        new->sequence = (uint32_t)number;
        new->reason = reason;
        new->vcpu = vcpu->index;
        new->kind = EXIT;
        new->flags = UNFINISHED;
        new->irqs = irqs > 255 ? 255 : (uint8_t)irqs;
        new->zero = 0;
        new->rip = 0;
        if (vcpu->rip) {
            new->rip = *vcpu->rip;
            new->flags |= HAS_RIP;
        }
        if (reason == KVM_EXIT_IO) {
            new->address = word >> 16 & 0xffff;
            new->value = 0;
            new->size = (uint8_t)(word >> 8);
            new->count = (uint32_t)(word >> 32);
            if (word & 0xff)
                new->flags |= WRITE;
        } else if (reason == KVM_EXIT_MMIO) {
            new->address = word;
            new->value = 0;
            new->size = run[48] < 8 ? run[48] : 8;
            new->count = 1;
            if (run[52])
                new->flags |= WRITE;
        } else {
            int details = reason > 63 || !(without_details >> reason & 1);
            new->address = details ? second : 0;
            new->value = details ? word : 0;
            new->size = 0;
            new->count = 0;
        }
        vcpu->spent_ns = 0;
        vcpu->open = (uint8_t *)new;
        vcpu->ring[EXITS]++;
        __atomic_store_n(&vcpu->ring[HEAD], number + 1, __ATOMIC_RELEASE);
    }

    static void glassvm_finish(struct glassvm_vcpu *vcpu)
    {
        if (vcpu->open)
            close_record(vcpu, now_ns());
    }

    static int glassvm_enter(struct glassvm_vcpu *vcpu)
    {
        uint64_t before, after;
        uint32_t reason;
        int error;

        if (!vcpu->ring) {
            if (ioctl(vcpu->fd, 0xAE80UL, 0UL) < 0)
                return -errno;
            return (int)*(volatile uint32_t *)(vcpu->run + 8);
        }
        before = now_ns();
        if (vcpu->open)
            close_record(vcpu, before);
        if (vcpu->ring[HEAD] >= vcpu->limit)
            return -ENOBUFS;
        error = ioctl(vcpu->fd, 0xAE80UL, 0UL) < 0 ? errno : 0;
        after = now_ns();
        vcpu->spent_ns += after - before;
        if (error)
            return -error;
        reason = *(volatile uint32_t *)(vcpu->run + 8);
        open_record(vcpu, after, reason);
        return (int)reason;
    }
    """,
    optional=True,
)
