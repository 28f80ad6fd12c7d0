/*
 * A minimal VMM in C: what the monitor is measured against.
 *
 * It does what a guest of a few bytes needs and nothing else: one VM, one slot of memory, one
 * vCPU in real mode, and a loop that hands port writes to a function.
 *
 * Where it does less than ours, that is on purpose: what is measured is what a user of Python pays.
 * It keeps no record of exits, sets no timer and no signal handler for a run (a bound on time, and
 * Ctrl-C), has its memory without a file, and takes none of its options from outside.
 *
 *     peer exits COUNT     run a guest that writes to a port until COUNT exits were handled;
 *                          prints the nanoseconds of all of them
 *     peer create COUNT    make a VM, run its guest to the first exit, give everything back, COUNT
 *                          times; prints the nanoseconds of each
 *     peer reset COUNT     run a guest that writes to 8 pages to its exit, and put memory and all
 *                          registers back, COUNT times; prints the nanoseconds of all of them
 *
 * Spec: KVM API, "API description".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MEMORY 0x10000
#define ENTRY 0x1000
#define PORT 0xE9
#define WARM_UP 1000
#define CPUID_ENTRIES 128
#define MSRS 512
#define PAGE 4096u
/* Where VT-x wants its pages: below 4 GiB, away from memory. */
#define IDENTITY_MAP 0xFEFFC000ULL
#define TSS 0xFEFFD000UL

/* mov dx, 0xE9; again: out dx, al; jmp again */
static const uint8_t loop_guest[] = {0xBA, PORT, 0x00, 0xEE, 0xEB, 0xFD};
/* mov al, 'H'; out 0xE9, al; hlt */
static const uint8_t once_guest[] = {0xB0, 'H', 0xE6, PORT, 0xF4};

/* mov [0x2000], al; ... mov [0x9000], al; out 0xE9, al; hlt */
static const uint8_t dirty_guest[] = {
    0xA2, 0x00, 0x20, 0xA2, 0x00, 0x30, 0xA2, 0x00, 0x40, 0xA2, 0x00, 0x50, 0xA2, 0x00,
    0x60, 0xA2, 0x00, 0x70, 0xA2, 0x00, 0x80, 0xA2, 0x00, 0x90, 0xE6, PORT, 0xF4,
};

struct vm {
    int kvm, vm, vcpu;
    size_t run_size;
    uint8_t *memory;
    struct kvm_run *run;
};

static struct {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
} cpuid;

static volatile uint64_t written;

