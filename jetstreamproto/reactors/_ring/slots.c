/* Slots: a socket that the ring serves has one. It has one receive (or accept) and one send under
 * way at most, and is used again only when the kernel has ended both: completions therefore never
 * meet another owner than the one that asked for them, whatever becomes of file descriptors.
 */

#include "ring.h"

#include <string.h>

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

int
add_slot(Ring *ring, int fd, PyObject *owner, int kind, uint32_t *index)
{
    if (ring->free_slot == NO_SLOT && grow_slots(ring) < 0) {
        return -1;
    }
    *index = ring->free_slot;
    struct slot *slot = &ring->slots[*index];
    ring->free_slot = slot->next_free;
    memset(slot, 0, sizeof *slot);
    slot->owner = Py_NewRef(owner);
    slot->fd = fd;
    slot->kind = (uint8_t)kind;
    slot->used = slot->open = 1;
    ring->open_slots++;
    return 0;
}

struct slot *
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

void
free_slot_if_ended(Ring *ring, uint32_t number)
{
    struct slot *slot = &ring->slots[number];
    if (slot->used && !slot->open && !slot->armed && !slot->sending) {
        slot->used = 0;
        slot->next_free = ring->free_slot;
        ring->free_slot = number;
    }
}

void
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
