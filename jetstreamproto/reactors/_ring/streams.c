/* TCP: what comes in pieces is joined, and so is what goes out. */

#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define JOIN_LIMIT (1U << 18) /* bytes of adjacent receives that become one bytes object */
#define MUCH 4                /* adjacent full buffers that show a stream to be of large reads */
#define SEND_JOIN (1U << 20)

/* Join this completion's data with that of those right behind it; how many more were taken. */
int
stream_received(Ring *ring, struct slot *slot, unsigned head, unsigned tail, unsigned *taken)
{
    struct pool *pool = &ring->pools[STREAM_BUFFERS];
    struct io_uring_cqe *first = &ring->cqes[head & ring->cq_mask];
    size_t total = (size_t)first->res;
    unsigned count = 1;
    while ((first[0].flags & CQE_MORE) && head + count != tail) {
        struct io_uring_cqe *next = &ring->cqes[(head + count) & ring->cq_mask];
        struct io_uring_cqe *last = &ring->cqes[(head + count - 1) & ring->cq_mask];
        if (next->user_data != first->user_data || next->res <= 0 ||
            !(next->flags & CQE_BUFFER) || !(last->flags & CQE_MORE) ||
            total + (size_t)next->res > JOIN_LIMIT) {
            break;
        }
        total += (size_t)next->res;
        count++;
    }
    PyObject *data = NULL;
    char *out = NULL;
    if (slot->open) {
        data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
        Py_ssize_t ignored;
        if (data) {
            PyBytes_AsStringAndSize(data, &out, &ignored);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        struct io_uring_cqe *cqe = &ring->cqes[(head + i) & ring->cq_mask];
        unsigned id = cqe->flags >> CQE_BUFFER_SHIFT;
        if (out) {
            memcpy(out, pool->memory + (size_t)id * pool->size, (size_t)cqe->res);
            out += cqe->res;
        }
        recycle(pool, id);
    }
    *taken = count;
    if (count >= MUCH && slot->open && !slot->polled) {
        /* So much is cheaper to read at once, without a copy in between, when it is there. */
        slot->polled = 1;
        uint32_t number = (uint32_t)(slot - ring->slots);
        if (slot->armed && !slot->cancelling) {
            if (push_cancel(ring, number, OP_RECV) < 0) {
                Py_XDECREF(data);
                return -1;
            }
            slot->cancelling = 1;
        }
    }
    return slot->open ? tell(ring, slot, RECEIVED, data) : 0;
}

/* Forget what is to be sent. What the kernel may still read from is kept until it has ended. */
void
drop_waiting(struct slot *slot)
{
    Py_CLEAR(slot->waiting);
    slot->unsent = 0;
}

int
push_send(Ring *ring, uint32_t number)
{
    struct slot *slot = &ring->slots[number];
    char *data;
    Py_ssize_t size;
    struct io_uring_sqe *sqe = next_sqe(ring);
    if (!sqe || PyBytes_AsStringAndSize(slot->sending, &data, &size) < 0) {
        return -1;
    }
    size_t left = (size_t)size - slot->offset;
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = slot->fd;
    sqe->addr = (uint64_t)(uintptr_t)(data + slot->offset);
    sqe->len = left < INT32_MAX ? (uint32_t)left : INT32_MAX;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL; /* the kernel goes on when the peer has read */
    push_sqe(ring, sqe, number, OP_SEND);
    ring->outstanding++;
    return 0;
}

/* Make `sending` of what waits: of one piece, or of several up to SEND_JOIN bytes. */
static int
take_waiting(struct slot *slot)
{
    Py_ssize_t count = slot->waiting ? PyList_Size(slot->waiting) : 0;
    if (count <= 0) {
        return 0;
    }
    size_t total = 0;
    Py_ssize_t used = 0;
    while (used < count && (used == 0 || total < SEND_JOIN)) {
        total += (size_t)PyBytes_Size(PyList_GetItem(slot->waiting, used++));
    }
    if (used == 1) {
        slot->sending = Py_NewRef(PyList_GetItem(slot->waiting, 0));
    } else {
        PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
        if (!joined) {
            return -1;
        }
        char *out, *piece;
        Py_ssize_t size;
        PyBytes_AsStringAndSize(joined, &out, &size);
        for (Py_ssize_t i = 0; i < used; i++) {
            PyBytes_AsStringAndSize(PyList_GetItem(slot->waiting, i), &piece, &size);
            memcpy(out, piece, (size_t)size);
            out += size;
        }
        slot->sending = joined;
    }
    slot->offset = 0;
    if (used == count) {
        Py_CLEAR(slot->waiting);
        return 0;
    }
    return PyList_SetSlice(slot->waiting, 0, used, NULL);
}

int
send_completed(Ring *ring, uint32_t number, int result)
{
    struct slot *slot = &ring->slots[number];
    ring->outstanding--;
    if (!slot->open) {
        Py_CLEAR(slot->sending);
        free_slot_if_ended(ring, number);
        return 0;
    }
    if (result == -EINTR || result == -EAGAIN || result == -ENOBUFS) {
        return push_send(ring, number);
    }
    if (result < 0) {
        Py_CLEAR(slot->sending);
        drop_waiting(slot);
        return tell(ring, slot, WRITE_FAILED, PyLong_FromLong(-result));
    }
    slot->offset += (size_t)result;
    slot->unsent -= (size_t)result < slot->unsent ? (size_t)result : slot->unsent;
    if (slot->offset >= (size_t)PyBytes_Size(slot->sending)) {
        Py_CLEAR(slot->sending);
        if (take_waiting(slot) < 0) {
            return -1;
        }
    }
    if (slot->sending) {
        return push_send(ring, number);
    }
    if (slot->notify) {
        slot->notify = 0;
        return tell(ring, slot, SENT, Py_NewRef(Py_None));
    }
    return 0;
}
