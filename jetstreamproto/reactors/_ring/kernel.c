/* The ring as the kernel has it: setting up, submitting, letting go. See io_uring_setup(2),
 * io_uring_enter(2).
 */

#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Numbers of the kernel's interface, which the headers of a building machine may be too old for. */
#define SETUP_FLAGS                                                                             \
    ((1U << 3) /* CQSIZE */ | (1U << 4) /* CLAMP */ | (1U << 7) /* SUBMIT_ALL */ |              \
     (1U << 12) /* SINGLE_ISSUER */ | (1U << 13) /* DEFER_TASKRUN */)
#define ENTER_EXT_ARG (1U << 3)
#define FEAT_SINGLE_MMAP (1U << 0)
#define FEAT_EXT_ARG (1U << 8)

int
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
int
is_passing(int code)
{
    return code == -EINTR || code == -ETIME || code == -EBUSY || code == -EAGAIN;
}

PyObject *
raise_errno(int code)
{
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

struct io_uring_sqe *
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

void
push_sqe(Ring *ring, struct io_uring_sqe *sqe, uint32_t slot, unsigned operation)
{
    unsigned tail = *ring->sq_tail;
    sqe->user_data = (uint64_t)slot << 8 | operation;
    ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
    STORE(ring->sq_tail, tail + 1);
    ring->to_submit++;
}

int
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

int
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
void
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
