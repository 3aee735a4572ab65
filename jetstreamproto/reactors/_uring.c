/* io_uring for the reactor: many sockets' receives, sends and accepts with one system call a turn.
 *
 * The system calls are made directly, so that nothing but a compiler is needed to build this.
 * A socket that the ring serves has a slot. A slot has one receive (or accept) and one send under
 * way at most, and is used again only when the kernel has ended both: completions therefore never
 * meet another owner than the one that asked for them, whatever becomes of file descriptors.
 *
 * Everything runs on the thread that made the ring, which the kernel insists on (SINGLE_ISSUER).
 * See io_uring(7), io_uring_enter(2).
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Numbers of the kernel's interface, which the headers of a building machine may be too old for. */
#define SETUP_FLAGS                                                                             \
    ((1U << 3) /* CQSIZE */ | (1U << 4) /* CLAMP */ | (1U << 7) /* SUBMIT_ALL */ |              \
     (1U << 12) /* SINGLE_ISSUER */ | (1U << 13) /* DEFER_TASKRUN */)
#define REGISTER_PBUF_RING 22
#define RECV_MULTISHOT (1U << 1)
#define ACCEPT_MULTISHOT (1U << 0)
#define CQE_BUFFER (1U << 0)
#define CQE_MORE (1U << 1)
#define CQE_BUFFER_SHIFT 16
#define ENTER_GETEVENTS (1U << 0)
#define ENTER_EXT_ARG (1U << 3)
#define FEAT_SINGLE_MMAP (1U << 0)
#define FEAT_EXT_ARG (1U << 8)
#define SOL_UDP_ 17
#define UDP_GRO_ 104

#define STREAM_BUFFERS 0   /* group numbers of provided buffers */
#define DATAGRAM_BUFFERS 1
#define JOIN_LIMIT (1U << 18) /* bytes of adjacent receives that become one bytes object */
#define MUCH 4                /* adjacent full buffers that show a stream to be of large reads */
#define SEND_JOIN (1U << 20)
#define NAME_SPACE 32 /* a sockaddr_in6, and the control data behind it is aligned */
#define CONTROL_SPACE 64
#define DATAGRAM_SIZE 65536
#define CLOSING_TRIES 100
#define MAX_ENTRIES 32768

enum { OP_RECV = 1, OP_SEND, OP_POLL, OP_CANCEL };
enum { STREAM = 0, LISTENER, DATAGRAM };
enum { RECEIVED = 0, SENT, ACCEPTED, DATAGRAMS, READ_FAILED, WRITE_FAILED, POLLED, READABLE };

struct pbuf { /* struct io_uring_buf */
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail; /* of the whole ring, in the first entry only */
};

struct recvmsg_out { /* struct io_uring_recvmsg_out */
    uint32_t namelen, controllen, payloadlen, flags;
};

struct pool {
    struct pbuf *ring;
    char *memory;
    size_t ring_size, memory_size;
    uint32_t count, size;
    uint16_t tail;
};

struct slot {
    PyObject *owner;
    PyObject *sending; /* bytes that the kernel reads from */
    PyObject *waiting; /* a list of bytes that follow them, or NULL */
    size_t offset;     /* into `sending` */
    size_t unsent;     /* bytes of both */
    int fd;
    uint32_t next_free;
    uint8_t kind, used, open, wanted, armed, cancelling, notify;
    uint8_t polled, poll_armed; /* told when readable; and so is what is armed now */
};

typedef struct {
    PyObject_HEAD
    int fd;
    unsigned to_submit;
    unsigned sq_entries, sq_mask, cq_mask, cq_entries;
    unsigned *sq_head, *sq_tail, *sq_array, *cq_head, *cq_tail, *cq_overflow;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *rings;
    size_t rings_size, sqes_size;
    struct pool pools[2];
    struct msghdr message; /* what a multishot recvmsg wants to know: sizes only */
    struct slot *slots;
    uint32_t slot_count, free_slot, open_slots;
    uint32_t outstanding; /* receives and sends under way */
    int poll_fd, poll_armed;
    PyObject *events;
} Ring;

