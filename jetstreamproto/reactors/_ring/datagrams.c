/* UDP: what a multishot recvmsg leaves in a buffer (io_uring_recvmsg_out, then the address, the
 * control data and the payload, each with the space that was asked for).
 *
 * The kernel may have joined datagrams of one sender (UDP_GRO). The owner of the slot is lent the
 * buffers as they are, and gives them back.
 */

#include "ring.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#define SOL_UDP_ 17
#define UDP_GRO_ 104

#define CONTROL_SPACE 272 /* all that a socket may be set to tell, and the payload is aligned */
#define PAYLOAD_SPACE 65536

struct recvmsg_out { /* struct io_uring_recvmsg_out */
    uint32_t namelen, controllen, payloadlen, flags;
};
#define PAYLOAD_OFFSET ((Py_ssize_t)sizeof(struct recvmsg_out) + NAME_SPACE + CONTROL_SPACE)

struct received {
    char *name, *control, *payload;
    size_t name_length, control_length, length;
    int flags;
};

/* --- reading a buffer --------------------------------------------------------------------- */

static struct received
read_buffer(struct pool *pool, unsigned id)
{
    struct recvmsg_out head;
    struct received found;
    char *start = pool->memory + (size_t)id * pool->size;
    memcpy(&head, start, sizeof head);
    found.name = start + sizeof head;
    found.control = found.name + NAME_SPACE;
    found.payload = found.control + CONTROL_SPACE;
    found.name_length = head.namelen < NAME_SPACE ? head.namelen : NAME_SPACE;
    found.control_length = head.controllen < CONTROL_SPACE ? head.controllen : CONTROL_SPACE;
    found.length = head.payloadlen < PAYLOAD_SPACE ? head.payloadlen : PAYLOAD_SPACE;
    found.flags = (int)head.flags;
    return found;
}

/* Host and port of the sender. A link-local host has its scope behind a %. */
static PyObject *
make_address(const struct received *found)
{
    char text[INET6_ADDRSTRLEN];
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    sa_family_t family = AF_UNSPEC;
    if (found->name_length >= sizeof family) {
        memcpy(&family, found->name, sizeof family);
    }
    if (family == AF_INET && found->name_length >= sizeof v4) {
        memcpy(&v4, found->name, sizeof v4);
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
        return Py_BuildValue("si", text, (int)ntohs(v4.sin_port));
    }
    if (family == AF_INET6 && found->name_length >= sizeof v6) {
        memcpy(&v6, found->name, sizeof v6);
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
        if (v6.sin6_scope_id) {
            return Py_BuildValue("Ni", PyUnicode_FromFormat("%s%%%u", text, v6.sin6_scope_id),
                                 (int)ntohs(v6.sin6_port));
        }
        return Py_BuildValue("si", text, (int)ntohs(v6.sin6_port));
    }
    return Py_BuildValue("si", "", 0);
}

/* The same, from the last few that there were: one sender has one tuple, mostly. */
static PyObject *
address_of(Ring *ring, const struct received *found)
{
    uint32_t hash = 2166136261U; /* FNV-1a */
    for (size_t i = 0; i < found->name_length; i++) {
        hash = (hash ^ (uint8_t)found->name[i]) * 16777619U;
    }
    struct sender *sender = &ring->senders[(hash ^ hash >> 16) % SENDERS];
    if (!sender->address || sender->length != found->name_length ||
        memcmp(sender->name, found->name, found->name_length)) {
        PyObject *address = make_address(found);
        if (!address) {
            return NULL;
        }
        Py_XDECREF(sender->address);
        sender->address = address;
        sender->length = found->name_length;
        memcpy(sender->name, found->name, found->name_length);
    }
    return Py_NewRef(sender->address);
}

void
forget_senders(Ring *ring)
{
    for (unsigned i = 0; i < SENDERS; i++) {
        Py_CLEAR(ring->senders[i].address);
    }
}

/* The size of each datagram but the last, which may be shorter. */
static size_t
datagram_size(const struct received *found)
{
    struct msghdr message = {.msg_control = found->control,
                             .msg_controllen = found->control_length};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_UDP_ && c->cmsg_type == UDP_GRO_ &&
            c->cmsg_len >= CMSG_LEN(sizeof(int))) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 ? (size_t)size : found->length;
        }
    }
    return found->length;
}

/* --- telling ------------------------------------------------------------------------------ */

static int
append(PyObject *list, PyObject *item) /* steals the item, which may be NULL after an error */
{
    int code = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return code;
}

