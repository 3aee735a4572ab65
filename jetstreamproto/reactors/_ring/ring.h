/* io_uring for the reactor: many sockets' receives, sends and accepts with one system call a turn.
 *
 * The system calls are made directly, so that nothing but a compiler is needed to build this.
 * Everything runs on the thread that made the ring, which the kernel insists on (SINGLE_ISSUER).
 *
 *   module.c     the type and the module         kernel.c     the ring as the kernel has it
 *   methods.c    what Python calls               buffers.c    buffers that the kernel picks from
 *   events.c     completions                     slots.c      sockets that the ring serves
 *   streams.c    TCP                             datagrams.c  UDP
 *
 * See io_uring(7). Functions return 0, or -1 with an exception of Python's set, unless they say
 * otherwise.
 */

#ifndef JETSTREAM_RING_H
#define JETSTREAM_RING_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Numbers of the kernel's interface, which the headers of a building machine may be too old for. */
#define CQE_BUFFER (1U << 0)
#define CQE_MORE (1U << 1)
#define CQE_BUFFER_SHIFT 16
#define ENTER_GETEVENTS (1U << 0)

#define LOANS 32      /* buffers for datagrams, which are lent */
#define SENDERS 256   /* whose addresses are known */
#define NAME_SPACE 32 /* a sockaddr_in6, and what is behind it is aligned */
#define CLOSING_TRIES 100

#define NO_SLOT UINT32_MAX
#define LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

enum { STREAM_BUFFERS, DATAGRAM_BUFFERS, POOLS }; /* group numbers of provided buffers */
enum { OP_RECV = 1, OP_SEND, OP_POLL, OP_CANCEL };
enum { STREAM = 0, LISTENER, DATAGRAM };
enum { RECEIVED = 0, SENT, ACCEPTED, DATAGRAMS, READ_FAILED, WRITE_FAILED, POLLED, READABLE };

struct pbuf { /* struct io_uring_buf */
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail; /* of the whole ring, in the first entry only */
};

struct pool {
    struct pbuf *ring;
    PyObject *owner; /* a bytearray, of which `memory` is the aligned part */
    char *memory;
    size_t ring_size;
    uint32_t count, size;
    uint16_t tail;
};

struct sender {
    PyObject *address; /* (host, port) of `name`, a socket address */
    size_t length;
    char name[NAME_SPACE];
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
    struct pool pools[POOLS];
    struct msghdr message; /* what a multishot recvmsg wants to know: sizes only */
    struct slot *slots;
    uint32_t slot_count, free_slot, open_slots;
    uint32_t outstanding; /* receives and sends under way */
    int poll_fd, poll_armed;
    PyObject *events;
    PyObject *views; /* of the datagrams' buffers, or NULL */
    struct sender senders[SENDERS];
    uint8_t lent[LOANS];
    uint32_t lent_count;
    int starved; /* some slot waits until a buffer is given back */
} Ring;

#pragma GCC visibility push(hidden) /* of the extension, nothing but the module is seen outside */

/* --- kernel.c ----------------------------------------------------------------------------- */

/* 0 or an errno. */
int set_up(Ring *ring, unsigned entries, unsigned completions);
void let_go(Ring *ring);
/* Submits, and waits for so many completions. 0 or the negative of an errno. */
int enter(Ring *ring, unsigned wanted, unsigned flags, const struct __kernel_timespec *timeout);
int is_passing(int code);
PyObject *raise_errno(int code);
/* A submission to fill in, to be given to push_sqe; NULL with an exception. */
struct io_uring_sqe *next_sqe(Ring *ring);
void push_sqe(Ring *ring, struct io_uring_sqe *sqe, uint32_t slot, unsigned operation);
int push_cancel(Ring *ring, uint32_t number, unsigned operation);

/* --- buffers.c ---------------------------------------------------------------------------- */

int make_pool(Ring *ring, int group, uint32_t count, uint32_t size);
void free_pool(struct pool *pool);
/* The kernel may use a buffer again, once it has been published. */
void recycle(struct pool *pool, unsigned id);
void publish(struct pool *pool);

/* --- slots.c ------------------------------------------------------------------------------ */

struct slot *open_slot(Ring *ring, PyObject *number, uint32_t *index);
int add_slot(Ring *ring, int fd, PyObject *owner, int kind, uint32_t *index);
void free_slot_if_ended(Ring *ring, uint32_t number);
void clear_slots(Ring *ring);

/* --- streams.c ---------------------------------------------------------------------------- */

/* `taken` is how many completions were used up, of those from `head` to `tail`. */
int stream_received(Ring *ring, struct slot *slot, unsigned head, unsigned tail, unsigned *taken);
int push_send(Ring *ring, uint32_t number);
int send_completed(Ring *ring, uint32_t number, int result);
void drop_waiting(struct slot *slot);

/* --- datagrams.c -------------------------------------------------------------------------- */

/* Has the buffers, which are not there before they are needed. */
int prepare_datagrams(Ring *ring);
/* `taken` is how many completions were used up, of those from `head` to `tail`. */
int datagrams_received(Ring *ring, struct slot *slot, unsigned head, unsigned tail,
                       unsigned *taken);
/* The buffers of what DATAGRAMS has told are free again. What is not lent is passed over. */
int take_back(Ring *ring, PyObject *told);
void forget_senders(Ring *ring);

/* --- events.c ----------------------------------------------------------------------------- */

int tell(Ring *ring, struct slot *slot, int kind, PyObject *value);
int arm_receive(Ring *ring, uint32_t number);
int arm_poll(Ring *ring);
int drain(Ring *ring);
int await_end(Ring *ring, uint32_t number);

/* --- methods.c ---------------------------------------------------------------------------- */

extern PyMethodDef ring_methods[];

#pragma GCC visibility pop

#endif
