"""`Codec`: one table of a schema as one Python class."""

from __future__ import annotations

import struct
from typing import Any, Generic, TypeVar

from jetstreamproto.wire.binding import bind
from jetstreamproto.wire.layout import Lead, lay_out
from jetstreamproto.wire.reader import Reader
from jetstreamproto.wire.schema_types import Schema
from jetstreamproto.wire.writer import Writer

T = TypeVar("T", bound=tuple[Any, ...])


class Codec(Generic[T]):
    """Encodes and decodes a root table as `T`, a NamedTuple; `binding` lists its annotations.

    With `size_prefixed`, buffers start with their size, as `FinishSizePrefixed` makes them.
    The class has to match the table, or the codec cannot be built: that is a SchemaError.
    """

    def __init__(
        self, schema: Schema, table: str, kind: type[T], *, size_prefixed: bool = False
    ) -> None:
        declared = schema.table(table)
        self._shape = bind(declared, kind)
        self._lead = Lead.SIZED_ROOT if size_prefixed else Lead.ROOT
        self._layout = lay_out(declared, self._lead)
        self._size_prefixed = size_prefixed

    def encode(self, value: T) -> bytes:
        """`value` in the canonical layout, which `layout` describes.

        Raises ValueError for a value that the schema cannot express: a number out of range,
        None in a field that has to be there, tables nested too deeply.
        """
        writer = Writer()
        head = self._layout.head
        number, start = writer.reserve(head.size, 1)
        try:
            scalars = self._shape.store_fields(writer, value, self._layout, start, depth=0)
            if self._size_prefixed:
                scalars.insert(0, writer.size - 4)
            writer.fill(number, head.pack(*scalars))
            return writer.finish()
        except (struct.error, OverflowError) as problem:
            raise ValueError(f"{self._shape.name}: {problem}") from None

    def decode(self, data: bytes | memoryview) -> T:
        """The value in `data`, in whatever valid layout it is; views must be contiguous.

        Without a size prefix, bytes after the last object are ignored. Raises WireError, and
        nothing else, for bytes that are not a valid buffer of the table.
        """
        reader = Reader(memoryview(data).cast("B"))
        if self._size_prefixed:
            reader.check_size_prefix()
        layout = self._layout
        result: T
        if len(reader.view) >= layout.head.size:
            # Equal constants say what reading them would: where every field is, and that all
            # of them are there.
            first = 1 if self._size_prefixed else 0
            scalars = layout.head.unpack_from(reader.view)
            if scalars[first] == layout.constants:
                result = self._shape.load_block(reader, layout, scalars[first + 1 :])
                return result
        root = reader.root(self._lead - 4)
        result = self._shape.load(reader, root, depth=0)
        return result