/* Appends (memoryview, size, length, address, flags of recvmsg, number of the buffer). */
static int
append_loan(Ring *ring, unsigned id, PyObject *told)
{
    struct received found = read_buffer(&ring->pools[DATAGRAM_BUFFERS], id);
    PyObject *address = address_of(ring, &found);
    PyObject *view = PyList_GetItem(ring->views, (Py_ssize_t)id);
    if (!view || !address) {
        Py_XDECREF(address);
        return -1;
    }
    return append(told, Py_BuildValue("OnnNiI", view, (Py_ssize_t)datagram_size(&found),
                                      (Py_ssize_t)found.length, address, found.flags, id));
}

/* Whether a completion is of a slot's datagrams, in a buffer. */
static int
has_datagram(const struct io_uring_cqe *cqe, uint64_t user_data)
{
    return cqe->user_data == user_data && cqe->res >= 0 && (cqe->flags & CQE_BUFFER);
}

static void
lend(Ring *ring, unsigned id)
{
    ring->lent[id] = 1;
    ring->lent_count++;
}

static void
end_loan(Ring *ring, unsigned id)
{
    if (ring->lent[id]) {
        ring->lent[id] = 0;
        ring->lent_count--;
        recycle(&ring->pools[DATAGRAM_BUFFERS], id);
    }
}

int
datagrams_received(Ring *ring, struct slot *slot, unsigned head, unsigned tail, unsigned *taken)
{
    struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
    uint64_t user_data = cqe->user_data;
    PyObject *told = slot->open ? PyList_New(0) : NULL;
    int code = slot->open && !told ? -1 : 0;
    unsigned count = 0, more;
    do {
        unsigned id = cqe->flags >> CQE_BUFFER_SHIFT;
        lend(ring, id);
        if (told && code == 0) {
            code = append_loan(ring, id, told);
        }
        more = cqe->flags & CQE_MORE;
        count++;
        cqe = &ring->cqes[(head + count) & ring->cq_mask];
    } while (more && head + count != tail && has_datagram(cqe, user_data));
    *taken = count;
    if (told && code == 0) {
        code = tell(ring, slot, DATAGRAMS, Py_NewRef(told));
    }
    if (!told || code < 0) { /* nobody knows of the buffers: an error, or the slot is closed */
        for (unsigned i = 0; i < count; i++) {
            end_loan(ring, ring->cqes[(head + i) & ring->cq_mask].flags >> CQE_BUFFER_SHIFT);
        }
    }
    Py_XDECREF(told);
    return code;
}

/* --- buffers ------------------------------------------------------------------------------ */

/* Memoryviews of the payloads, for slots that are lent the buffers. They keep the memory. */
static PyObject *
make_views(struct pool *pool)
{
    PyObject *all = PyMemoryView_FromObject(pool->owner), *views = PyList_New(0);
    Py_ssize_t start = pool->memory - PyByteArray_AsString(pool->owner) + PAYLOAD_OFFSET;
    int code = all && views ? 0 : -1;
    for (uint32_t id = 0; code == 0 && id < pool->count; id++) {
        code = append(views, PySequence_GetSlice(all, start, start + PAYLOAD_SPACE));
        start += pool->size;
    }
    Py_XDECREF(all);
    if (code < 0) {
        Py_CLEAR(views);
    }
    return views;
}

int
prepare_datagrams(Ring *ring)
{
    struct pool *pool = &ring->pools[DATAGRAM_BUFFERS];
    if (!pool->ring) {
        ring->message.msg_namelen = NAME_SPACE;
        ring->message.msg_controllen = CONTROL_SPACE;
        int code = make_pool(ring, DATAGRAM_BUFFERS, LOANS, PAYLOAD_OFFSET + PAYLOAD_SPACE);
        if (code) {
            raise_errno(code);
            return -1;
        }
    }
    if (!ring->views) {
        ring->views = make_views(pool);
    }
    return ring->views ? 0 : -1;
}

/* Those who had to stop for want of buffers go on. */
static int
feed_starved(Ring *ring)
{
    ring->starved = 0;
    for (uint32_t i = 0; i < ring->slot_count; i++) {
        struct slot *slot = &ring->slots[i];
        if (slot->open && slot->wanted && !slot->armed && slot->kind == DATAGRAM &&
            arm_receive(ring, i) < 0) {
            return -1;
        }
    }
    return 0;
}

int
take_back(Ring *ring, PyObject *told)
{
    Py_ssize_t count = PyList_Size(told);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *number = PyTuple_GetItem(PyList_GetItem(told, i), 5);
        long id = number ? PyLong_AsLong(number) : 0;
        if (PyErr_Occurred()) {
            return -1;
        }
        if (id >= 0 && id < LOANS) {
            end_loan(ring, (unsigned)id);
        }
    }
    publish(&ring->pools[DATAGRAM_BUFFERS]);
    return ring->starved ? feed_starved(ring) : 0;
}
