/* The module `_uring` and its one type. */

#include "ring.h"

#include <string.h>

#define MAX_ENTRIES 32768

static int
is_power_of_two(unsigned number)
{
    return number && !(number & (number - 1)) && number <= MAX_ENTRIES;
}

static int
Ring_init(Ring *ring, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"entries", "completions", "buffers", "buffer_size", NULL};
    unsigned entries = 512, completions = 4096, buffers = 1024, size = 8192;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|IIII", names, &entries, &completions,
                                     &buffers, &size)) {
        return -1;
    }
    if (ring->events) {
        PyErr_SetString(PyExc_ValueError, "the ring is made already");
        return -1;
    }
    if (!is_power_of_two(entries) || !is_power_of_two(buffers) || completions < entries ||
        completions > 4 * MAX_ENTRIES || size < 64 || size > (1U << 20)) {
        PyErr_SetString(PyExc_ValueError, "sizes of the ring are out of range");
        return -1;
    }
    ring->events = PyList_New(0);
    if (!ring->events) {
        return -1;
    }
    int code = set_up(ring, entries, completions);
    if (!code) {
        code = make_pool(ring, STREAM_BUFFERS, buffers, size);
    }
    if (code) {
        let_go(ring);
        raise_errno(code);
        return -1;
    }
    return 0;
}

static PyObject *
Ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Ring *ring = (Ring *)allocate(type, 0);
    if (ring) {
        ring->fd = ring->poll_fd = -1;
        ring->free_slot = NO_SLOT;
    }
    return (PyObject *)ring;
}

static int
Ring_traverse(Ring *ring, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)ring));
    Py_VISIT(ring->events);
    Py_VISIT(ring->views);
    for (uint32_t i = 0; i < ring->slot_count; i++) {
        Py_VISIT(ring->slots[i].owner);
    }
    return 0;
}

static int
Ring_clear(Ring *ring)
{
    /* The ring ends first: the kernel must not read from bytes that are given back. */
    let_go(ring);
    clear_slots(ring);
    Py_CLEAR(ring->events);
    Py_CLEAR(ring->views);
    forget_senders(ring);
    return 0;
}

static void
Ring_dealloc(Ring *ring)
{
    PyTypeObject *type = Py_TYPE((PyObject *)ring);
    PyObject_GC_UnTrack(ring);
    Ring_clear(ring);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(ring);
    Py_DECREF(type);
}

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "Ring(entries=512, completions=4096, buffers=1024, buffer_size=8192)\n\n"
                "An io_uring. Raises OSError where the kernel has none, or none that will do."},
    {Py_tp_new, Ring_new},
    {Py_tp_init, Ring_init},
    {Py_tp_dealloc, Ring_dealloc},
    {Py_tp_traverse, Ring_traverse},
    {Py_tp_clear, Ring_clear},
    {Py_tp_methods, ring_methods},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "jetstreamproto.reactors._uring.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = ring_slots,
};

static int
module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &ring_spec, NULL);
    if (!type) {
        return -1;
    }
    int code = PyModule_AddObjectRef(module, "Ring", type);
    Py_DECREF(type);
    if (code < 0) {
        return -1;
    }
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"STREAM", STREAM},       {"LISTENER", LISTENER},       {"DATAGRAM", DATAGRAM},
        {"RECEIVED", RECEIVED},   {"SENT", SENT},               {"ACCEPTED", ACCEPTED},
        {"DATAGRAMS", DATAGRAMS}, {"READ_FAILED", READ_FAILED}, {"WRITE_FAILED", WRITE_FAILED},
        {"POLLED", POLLED},       {"READABLE", READABLE},       {"LOANS", LOANS},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_uring",
    .m_doc = "io_uring with raw system calls, for the reactor.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__uring(void)
{
    return PyModuleDef_Init(&module_definition);
}
