/* Provided buffers: the kernel picks one of a group when data has come. See
 * io_uring_register_buf_ring(3).
 */

#include "ring.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REGISTER_PBUF_RING 22
#define LINE 64

void
recycle(struct pool *pool, unsigned id)
{
    struct pbuf *entry = &pool->ring[pool->tail & (pool->count - 1)];
    entry->addr = (uint64_t)(uintptr_t)(pool->memory + (size_t)id * pool->size);
    entry->len = pool->size;
    entry->bid = (uint16_t)id;
    pool->tail++;
}

void
publish(struct pool *pool)
{
    if (pool->ring) {
        STORE(&pool->ring[0].tail, pool->tail);
    }
}

void
free_pool(struct pool *pool)
{
    if (pool->ring) {
        munmap(pool->ring, pool->ring_size);
        pool->ring = NULL;
    }
    Py_CLEAR(pool->owner); /* memoryviews may keep it */
    pool->memory = NULL;
}

/* Memory that starts at a cache line. Pages that are never used are never there. */
static int
take_memory(struct pool *pool)
{
    size_t size = (size_t)pool->count * pool->size;
    pool->owner = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(size + LINE));
    if (!pool->owner) {
        PyErr_Clear();
        return ENOMEM;
    }
    uintptr_t start = (uintptr_t)PyByteArray_AsString(pool->owner);
    pool->memory = (char *)((start + LINE - 1) & ~(uintptr_t)(LINE - 1));
    return 0;
}

/* A group of buffers that the kernel picks from when data has come. 0, or an errno. */
int
make_pool(Ring *ring, int group, uint32_t count, uint32_t size)
{
    struct pool *pool = &ring->pools[group];
    pool->count = count;
    pool->size = size;
    pool->tail = 0;
    pool->ring_size = count * sizeof(struct pbuf);
    void *memory = mmap(NULL, pool->ring_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return ENOMEM;
    }
    pool->ring = memory;
    if (take_memory(pool)) {
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
