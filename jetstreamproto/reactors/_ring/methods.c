/* What Python calls. */

#include "ring.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static int
require_open(Ring *ring)
{
    if (ring->fd < 0) {
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(add_doc,
"add(fd, owner, kind) -> slot\n\n"
"Serve a socket; its events name the owner. Nothing is received yet.");

static PyObject *
Ring_add(Ring *ring, PyObject *args)
{
    int fd, kind;
    PyObject *owner;
    if (require_open(ring) < 0 || !PyArg_ParseTuple(args, "iOi", &fd, &owner, &kind)) {
        return NULL;
    }
    if (fd < 0 || kind < STREAM || kind > DATAGRAM) {
        PyErr_SetString(PyExc_ValueError, "no such file descriptor or kind");
        return NULL;
    }
    if (kind == DATAGRAM && prepare_datagrams(ring) < 0) {
        return NULL;
    }
    uint32_t number;
    if (add_slot(ring, fd, owner, kind, &number) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(number);
}

PyDoc_STRVAR(receive_doc,
"receive(slot, wanted)\n\nStart or stop receiving. What has come already is told all the same.");

static PyObject *
Ring_receive(Ring *ring, PyObject *args)
{
    PyObject *handle;
    int wanted;
    uint32_t number;
    if (!PyArg_ParseTuple(args, "Op", &handle, &wanted)) {
        return NULL;
    }
    struct slot *slot = open_slot(ring, handle, &number);
    if (!slot) {
        return NULL;
    }
    slot->wanted = (uint8_t)wanted;
    if (wanted && !slot->armed) {
        if (arm_receive(ring, number) < 0) {
            return NULL;
        }
    } else if (!wanted && slot->armed && !slot->cancelling) {
        if (push_cancel(ring, number, OP_RECV) < 0) {
            return NULL;
        }
        slot->cancelling = 1;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(read_small_doc,
"read_small(slot)\n\n"
"Go back from READABLE to RECEIVED. The ring goes over to READABLE by itself where much comes.");

static PyObject *
Ring_read_small(Ring *ring, PyObject *handle)
{
    uint32_t number;
    struct slot *slot = open_slot(ring, handle, &number);
    if (!slot) {
        return NULL;
    }
    slot->polled = 0; /* what is armed tells READABLE once more */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc,
"send(slot, data, notify) -> unsent\n\n"
"Send bytes after those that are not sent yet; how many bytes those are, together. With notify,\n"
"SENT is told when all is sent; but not if nothing is unsent now, which the result 0 says.");

static PyObject *
Ring_send(Ring *ring, PyObject *args)
{
    PyObject *handle, *data;
    int notify;
    uint32_t number;
    if (!PyArg_ParseTuple(args, "OSp", &handle, &data, &notify)) {
        return NULL;
    }
    struct slot *slot = open_slot(ring, handle, &number);
    if (!slot) {
        return NULL;
    }
    size_t size = (size_t)PyBytes_Size(data);
    if (size && slot->sending) {
        if (!slot->waiting && !(slot->waiting = PyList_New(0))) {
            return NULL;
        }
        if (PyList_Append(slot->waiting, data) < 0) {
            return NULL;
        }
    } else if (size) {
        slot->sending = Py_NewRef(data);
        slot->offset = 0;
        if (push_send(ring, number) < 0) {
            Py_CLEAR(slot->sending);
            return NULL;
        }
    }
    slot->unsent += size;
    if (slot->sending) {
        slot->notify = (uint8_t)notify;
    }
    return PyLong_FromSize_t(slot->unsent);
}

PyDoc_STRVAR(unsent_doc, "unsent(slot) -> bytes that are given to send and not sent.");

static PyObject *
Ring_unsent(Ring *ring, PyObject *handle)
{
    uint32_t number;
    struct slot *slot = open_slot(ring, handle, &number);
    return slot ? PyLong_FromSize_t(slot->unsent) : NULL;
}

PyDoc_STRVAR(discard_doc,
"discard(slot)\n\n"
"End everything under way for a socket, which may be closed then. Nothing more is told of it.");

static PyObject *
Ring_discard(Ring *ring, PyObject *handle)
{
    uint32_t number;
    struct slot *slot = open_slot(ring, handle, &number);
    if (!slot) {
        return NULL;
    }
    PyObject *owner = slot->owner;
    int failed = 0;
    slot->open = 0;
    slot->owner = NULL;
    slot->wanted = 0;
    drop_waiting(slot);
    ring->open_slots--;
    if (slot->armed || slot->sending) {
        failed = (slot->armed && push_cancel(ring, number, OP_RECV) < 0) ||
                 (slot->sending && push_cancel(ring, number, OP_SEND) < 0) ||
                 await_end(ring, number) < 0;
    } else {
        free_slot_if_ended(ring, number);
    }
    Py_DECREF(owner);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(give_back_doc,
"give_back(batches)\n\n"
"The buffers of what DATAGRAMS has told are not used any more. The memory stays, but\n"
"what is in it does not. Twice is no error.");

static PyObject *
Ring_give_back(Ring *ring, PyObject *told)
{
    if (!PyList_Check(told)) {
        PyErr_SetString(PyExc_TypeError, "a list of batches is needed");
        return NULL;
    }
    if (ring->fd >= 0 && take_back(ring, told) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_doc, "watch(fd)\n\nTell POLLED, each time anew, when fd is readable.");

static PyObject *
Ring_watch(Ring *ring, PyObject *number)
{
    long fd = PyLong_AsLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    ring->poll_fd = (int)fd;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wait_doc,
"wait(seconds) -> [(owner, kind, value), ...]\n\n"
"Submit what was asked for and wait for events, for so many seconds at most; None is for ever.\n"
"Returns early, perhaps with nothing, when a signal comes. Values by kind:\n"
"RECEIVED bytes, empty at the end; SENT None; ACCEPTED a file descriptor, which is the caller's\n"
"now; DATAGRAMS [(memoryview, size, length, (host, port), flags, number), ...]: datagrams of so\n"
"many bytes, the last of what is left, in a buffer that has to be given back; READ_FAILED and\n"
"WRITE_FAILED an errno, after which no more is received, or sent of what was waiting; READABLE,\n"
"instead of RECEIVED, on a stream of which much comes at a time: read it; POLLED.");

static PyObject *
Ring_wait(Ring *ring, PyObject *seconds)
{
    struct __kernel_timespec timeout = {0, 0}, *limit = NULL;
    int code, waits = 1;
    if (require_open(ring) < 0 || arm_poll(ring) < 0) {
        return NULL;
    }
    if (seconds != Py_None) {
        double value = PyFloat_AsDouble(seconds);
        if (PyErr_Occurred()) {
            return NULL;
        }
        value = !(value > 0) ? 0 : value > 1e9 ? 1e9 : value;
        waits = value > 0;
        timeout.tv_sec = (long long)value;
        timeout.tv_nsec = (long long)ceil((value - floor(value)) * 1e9);
        if (timeout.tv_nsec > 999999999) {
            timeout.tv_nsec = 999999999;
        }
        limit = waits ? &timeout : NULL;
    }
    if (PyList_Size(ring->events) > 0) {
        waits = 0;
        limit = NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    code = enter(ring, (unsigned)waits, ENTER_GETEVENTS, limit);
    Py_END_ALLOW_THREADS
    if (code < 0 && !is_passing(code)) {
        return raise_errno(-code);
    }
    if (ring->fd < 0) { /* closed by another thread meanwhile, which nobody may do */
        require_open(ring);
        return NULL;
    }
    if (drain(ring) < 0) {
        return NULL;
    }
    PyObject *events = ring->events;
    ring->events = PyList_New(0);
    if (!ring->events) {
        ring->events = events;
        return NULL;
    }
    return events;
}

PyDoc_STRVAR(close_doc,
"close()\n\nEnd everything under way, so that the sockets are free of the ring, and the ring.");

static PyObject *
Ring_close(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    if (ring->fd < 0) {
        Py_RETURN_NONE;
    }
    int failed = 0;
    for (uint32_t i = 0; i < ring->slot_count && !failed; i++) {
        struct slot *slot = &ring->slots[i];
        slot->open = 0;
        slot->wanted = 0;
        failed = (slot->armed && push_cancel(ring, i, OP_RECV) < 0) ||
                 (slot->sending && push_cancel(ring, i, OP_SEND) < 0);
    }
    for (uint32_t i = 0; i < ring->slot_count && !failed; i++) {
        if (ring->slots[i].armed || ring->slots[i].sending) {
            failed = await_end(ring, i) < 0;
        }
    }
    PyErr_Clear(); /* the kernel ends the rest by itself, a little later */
    let_go(ring);
    clear_slots(ring);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abandon_doc,
"abandon()\n\nForget the ring without a word to the kernel: in a forked child it is the parent's.");

static PyObject *
Ring_abandon(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    let_go(ring);
    clear_slots(ring);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(state_doc,
"state() -> {name: number}\n\nWhat the ring holds, for tests and statistics.");

static PyObject *
Ring_state(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < ring->slot_count; i++) {
        used += ring->slots[i].used;
    }
    return Py_BuildValue("{sI sI sI sI sI sI}", "open_slots", ring->open_slots, "used_slots",
                         used, "outstanding", ring->outstanding, "to_submit", ring->to_submit,
                         "lent_buffers", ring->lent_count,
                         "overflowed", ring->cq_overflow && ring->rings ? *ring->cq_overflow : 0);
}

static PyObject *
Ring_fileno(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(ring->fd);
}

PyMethodDef ring_methods[] = {
    {"add", (PyCFunction)Ring_add, METH_VARARGS, add_doc},
    {"receive", (PyCFunction)Ring_receive, METH_VARARGS, receive_doc},
    {"read_small", (PyCFunction)Ring_read_small, METH_O, read_small_doc},
    {"send", (PyCFunction)Ring_send, METH_VARARGS, send_doc},
    {"unsent", (PyCFunction)Ring_unsent, METH_O, unsent_doc},
    {"discard", (PyCFunction)Ring_discard, METH_O, discard_doc},
    {"give_back", (PyCFunction)Ring_give_back, METH_O, give_back_doc},
    {"watch", (PyCFunction)Ring_watch, METH_O, watch_doc},
    {"wait", (PyCFunction)Ring_wait, METH_O, wait_doc},
    {"close", (PyCFunction)Ring_close, METH_NOARGS, close_doc},
    {"abandon", (PyCFunction)Ring_abandon, METH_NOARGS, abandon_doc},
    {"state", (PyCFunction)Ring_state, METH_NOARGS, state_doc},
    {"fileno", (PyCFunction)Ring_fileno, METH_NOARGS, "fileno() -> of the ring; -1 if closed."},
    {NULL, NULL, 0, NULL},
};