#define NO_SLOT UINT32_MAX
#define LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* --- system calls ------------------------------------------------------------------------- */

static int
enter(Ring *ring, unsigned wanted, unsigned flags, const struct __kernel_timespec *timeout)
{
    struct {
        uint64_t sigmask;
        uint32_t sigmask_size, pad;
        uint64_t ts;
    } argument = {0, 8, 0, (uint64_t)(uintptr_t)timeout};
    unsigned all = flags | (timeout ? ENTER_EXT_ARG : 0);
    long done = syscall(__NR_io_uring_enter, ring->fd, ring->to_submit, wanted, all,
                        timeout ? (void *)&argument : NULL, timeout ? sizeof argument : 8);
    if (done < 0) {
        return -errno;
    }
    ring->to_submit -= (unsigned)done < ring->to_submit ? (unsigned)done : ring->to_submit;
    return 0;
}

/* What the kernel may say of a submission that it will take later, or of a wait that was cut. */
static int
is_passing(int code)
{
    return code == -EINTR || code == -ETIME || code == -EBUSY || code == -EAGAIN;
}

static PyObject *
raise_errno(int code)
{
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* --- submissions -------------------------------------------------------------------------- */

static struct io_uring_sqe *
next_sqe(Ring *ring)
{
    for (int tries = 0; *ring->sq_tail - LOAD(ring->sq_head) >= ring->sq_entries; tries++) {
        int code = enter(ring, 0, 0, NULL);
        if (code == -EBUSY || code == -EAGAIN) { /* completions have to be flushed first */
            code = enter(ring, 0, ENTER_GETEVENTS, NULL);
        }
        if ((code < 0 && !is_passing(code)) || tries == CLOSING_TRIES) {
            raise_errno(code < 0 ? -code : EBUSY);
            return NULL;
        }
    }
    unsigned tail = *ring->sq_tail;
    struct io_uring_sqe *sqe = &ring->sqes[tail & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

static void
push_sqe(Ring *ring, struct io_uring_sqe *sqe, uint32_t slot, unsigned operation)
{
    unsigned tail = *ring->sq_tail;
    sqe->user_data = (uint64_t)slot << 8 | operation;
    ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
    STORE(ring->sq_tail, tail + 1);
    ring->to_submit++;
}

static int
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
push_cancel(Ring *ring, uint32_t number, unsigned operation)
{
    struct io_uring_sqe *sqe = next_sqe(ring);
    if (!sqe) {
        return -1;
    }
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = (uint64_t)number << 8 | operation;
    push_sqe(ring, sqe, number, OP_CANCEL);
    return 0;
}

static int
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

/* --- slots -------------------------------------------------------------------------------- */

static int
grow_slots(Ring *ring)
{
    uint32_t count = ring->slot_count ? 2 * ring->slot_count : 64;
    struct slot *slots = PyMem_Realloc(ring->slots, count * sizeof *slots);
    if (!slots) {
        PyErr_NoMemory();
        return -1;
    }
    memset(slots + ring->slot_count, 0, (count - ring->slot_count) * sizeof *slots);
    for (uint32_t i = ring->slot_count; i < count; i++) {
        slots[i].next_free = i + 1 < count ? i + 1 : NO_SLOT;
    }
    ring->free_slot = ring->slot_count;
    ring->slots = slots;
    ring->slot_count = count;
    return 0;
}

static struct slot *
open_slot(Ring *ring, PyObject *number, uint32_t *index)
{
    unsigned long value = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (value >= ring->slot_count || !ring->slots[value].open) {
        PyErr_SetString(PyExc_ValueError, "no such slot");
        return NULL;
    }
    *index = (uint32_t)value;
    return &ring->slots[value];
}

/* Forget what is to be sent. What the kernel may still read from is kept until it has ended. */
static void
drop_waiting(struct slot *slot)
{
    Py_CLEAR(slot->waiting);
    slot->unsent = 0;
}

static void
free_slot_if_ended(Ring *ring, uint32_t number)
{
    struct slot *slot = &ring->slots[number];
    if (slot->used && !slot->open && !slot->armed && !slot->sending) {
        slot->used = 0;
        slot->next_free = ring->free_slot;
        ring->free_slot = number;
    }
}

/* --- events ------------------------------------------------------------------------------- */

/* Steals the reference to `value`, which may be NULL after an error. */
static int
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

static void
recycle(struct pool *pool, unsigned id)
{
    struct pbuf *entry = &pool->ring[pool->tail & (pool->count - 1)];
    entry->addr = (uint64_t)(uintptr_t)(pool->memory + (size_t)id * pool->size);
    entry->len = pool->size;
    entry->bid = (uint16_t)id;
    pool->tail++;
}

static void
publish(struct pool *pool)
{
    if (pool->ring) {
        STORE(&pool->ring[0].tail, pool->tail);
    }
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
    return slot->wanted ? arm_receive(ring, number) : 0;
}

/* Join this completion's data with that of those right behind it; how many more were taken. */
static int
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

static PyObject *
address_of(const char *name, size_t length)
{
    char text[INET6_ADDRSTRLEN];
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    sa_family_t family = AF_UNSPEC;
    if (length >= sizeof family) {
        memcpy(&family, name, sizeof family);
    }
    if (family == AF_INET && length >= sizeof v4) {
        memcpy(&v4, name, sizeof v4);
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
        return Py_BuildValue("si", text, (int)ntohs(v4.sin_port));
    }
    if (family == AF_INET6 && length >= sizeof v6) {
        memcpy(&v6, name, sizeof v6);
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
        return Py_BuildValue("siIk", text, (int)ntohs(v6.sin6_port),
                             (unsigned)ntohl(v6.sin6_flowinfo), (unsigned long)v6.sin6_scope_id);
    }
    return Py_BuildValue("si", "", 0);
}

/* The size of the datagrams that the kernel joined (UDP_GRO); 0 if it joined none. */
static int
joined_size(char *control, size_t length)
{
    struct msghdr message = {.msg_control = control, .msg_controllen = length};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_UDP_ && c->cmsg_type == UDP_GRO_ &&
            c->cmsg_len >= CMSG_LEN(sizeof(int))) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size;
        }
    }
    return 0;
}

