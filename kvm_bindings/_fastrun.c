/*
 * kvm_bindings._fastrun: the compiled runner (kvm_bindings/runner.py says what a runner does).
 *
 * It enters the guest, notes the exit in the vCPU's ring (kvm_bindings/exit_ring.py has the
 * layout; kvm_bindings/recording.py does the same in Python), and carries out port I/O whose
 * function is known already (vmm/exit_io.py does that in Python). Everything else is told to the
 * caller.
 *
 * It is an option (kvm_bindings/_fastrun_build.py builds it). Only the limited API of
 * Python 3.11 is used, so that one build serves all later versions.
 *
 * Spec: KVM API, KVM_RUN and "The kvm_run structure".
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <sys/ioctl.h>
#include <time.h>

/* KVM_RUN is spelled out, _IO(0xAE, 0x80), so that no kernel header is needed to build this. */
#define KVM_RUN 0xAE80UL

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
static const uint64_t without_details =
    1u << 5 | 1u << 7 | 1u << 8 | 1u << 10 | 1u << 11 | 1u << 16;

typedef struct {
    PyObject_HEAD
    long long exits; /* that were handled */
    int fd;
    uint16_t index;
    Py_buffer page;    /* struct kvm_run, and the data of port I/O behind it */
    Py_buffer words;   /* the ring's header */
    Py_buffer records; /* the ring */
    uint64_t *ring;    /* words, or NULL: nothing is noted */
    uint8_t *run;      /* page */
    uint64_t *rip;     /* where KVM delivers RIP with each exit, or NULL */
    uint64_t mask;     /* records in the ring, less one */
    uint64_t limit;    /* the record before which -ENOBUFS asks for a flush */
    uint64_t spent_ns; /* in the guest, since the last exit */
    struct record *open; /* the record of the exit that is being handled */
} Runner;

/* -- the ring ----------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct record *slot(Runner *self, uint64_t number)
{
    return (struct record *)self->records.buf + (number & self->mask);
}

/* The bytes of a string behind the eighth. */
static uint64_t more_data(Runner *self, const struct record *exit, const uint8_t *data,
                          uint64_t number)
{
    uint64_t left = (uint64_t)exit->size * exit->count;
    for (left = left > 8 ? left - 8 : 0, data += 8; left; number++) {
        uint8_t bytes = left < 48 ? (uint8_t)left : 48;
        struct record *more = slot(self, number);
        memset(more, 0, sizeof *more);
        memcpy(more, data, bytes);
        more->sequence = (uint32_t)number;
        more->vcpu = self->index;
        more->kind = DATA;
        more->size = bytes;
        data += bytes;
        left -= bytes;
    }
    return number;
}

static void close_record(Runner *self, uint64_t now)
{
    struct record *last = self->open;
    uint64_t took = now - last->time_ns, number = self->ring[HEAD];
    const uint8_t *run = self->run;

    last->handler_ns = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    if (last->reason == KVM_EXIT_IO) {
        const uint8_t *data = run + *(const uint64_t *)(run + 40);
        uint64_t bytes = (uint64_t)last->size * last->count, value = 0;
        memcpy(&value, data, bytes < 8 ? bytes : 8);
        last->value = value;
        if (bytes > 8)
            number = more_data(self, last, data, number);
    } else if (last->reason == KVM_EXIT_MMIO) {
        uint64_t value = 0;
        memcpy(&value, run + 40, last->size);
        last->value = value;
    }
    last->flags &= (uint8_t)~UNFINISHED;
    self->open = NULL;
    __atomic_store_n(&self->ring[HEAD], number, __ATOMIC_RELEASE);
    __atomic_store_n(&self->ring[DONE], number, __ATOMIC_RELEASE);
}