static void die(const char *what)
{
    fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int request(int fd, unsigned long number, const char *name, unsigned long argument)
{
    int result = ioctl(fd, number, argument);
    if (result < 0)
        die(name);
    return result;
}

#define REQUEST(fd, number, argument) request(fd, number, #number, (unsigned long)(argument))

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void open_vm(struct vm *vm, const uint8_t *guest, size_t size)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = ENTRY, .rsp = ENTRY, .rflags = 2};
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY};
    uint64_t identity_map = IDENTITY_MAP;

    vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm < 0)
        die("/dev/kvm");
    if (REQUEST(vm->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        die("KVM API version");
    vm->vm = REQUEST(vm->kvm, KVM_CREATE_VM, 0);
    if (REQUEST(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR))
        REQUEST(vm->vm, KVM_SET_TSS_ADDR, TSS);
    if (REQUEST(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR))
        REQUEST(vm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);

    vm->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (vm->memory == MAP_FAILED)
        die("memory");
    memcpy(vm->memory + ENTRY, guest, size);
    slot.userspace_addr = (uintptr_t)vm->memory;
    REQUEST(vm->vm, KVM_SET_USER_MEMORY_REGION, &slot);

    vm->vcpu = REQUEST(vm->vm, KVM_CREATE_VCPU, 0);
    vm->run_size = (size_t)REQUEST(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
    if (vm->run == MAP_FAILED)
        die("kvm_run");
    /* What KVM supports does not change while the process lives: it is asked once. */
    if (!cpuid.header.nent) {
        cpuid.header.nent = CPUID_ENTRIES;
        REQUEST(vm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
    }
    REQUEST(vm->vcpu, KVM_SET_CPUID2, &cpuid);

    REQUEST(vm->vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    REQUEST(vm->vcpu, KVM_SET_SREGS, &sregs);
    REQUEST(vm->vcpu, KVM_SET_REGS, &regs);
}

static void close_vm(struct vm *vm)
{
    munmap(vm->run, vm->run_size);
    close(vm->vcpu);
    close(vm->vm);
    munmap(vm->memory, MEMORY);
    close(vm->kvm);
}

static void on_out(uint32_t value, unsigned size)
{
    written += value + size;
}

static void run_exits(struct vm *vm, long count)
{
    struct kvm_run *run = vm->run;

    while (count) {
        if (ioctl(vm->vcpu, KVM_RUN, 0) < 0) {
            if (errno == EINTR)
                continue;
            die("KVM_RUN");
        }
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            if (run->io.direction != KVM_EXIT_IO_OUT || run->io.port != PORT) {
                fprintf(stderr, "peer: port %#x\n", run->io.port);
                exit(1);
            }
            on_out(*((uint8_t *)run + run->io.data_offset), run->io.size);
            count--;
            break;
        default:
            fprintf(stderr, "peer: exit reason %u\n", run->exit_reason);
            exit(1);
        }
    }
}

/* All that a vCPU without interrupt controllers holds. */
struct state {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entries[MSRS];
    } msrs;
};

/* The MSRs that the vCPU has and takes. */
static void find_msrs(struct vm *vm, struct state *state)
{
    static struct {
        struct kvm_msr_list header;
        uint32_t indices[MSRS];
    } list;
    uint32_t kept = 0;

    list.header.nmsrs = MSRS;
    REQUEST(vm->kvm, KVM_GET_MSR_INDEX_LIST, &list);
    for (uint32_t i = 0; i < list.header.nmsrs; i++) {
        struct kvm_msr_entry *entry = &state->msrs.entries[kept];
        struct {
            struct kvm_msrs header;
            struct kvm_msr_entry entry;
        } one = {.header.nmsrs = 1, .entry.index = list.indices[i]};
        if (ioctl(vm->vcpu, KVM_GET_MSRS, &one) == 1 && ioctl(vm->vcpu, KVM_SET_MSRS, &one) == 1) {
            *entry = one.entry;
            kept++;
        }
    }
    state->msrs.header.nmsrs = kept;
}

static void take(struct vm *vm, struct state *state)
{
    REQUEST(vm->vcpu, KVM_GET_REGS, &state->regs);
    REQUEST(vm->vcpu, KVM_GET_SREGS, &state->sregs);
    REQUEST(vm->vcpu, KVM_GET_XSAVE, &state->xsave);
    REQUEST(vm->vcpu, KVM_GET_XCRS, &state->xcrs);
    REQUEST(vm->vcpu, KVM_GET_DEBUGREGS, &state->debugregs);
    find_msrs(vm, state);
    REQUEST(vm->vcpu, KVM_GET_VCPU_EVENTS, &state->events);
}

static void put(struct vm *vm, struct state *state)
{
    REQUEST(vm->vcpu, KVM_SET_REGS, &state->regs);
    REQUEST(vm->vcpu, KVM_SET_SREGS, &state->sregs);
    REQUEST(vm->vcpu, KVM_SET_XSAVE, &state->xsave);
    REQUEST(vm->vcpu, KVM_SET_XCRS, &state->xcrs);
    REQUEST(vm->vcpu, KVM_SET_DEBUGREGS, &state->debugregs);
    REQUEST(vm->vcpu, KVM_SET_MSRS, &state->msrs);
    REQUEST(vm->vcpu, KVM_SET_VCPU_EVENTS, &state->events);
}

static void reset_and_run(struct vm *vm, struct state *state, const uint8_t *pristine)
{
    uint64_t bitmap = 0;
    struct kvm_dirty_log log = {.dirty_bitmap = &bitmap};

    /* What the last exit left pending is finished first. */
    vm->run->immediate_exit = 1;
    if (ioctl(vm->vcpu, KVM_RUN, 0) == 0 || errno != EINTR)
        die("KVM_RUN");
    vm->run->immediate_exit = 0;
    REQUEST(vm->vm, KVM_GET_DIRTY_LOG, &log);
    for (unsigned page = 0; page < MEMORY / PAGE; page++)
        if (bitmap >> page & 1)
            memcpy(vm->memory + page * PAGE, pristine + page * PAGE, PAGE);
    put(vm, state);
    run_exits(vm, 1);
}

int main(int argc, char **argv)
{
    long count = argc == 3 ? atol(argv[2]) : 0;
    struct vm vm;
    uint64_t begin;

    if (count > 0 && !strcmp(argv[1], "exits")) {
        open_vm(&vm, loop_guest, sizeof loop_guest);
        run_exits(&vm, WARM_UP);
        begin = now_ns();
        run_exits(&vm, count);
        printf("%llu\n", (unsigned long long)(now_ns() - begin));
        close_vm(&vm);
        return 0;
    }
    if (count > 0 && !strcmp(argv[1], "create")) {
        while (count--) {
            begin = now_ns();
            open_vm(&vm, once_guest, sizeof once_guest);
            run_exits(&vm, 1);
            close_vm(&vm);
            printf("%llu\n", (unsigned long long)(now_ns() - begin));
        }
        return 0;
    }
    if (count > 0 && !strcmp(argv[1], "reset")) {
        static struct state state;
        static uint8_t pristine[MEMORY];
        struct kvm_userspace_memory_region slot = {.memory_size = MEMORY};

        open_vm(&vm, dirty_guest, sizeof dirty_guest);
        take(&vm, &state);
        memcpy(pristine, vm.memory, MEMORY);
        slot.userspace_addr = (uintptr_t)vm.memory;
        slot.flags = KVM_MEM_LOG_DIRTY_PAGES;
        REQUEST(vm.vm, KVM_SET_USER_MEMORY_REGION, &slot);
        for (long i = 0; i < WARM_UP; i++)
            reset_and_run(&vm, &state, pristine);
        begin = now_ns();
        while (count--)
            reset_and_run(&vm, &state, pristine);
        printf("%llu\n", (unsigned long long)(now_ns() - begin));
        close_vm(&vm);
        return 0;
    }
    fprintf(stderr, "usage: peer exits COUNT | peer create COUNT | peer reset COUNT\n");
    return 2;
}