/* Tells (data, address, size of the joined datagrams or 0, flags of recvmsg). */
static int
datagrams_received(Ring *ring, struct slot *slot, struct io_uring_cqe *cqe)
{
    struct pool *pool = &ring->pools[DATAGRAM_BUFFERS];
    unsigned id = cqe->flags >> CQE_BUFFER_SHIFT;
    char *start = pool->memory + (size_t)id * pool->size;
    int code = 0;
    if (slot->open) {
        struct recvmsg_out head;
        memcpy(&head, start, sizeof head);
        char *name = start + sizeof head;
        char *control = name + NAME_SPACE;
        char *payload = control + CONTROL_SPACE;
        size_t room = pool->size - (size_t)(payload - start);
        size_t length = head.payloadlen < room ? head.payloadlen : room;
        size_t name_length = head.namelen < NAME_SPACE ? head.namelen : NAME_SPACE;
        size_t control_length = head.controllen < CONTROL_SPACE ? head.controllen : CONTROL_SPACE;
        PyObject *address = address_of(name, name_length);
        PyObject *value = !address ? NULL
                                   : Py_BuildValue("y#Nii", payload, (Py_ssize_t)length, address,
                                                   joined_size(control, control_length),
                                                   (int)head.flags);
        code = tell(ring, slot, DATAGRAMS, value);
    }
    recycle(pool, id);
    return code;
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
    } else if (slot->kind == DATAGRAM && (flags & CQE_BUFFER)) {
        if (result >= 0) {
            code = datagrams_received(ring, slot, cqe);
        } else {
            recycle(&ring->pools[DATAGRAM_BUFFERS], flags >> CQE_BUFFER_SHIFT);
        }
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

static int
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
static int
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

/* --- setting up and tearing down ---------------------------------------------------------- */

static void
free_pool(struct pool *pool)
{
    if (pool->ring) {
        munmap(pool->ring, pool->ring_size);
        pool->ring = NULL;
    }
    if (pool->memory) {
        munmap(pool->memory, pool->memory_size);
        pool->memory = NULL;
    }
}

static void *
map_private(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* A group of buffers that the kernel picks from when data has come. 0, or an errno. */
static int
make_pool(Ring *ring, int group, uint32_t count, uint32_t size)
{
    struct pool *pool = &ring->pools[group];
    pool->count = count;
    pool->size = size;
    pool->tail = 0;
    pool->ring_size = count * sizeof(struct pbuf);
    pool->memory_size = (size_t)count * size;
    pool->ring = map_private(pool->ring_size);
    pool->memory = map_private(pool->memory_size);
    if (!pool->ring || !pool->memory) {
        free_pool(pool);
        return ENOMEM;
    }
    struct {
        uint64_t address;
        uint32_t entries;
        uint16_t group, flags;
        uint64_t reserved[3];
    } registration = {(uint64_t)(uintptr_t)pool->ring, count, (uint16_t)group, 0, {0}};
    if (syscall(__NR_io_uring_register, ring->fd, REGISTER_PBUF_RING, &registration, 1) < 0) {
        int code = errno;
        free_pool(pool);
        return code;
    }
    for (uint32_t id = 0; id < count; id++) {
        recycle(pool, id);
    }
    publish(pool);
    return 0;
}

static int
map_rings(Ring *ring, const struct io_uring_params *p)
{
    size_t sq_size = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
    ring->sqes_size = p->sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                       ring->fd, IORING_OFF_SQ_RING);
    if (ring->rings == MAP_FAILED) {
        ring->rings = NULL;
        return errno;
    }
    ring->sqes = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      ring->fd, IORING_OFF_SQES);
    if (ring->sqes == MAP_FAILED) {
        ring->sqes = NULL;
        return errno;
    }
    char *base = ring->rings;
    ring->sq_entries = p->sq_entries;
    ring->sq_mask = p->sq_entries - 1;
    ring->sq_head = (unsigned *)(base + p->sq_off.head);
    ring->sq_tail = (unsigned *)(base + p->sq_off.tail);
    ring->sq_array = (unsigned *)(base + p->sq_off.array);
    ring->cq_entries = p->cq_entries;
    ring->cq_mask = p->cq_entries - 1;
    ring->cq_head = (unsigned *)(base + p->cq_off.head);
    ring->cq_tail = (unsigned *)(base + p->cq_off.tail);
    ring->cq_overflow = (unsigned *)(base + p->cq_off.overflow);
    ring->cqes = (struct io_uring_cqe *)(base + p->cq_off.cqes);
    return 0;
}