static void open_record(Runner *self, uint64_t now, uint32_t reason)
{
    const uint8_t *run = self->run;
    uint64_t number = self->ring[HEAD], word, second;
    uint32_t irqs = __atomic_exchange_n((uint32_t *)&self->ring[IRQS], 0, __ATOMIC_RELAXED);
    struct record *new = slot(self, number);

    memcpy(&word, run + 32, 8);
    memcpy(&second, run + 40, 8);
    new->time_ns = now;
    new->guest_ns = self->spent_ns;
    new->handler_ns = 0;
    new->sequence = (uint32_t)number;
    new->reason = reason;
    new->vcpu = self->index;
    new->kind = EXIT;
    new->flags = UNFINISHED;
    new->irqs = irqs > 255 ? 255 : (uint8_t)irqs;
    new->zero = 0;
    new->rip = 0;
    if (self->rip) {
        new->rip = *self->rip;
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
    self->spent_ns = 0;
    self->open = new;
    self->ring[EXITS]++;
    __atomic_store_n(&self->ring[HEAD], number + 1, __ATOMIC_RELEASE);
}

/* -- entering the guest ------------------------------------------------------------------- */

/* KVM_RUN, once, without the interpreter's lock: the exit reason, or a negative errno. */
static long enter(Runner *self)
{
    uint64_t before = 0, after;
    int error;

    if (!self->run)
        return -EBADF;
    if (self->ring) {
        before = now_ns();
        if (self->open)
            close_record(self, before);
        if (self->ring[HEAD] >= self->limit)
            return -ENOBUFS;
    }
    PyThreadState *thread = PyEval_SaveThread();
    error = ioctl(self->fd, KVM_RUN, 0UL) < 0 ? errno : 0;
    if (self->ring) {
        after = now_ns();
        self->spent_ns += after - before;
        if (!error)
            open_record(self, after, *(volatile uint32_t *)(self->run + 8));
    }
    PyEval_RestoreThread(thread);
    return error ? -error : (long)*(volatile uint32_t *)(self->run + 8);
}

/* Call a function with the lock held; NULL where it raised. */
static PyObject *call_locked(PyObject *acquire, PyObject *release, PyObject *function,
                             PyObject *first, PyObject *second, PyObject *third)
{
    PyObject *held = PyObject_CallNoArgs(acquire), *answer, *type, *value, *trace;
    if (!held)
        return NULL;
    Py_DECREF(held);
    answer = PyObject_CallFunctionObjArgs(function, first, second, third, NULL);
    PyErr_Fetch(&type, &value, &trace);
    held = PyObject_CallNoArgs(release);
    Py_XDECREF(held);
    PyErr_Restore(type, value, trace);
    return answer;
}

/* What a device answered, as the bits that the guest sees of it; -1 where it is no number. */
static int bits_of(PyObject *answer, unsigned long long *bits)
{
    if (PyLong_Check(answer)) {
        *bits = PyLong_AsUnsignedLongLongMask(answer);
        return 0;
    }
    PyObject *ones = PyLong_FromLong(0xffffffff), *number = NULL;
    if (ones)
        number = PyNumber_And(answer, ones);
    Py_XDECREF(ones);
    if (!number)
        return -1;
    *bits = PyLong_AsUnsignedLongLongMask(number);
    Py_DECREF(number);
    return PyErr_Occurred() ? -1 : 0;
}

/* Carry out the port I/O that is pending: `known` is (write, size, function, offset or None). */
static int carry_out(Runner *self, PyObject *known, PyObject *acquire, PyObject *release)
{
    PyObject *write = PyTuple_GetItem(known, 0), *size = PyTuple_GetItem(known, 1);
    PyObject *function = PyTuple_GetItem(known, 2), *at = PyTuple_GetItem(known, 3);
    PyObject *answer, *value;
    uint64_t offset = *(uint64_t *)(self->run + 40);
    long width = size ? PyLong_AsLong(size) : -1;

    if (!write || !function || !at || (width != 1 && width != 2 && width != 4)
        || offset + 4 > (uint64_t)self->page.len) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "port I/O of a width or in a place that is none");
        return -1;
    }
    if (PyObject_IsTrue(write)) {
        uint32_t bits = 0;
        memcpy(&bits, self->run + offset, (size_t)width);
        if (!(value = PyLong_FromUnsignedLong(bits)))
            return -1;
        if (at == Py_None)
            answer = call_locked(acquire, release, function, value, size, NULL);
        else
            answer = call_locked(acquire, release, function, at, size, value);
        Py_DECREF(value);
        Py_XDECREF(answer);
        return answer ? 0 : -1;
    }
    if (at == Py_None)
        answer = call_locked(acquire, release, function, size, NULL, NULL);
    else
        answer = call_locked(acquire, release, function, at, size, NULL);
    if (!answer)
        return -1;
    unsigned long long bits;
    int failed = bits_of(answer, &bits);
    Py_DECREF(answer);
    if (!failed && self->run)
        memcpy(self->run + offset, &bits, (size_t)width);
    return failed;
}

static PyObject *Runner_enter(Runner *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLong(enter(self));
}

