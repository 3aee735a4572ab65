"""`Codec`: one table of a schema as one Python class."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from jetstreamproto.wire.binding import bind
from jetstreamproto.wire.layout import Lead, lay_out
from jetstreamproto.wire.reader import Reader
from jetstreamproto.wire.schema_types import Schema
from jetstreamproto.wire.writer import Writer

T = TypeVar("T", bound=tuple[Any, ...])

_REMEMBERED, _SMALL = 256, 512


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


class RecurringCodec(Codec[T]):
    """A codec for values that are much the same for every peer: it remembers the last of them.

    Those of which `secret(value)` is true are not kept. A hostile peer that sends ever new ones
    takes `_REMEMBERED` times `_SMALL` bytes of memory, and gains nothing.
    """

    def __init__(
        self, schema: Schema, table: str, kind: type[T], *, secret: Callable[[T], bool]
    ) -> None:
        super().__init__(schema, table, kind)
        self._secret = secret
        self._encoded: dict[T, bytes] = {}
        self._decoded: dict[bytes, T] = {}

    def encode(self, value: T) -> bytes:
        data = self._encoded.get(value)
        if data is None:
            data = super().encode(value)
            if not self._secret(value):
                _remember(self._encoded, value, data, len(data))
        return data

    def decode(self, data: bytes | memoryview) -> T:
        if len(data) > _SMALL:
            return super().decode(data)
        data = bytes(data)
        value = self._decoded.get(data)
        if value is None:
            value = super().decode(data)
            if not self._secret(value):
                _remember(self._decoded, data, value, len(data))
        return value


def _remember(known: dict[Any, Any], key: object, value: object, size: int) -> None:
    if size <= _SMALL:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = value