static int
set_up(Ring *ring, unsigned entries, unsigned completions)
{
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    p.flags = SETUP_FLAGS;
    p.cq_entries = completions;
    long fd = syscall(__NR_io_uring_setup, entries, &p);
    if (fd < 0) {
        return errno;
    }
    ring->fd = (int)fd;
    if (!(p.features & FEAT_SINGLE_MMAP) || !(p.features & FEAT_EXT_ARG)) {
        return ENOSYS;
    }
    return map_rings(ring, &p);
}

/* Give back what the process has of the ring. The kernel is asked for nothing. */
static void
let_go(Ring *ring)
{
    if (ring->rings) {
        munmap(ring->rings, ring->rings_size);
        ring->rings = NULL;
    }
    if (ring->sqes) {
        munmap(ring->sqes, ring->sqes_size);
        ring->sqes = NULL;
    }
    if (ring->fd >= 0) {
        close(ring->fd);
        ring->fd = -1;
    }
    free_pool(&ring->pools[STREAM_BUFFERS]);
    free_pool(&ring->pools[DATAGRAM_BUFFERS]);
}

static void
clear_slots(Ring *ring)
{
    struct slot *slots = ring->slots;
    uint32_t count = ring->slot_count;
    ring->slots = NULL; /* what follows may run any code */
    ring->slot_count = ring->open_slots = ring->outstanding = 0;
    ring->free_slot = NO_SLOT;
    for (uint32_t i = 0; i < count; i++) {
        Py_CLEAR(slots[i].owner);
        Py_CLEAR(slots[i].sending);
        Py_CLEAR(slots[i].waiting);
    }
    PyMem_Free(slots);
}