static PyObject *Runner_run(Runner *self, PyObject *args)
{
    PyObject *calls, *acquire, *release;
    long long limit;

    if (!PyArg_ParseTuple(args, "O!OOL", &PyDict_Type, &calls, &acquire, &release, &limit))
        return NULL;
    while (self->exits != limit) {
        long reason = enter(self);
        if (reason != KVM_EXIT_IO)
            return PyLong_FromLong(reason);
        PyObject *word = PyLong_FromUnsignedLongLong(*(uint64_t *)(self->run + 32));
        PyObject *known = word ? PyDict_GetItemWithError(calls, word) : NULL;
        Py_XDECREF(word);
        if (!known)
            return PyErr_Occurred() ? NULL : PyLong_FromLong(reason);
        Py_INCREF(known); /* the dict may be cleared meanwhile */
        int failed = carry_out(self, known, acquire, release);
        Py_DECREF(known);
        if (failed)
            return NULL;
        self->exits++;
    }
    return PyLong_FromLong(KVM_EXIT_IO);
}

static PyObject *Runner_finish(Runner *self, PyObject *unused)
{
    (void)unused;
    if (self->open)
        close_record(self, now_ns());
    Py_RETURN_NONE;
}

static PyObject *Runner_set_limit(Runner *self, PyObject *limit)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(limit);
    if (PyErr_Occurred())
        return NULL;
    self->limit = number;
    Py_RETURN_NONE;
}

static PyObject *Runner_deliver_rip(Runner *self, PyObject *offset)
{
    uint64_t *rip = NULL;
    if (offset != Py_None) {
        Py_ssize_t at = PyLong_AsSsize_t(offset);
        if (PyErr_Occurred())
            return NULL;
        if (at < 0 || at + 8 > self->page.len) {
            PyErr_SetString(PyExc_ValueError, "RIP is not in the page");
            return NULL;
        }
        rip = (uint64_t *)(self->run + at);
    }
    self->rip = rip;
    Py_RETURN_NONE;
}

/* -- making and ending -------------------------------------------------------------------- */

static void disarm(Runner *self)
{
    if (self->open)
        close_record(self, now_ns());
    self->fd = -1;
    self->run = NULL;
    self->rip = self->ring = NULL;
    PyBuffer_Release(&self->records);
    PyBuffer_Release(&self->words);
    PyBuffer_Release(&self->page);
}

static PyObject *Runner_disarm(Runner *self, PyObject *unused)
{
    (void)unused;
    disarm(self);
    Py_RETURN_NONE;
}

static int Runner_init(Runner *self, PyObject *args, PyObject *named)
{
    PyObject *page, *words = Py_None, *records = Py_None;
    int fd, index;

    (void)named;
    disarm(self);
    if (!PyArg_ParseTuple(args, "iiO|OO", &fd, &index, &page, &words, &records)
        || PyObject_GetBuffer(page, &self->page, PyBUF_WRITABLE) < 0)
        return -1;
    if (words != Py_None) {
        if (PyObject_GetBuffer(words, &self->words, PyBUF_WRITABLE) < 0
            || PyObject_GetBuffer(records, &self->records, PyBUF_WRITABLE) < 0) {
            disarm(self);
            return -1;
        }
        self->mask = (uint64_t)self->records.len / sizeof(struct record) - 1;
        self->ring = self->words.buf;
    }
    self->run = self->page.buf;
    self->fd = fd;
    self->index = (uint16_t)index;
    self->limit = UINT64_MAX;
    return 0;
}

static void Runner_dealloc(Runner *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    disarm(self);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"enter", (PyCFunction)Runner_enter, METH_NOARGS, NULL},
    {"run", (PyCFunction)Runner_run, METH_VARARGS, NULL},
    {"finish", (PyCFunction)Runner_finish, METH_NOARGS, NULL},
    {"set_limit", (PyCFunction)Runner_set_limit, METH_O, NULL},
    {"deliver_rip", (PyCFunction)Runner_deliver_rip, METH_O, NULL},
    {"disarm", (PyCFunction)Runner_disarm, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"exits", T_LONGLONG, offsetof(Runner, exits), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_init, Runner_init},
    {Py_tp_dealloc, Runner_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    "kvm_bindings._fastrun.Runner", sizeof(Runner), 0, Py_TPFLAGS_DEFAULT, slots,
};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int failed = !type || PyModule_AddObjectRef(module, "Runner", type) < 0
        || PyModule_AddIntConstant(module, "VERSION", VERSION) < 0;
    Py_XDECREF(type);
    return -failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "kvm_bindings._fastrun", NULL, 0, NULL, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fastrun(void)
{
    return PyModuleDef_Init(&definition);
}
