"""Where the canonical encoding of a table puts every byte that is always there.

A table becomes one block: what leads up to its vtable, the vtable, the table's offset to it,
then the slots of its fields: first all references, then the inline values by descending
alignment, both in the schema's order. All fields have a slot, present or not. So a block has
one fixed size, and one `struct.Struct` packs or unpacks it whole. What the references lead
to comes after the block. The format itself is described in the FlatBuffers internals document
(https://flatbuffers.dev/internals/), which leaves this order open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from jetstreamproto.errors import SchemaError
from jetstreamproto.wire.schema_types import (
    UINT8,
    Field,
    Reference,
    Struct,
    StructField,
    Table,
    Vector,
    align_up,
)

_MAX_VTABLE_VALUE = 0xFFFF


class Lead(IntEnum):
    """What precedes a vtable in its block; the value is the number of bytes."""

    NESTED = 0  # nothing: another table refers to this one
    ROOT = 4  # the offset of the root table
    SIZED_ROOT = 8  # the size of everything after these four bytes, and the offset of the root


@dataclass(frozen=True)
class TableLayout:
    """The canonical block of one table; all positions count bytes from the block's start.

    head: packs and unpacks the block. Its values are the size, if the lead has one, then
        `constants`, then the slots in the order of `order`.
    constants: the bytes from the root offset, if there is one, to the table's first slot.
    vtable: where in `constants` the vtable starts.
    slots: `struct` codes of everything after `constants`.
    positions: of each field's slot, in the schema's order.
    order: the indices of the fields as they follow one another.
    table: position of the table itself, which is what offsets lead to.
    align: the block starts at a multiple of this.
    """

    head: struct.Struct
    constants: bytes
    vtable: int
    slots: str
    positions: tuple[int, ...]
    order: tuple[int, ...]
    table: int
    align: int

    def constants_without(self, absent: Iterable[int]) -> bytes:
        """`constants` when the fields with the indices in `absent` are not there."""
        constants = bytearray(self.constants)
        for index in absent:
            struct.pack_into("<H", constants, self.vtable + 4 + 2 * index, 0)
        return bytes(constants)


def lay_out(table: Table, lead: Lead) -> TableLayout:
    """The canonical block of `table`. Raises SchemaError if it is too large for a vtable."""
    fields = table.fields
    vtable_size = 4 + 2 * len(fields)
    # The padding between vtable and table is as constant as they are.
    table_at = lead + align_up(vtable_size, 4)
    order = _slot_order(fields)
    positions = [0] * len(fields)
    slots, end = "", table_at + 4
    for index in order:
        declared = fields[index].type
        positions[index] = align_up(end, declared.align)
        slots += "x" * (positions[index] - end) + declared.format
        end = positions[index] + declared.size
    if max(vtable_size, end - table_at) > _MAX_VTABLE_VALUE:
        raise SchemaError(f"{table} is too large: its vtable holds 16-bit offsets")
    entries = (vtable_size, end - table_at, *(position - table_at for position in positions))
    vtable = struct.pack(f"<{len(entries)}H", *entries).ljust(table_at - lead, b"\0")
    root = struct.pack("<I", table_at - (lead - 4)) if lead else b""
    constants = root + vtable + struct.pack("<i", table_at - lead)
    return TableLayout(
        head=_head(lead, constants, slots),
        constants=constants,
        vtable=len(root),
        slots=slots,
        positions=tuple(positions),
        order=order,
        table=table_at,
        align=max([4, *(field.type.align for field in fields)]),
    )


def _head(lead: Lead, constants: bytes, slots: str) -> struct.Struct:
    size = "I" if lead == Lead.SIZED_ROOT else ""
    return struct.Struct(f"<{size}{len(constants)}s{slots}")


def _slot_order(fields: Sequence[Field]) -> tuple[int, ...]:
    def rank(index: int) -> tuple[bool, int]:
        declared = fields[index].type
        return not isinstance(declared, Reference), -declared.align

    return tuple(sorted(range(len(fields)), key=rank))


@dataclass(frozen=True)
class TailLayout:
    """The canonical form of a table that is inline values and one vector of bytes, as a root.

    head: packs and unpacks everything up to the first byte of the vector. Its values are the
        size, if the table is size-prefixed, then `constants`, then one scalar for each of
        `names`, then the length of the vector, whose bytes follow and end the buffer.
    constants: everything between the size and the first inline value.
    names: the scalars, those inside structs as "struct.field".
    size_base: add the vector's length to this to get the size.
    """

    head: struct.Struct
    constants: bytes
    names: tuple[str, ...]
    size_base: int


def lay_out_tail(table: Table, *, size_prefixed: bool) -> TailLayout:
    """The tail layout of `table`.

    Raises SchemaError unless exactly one field is a [uint8] and all others are inline.
    """
    references = [field.type for field in table.fields if isinstance(field.type, Reference)]
    if references != [Vector(UINT8)]:
        raise SchemaError(f"{table} needs one [uint8], and otherwise only inline fields")
    lead = Lead.SIZED_ROOT if size_prefixed else Lead.ROOT
    layout = lay_out(table, lead)
    tail, *inline = layout.order  # References come first.
    length_at = align_up(layout.head.size, 4)
    constants = layout.constants + struct.pack("<I", length_at - layout.positions[tail])
    slots = layout.slots.removeprefix("I") + "x" * (length_at - layout.head.size) + "I"
    head = _head(lead, constants, slots)
    names = [name for index in inline for name in _scalar_names(table.fields[index])]
    return TailLayout(head, constants, tuple(names), head.size - 4)


def _scalar_names(declared: Field | StructField) -> list[str]:
    if not isinstance(declared.type, Struct):
        return [declared.name]
    return [
        f"{declared.name}.{name}"
        for member in declared.type.fields
        for name in _scalar_names(member)
    ]