static int
require_open(Ring *ring)
{
    if (ring->fd < 0) {
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
        return -1;
    }
    return 0;
}

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
        ring->message.msg_namelen = NAME_SPACE;
        ring->message.msg_controllen = CONTROL_SPACE;
    }
    return (PyObject *)ring;
}

static int
Ring_traverse(Ring *ring, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)ring));
    Py_VISIT(ring->events);
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

/* --- methods ------------------------------------------------------------------------------ */

PyDoc_STRVAR(add_doc,
"add(fd, owner, kind) -> slot\n\nServe a socket; its events name the owner. Nothing is received yet.");

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
    if (kind == DATAGRAM && !ring->pools[DATAGRAM_BUFFERS].ring) {
        uint32_t size = sizeof(struct recvmsg_out) + NAME_SPACE + CONTROL_SPACE + DATAGRAM_SIZE;
        int code = make_pool(ring, DATAGRAM_BUFFERS, 64, (size + 63) & ~63U);
        if (code) {
            return raise_errno(code);
        }
    }
    if (ring->free_slot == NO_SLOT && grow_slots(ring) < 0) {
        return NULL;
    }
    uint32_t number = ring->free_slot;
    struct slot *slot = &ring->slots[number];
    ring->free_slot = slot->next_free;
    memset(slot, 0, sizeof *slot);
    slot->owner = Py_NewRef(owner);
    slot->fd = fd;
    slot->kind = (uint8_t)kind;
    slot->used = slot->open = 1;
    ring->open_slots++;
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

/* Wait until the kernel has ended what was cancelled: only then has it let go of the socket. */
static int
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

/* Once only, each time: a multishot poll is edge triggered after its first event. */
static int
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

PyDoc_STRVAR(wait_doc,
"wait(seconds) -> [(owner, kind, value), ...]\n\n"
"Submit what was asked for and wait for events, for so many seconds at most; None is for ever.\n"
"Returns early, perhaps with nothing, when a signal comes. Values by kind:\n"
"RECEIVED bytes, empty at the end; SENT None; ACCEPTED a file descriptor, which is the caller's\n"
"now; DATAGRAMS (bytes, address, size of joined datagrams or 0, flags); READ_FAILED and\n"
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
    return Py_BuildValue("{sI sI sI sI sI}", "open_slots", ring->open_slots, "used_slots", used,
                         "outstanding", ring->outstanding, "to_submit", ring->to_submit,
                         "overflowed", ring->cq_overflow && ring->rings ? *ring->cq_overflow : 0);
}

static PyObject *
Ring_fileno(Ring *ring, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(ring->fd);
}

static PyMethodDef ring_methods[] = {
    {"add", (PyCFunction)Ring_add, METH_VARARGS, add_doc},
    {"receive", (PyCFunction)Ring_receive, METH_VARARGS, receive_doc},
    {"read_small", (PyCFunction)Ring_read_small, METH_O, read_small_doc},
    {"send", (PyCFunction)Ring_send, METH_VARARGS, send_doc},
    {"unsent", (PyCFunction)Ring_unsent, METH_O, unsent_doc},
    {"discard", (PyCFunction)Ring_discard, METH_O, discard_doc},
    {"watch", (PyCFunction)Ring_watch, METH_O, watch_doc},
    {"wait", (PyCFunction)Ring_wait, METH_O, wait_doc},
    {"close", (PyCFunction)Ring_close, METH_NOARGS, close_doc},
    {"abandon", (PyCFunction)Ring_abandon, METH_NOARGS, abandon_doc},
    {"state", (PyCFunction)Ring_state, METH_NOARGS, state_doc},
    {"fileno", (PyCFunction)Ring_fileno, METH_NOARGS, "fileno() -> that of the ring; -1 if closed."},
    {NULL, NULL, 0, NULL},
};

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
        {"POLLED", POLLED},       {"READABLE", READABLE},
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
