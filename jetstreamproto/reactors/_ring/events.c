/* Completions: what becomes of each, and what the owner of its slot is told. */

#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECV_MULTISHOT (1U << 1)
#define ACCEPT_MULTISHOT (1U << 0)

/* Steals the reference to `value`, which may be NULL after an error. */
int
tell(Ring *ring, struct slot *slot, int kind, PyObject *value)
{
    if (!value) {
        return -1;
    }
    PyObject *owner = slot ? slot->owner : Py_None;
    PyObject *event = Py_BuildValue("OiN", owner, kind, value);
    if (!event) {
        return -1;
    }
    int code = PyList_Append(ring->events, event);
    Py_DECREF(event);
    return code;
}

int
arm_receive(Ring *ring, uint32_t number)
{
    struct io_uring_sqe *sqe = next_sqe(ring);
    struct slot *slot = &ring->slots[number];
    if (!sqe) {
        return -1;
    }
    sqe->fd = slot->fd;
    if (slot->polled) {
        sqe->opcode = IORING_OP_POLL_ADD;
        sqe->poll32_events = POLLIN;
    } else if (slot->kind == LISTENER) {
        sqe->opcode = IORING_OP_ACCEPT;
        sqe->ioprio = ACCEPT_MULTISHOT;
        sqe->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    } else {
        sqe->opcode = slot->kind == STREAM ? IORING_OP_RECV : IORING_OP_RECVMSG;
        sqe->ioprio = RECV_MULTISHOT;
        sqe->flags = IOSQE_BUFFER_SELECT;
        sqe->buf_group = slot->kind == STREAM ? STREAM_BUFFERS : DATAGRAM_BUFFERS;
        if (slot->kind == DATAGRAM) {
            sqe->addr = (uint64_t)(uintptr_t)&ring->message;
            sqe->len = 1;
        }
    }
    push_sqe(ring, sqe, number, OP_RECV);
    slot->armed = 1;
    slot->poll_armed = slot->polled;
    ring->outstanding++;
    return 0;
}

static int
receive_again(Ring *ring, uint32_t number, int result)
{
    struct slot *slot = &ring->slots[number];
    int stopped = slot->cancelling && result == -ECANCELED;
    slot->armed = slot->cancelling = 0;
    ring->outstanding--;
    if (!slot->open) {
        free_slot_if_ended(ring, number);
        return 0;
    }
    if (result <= 0 && result != -ENOBUFS && !stopped && result != -EINTR &&
        !(slot->kind == LISTENER && result == 0)) {
        if (slot->kind != DATAGRAM || result != 0) {
            slot->wanted = 0; /* an end or an error; the owner asks again if it wants to */
        }
    }
    if (result == -ENOBUFS && slot->kind == DATAGRAM && ring->lent_count == LOANS) {
        ring->starved = 1; /* and would be at once again */
        return 0;
    }
    return slot->wanted ? arm_receive(ring, number) : 0;
}

static int
receive_completed(Ring *ring, uint32_t number, unsigned head, unsigned tail, unsigned *taken)
{
    struct slot *slot = &ring->slots[number];
    struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
    int result = cqe->res, code = 0;
    unsigned flags = cqe->flags;
    if (slot->poll_armed && result >= 0) {
        code = slot->open ? tell(ring, slot, READABLE, PyLong_FromLong(result)) : 0;
        slot->poll_armed = 0;
        result = 1;
    } else if (slot->kind == LISTENER && result >= 0) {
        if (slot->open) {
            code = tell(ring, slot, ACCEPTED, PyLong_FromLong(result));
        }
        if (!slot->open || code < 0) {
            close(result); /* nobody is there to take the connection */
        }
    } else if (slot->kind == DATAGRAM && result >= 0 && (flags & CQE_BUFFER)) {
        code = datagrams_received(ring, slot, head, tail, taken);
        flags = ring->cqes[(head + *taken - 1) & ring->cq_mask].flags;
    } else if (slot->kind == STREAM && result > 0) {
        code = stream_received(ring, slot, head, tail, taken);
        flags = ring->cqes[(head + *taken - 1) & ring->cq_mask].flags;
    } else {
        if (flags & CQE_BUFFER) {
            recycle(&ring->pools[slot->kind == DATAGRAM], flags >> CQE_BUFFER_SHIFT);
        }
        int quiet = result == -ENOBUFS || result == -EINTR ||
                    (result == -ECANCELED && slot->cancelling);
        if (slot->open && !quiet) {
            code = result == 0 ? tell(ring, slot, RECEIVED, PyBytes_FromStringAndSize("", 0))
                               : tell(ring, slot, READ_FAILED, PyLong_FromLong(-result));
        }
    }
    if (!(flags & CQE_MORE) && receive_again(ring, number, result) < 0) {
        code = -1;
    }
    return code;
}

static int
complete(Ring *ring, unsigned head, unsigned tail, unsigned *taken)
{
    struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
    uint32_t number = (uint32_t)(cqe->user_data >> 8);
    switch (cqe->user_data & 0xFF) {
    case OP_POLL:
        ring->poll_armed = 0;
        return tell(ring, NULL, POLLED, PyLong_FromLong(cqe->res));
    case OP_RECV:
        return receive_completed(ring, number, head, tail, taken);
    case OP_SEND:
        return send_completed(ring, number, cqe->res);
    default: /* of a cancellation: what it was about tells by itself */
        return 0;
    }
}

/* Take every completion that is there. After an error of Python's the rest is taken next time. */
int
drain(Ring *ring)
{
    unsigned head = *ring->cq_head, tail = LOAD(ring->cq_tail);
    int code = 0;
    int collects = PyGC_Disable(); /* it could run code that calls us, in the midst of this */
    while (code == 0 && head != tail) {
        unsigned taken = 1;
        code = complete(ring, head, tail, &taken);
        head += taken;
        STORE(ring->cq_head, head);
    }
    publish(&ring->pools[STREAM_BUFFERS]);
    publish(&ring->pools[DATAGRAM_BUFFERS]);
    if (collects) {
        PyGC_Enable();
    }
    return code;
}

/* Wait until the kernel has ended what was cancelled: only then has it let go of the socket. */
int
await_end(Ring *ring, uint32_t number)
{
    struct __kernel_timespec short_wait = {0, 1000000};
    for (int tries = 0; tries < CLOSING_TRIES; tries++) {
        int code = enter(ring, tries ? 1 : 0, ENTER_GETEVENTS, tries ? &short_wait : NULL);
        if (code < 0 && !is_passing(code)) {
            raise_errno(-code);
            return -1;
        }
        if (drain(ring) < 0) {
            return -1;
        }
        struct slot *slot = &ring->slots[number];
        if (!slot->used || (!slot->armed && !slot->sending)) {
            return 0;
        }
    }
    return 0; /* its completions are waited for as long as the ring is there */
}

/* Once only, each time: a multishot poll is edge triggered after its first event. */
int
arm_poll(Ring *ring)
{
    if (ring->poll_fd < 0 || ring->poll_armed) {
        return 0;
    }
    struct io_uring_sqe *sqe = next_sqe(ring);
    if (!sqe) {
        return -1;
    }
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = ring->poll_fd;
    sqe->poll32_events = POLLIN;
    push_sqe(ring, sqe, 0, OP_POLL);
    ring->poll_armed = 1;
    return 0;
}
