"""The layout of key-value's messages: a few numbers, and a list of byte strings.

The canonical layout of such a table is written and read with one `struct` call, and any other
with a `Codec`. Byte strings are cut out of the message once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from jetstreamproto.errors import SchemaError, WireError
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import lay_out_tail
from jetstreamproto.wire.schema_types import Schema

T = TypeVar("T", bound=tuple[Any, ...])

_ABSENT = (1 << 32) - 1
_SIZES = [struct.Struct(f"<{count}I") for count in range(9)]


class Envelope(Generic[T]):
    """One table of the schema as `kind`, a NamedTuple whose last field is `data`."""

    def __init__(self, schema: Schema, table: str, kind: type[T]) -> None:
        layout = lay_out_tail(schema.table(table), size_prefixed=False)
        fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
        if layout.names != fields[:-1]:
            raise SchemaError(f"{table} has {layout.names}, not {fields}")
        self.codec = Codec(schema, table, kind)
        self._head = layout.head
        self._size = layout.head.size
        self._constants = layout.constants

    def encode(self, data: bytes, *numbers: int) -> bytes:
        """One message. Raises `ValueError` for a number that its field cannot hold."""
        try:
            return self._head.pack(self._constants, *numbers, len(data)) + data
        except struct.error as problem:
            raise ValueError(str(problem)) from None

    def decode(self, message: bytes) -> tuple[tuple[Any, ...], bytes, int]:
        """Its numbers, between two values of no concern; a buffer, and where data is to its end.

        Raises `WireError`.
        """
        size = self._size
        if len(message) >= size:
            fields = self._head.unpack_from(message)
            if fields[0] == self._constants and len(message) == size + fields[-1]:
                return fields, message, size
        *numbers, data = self.codec.decode(message)
        return (None, *numbers, None), bytes(data), 0


def pack(values: Sequence[bytes | None]) -> bytes:
    """A list of byte strings; None is one that is absent."""
    count = len(values)
    if count == 1 and values[0] is not None:
        return len(values[0]).to_bytes(4, "little") + values[0]
    sizes = [_ABSENT if value is None else len(value) for value in values]
    return _sizes(count).pack(*sizes) + b"".join([value for value in values if value is not None])


def unpack(buffer: bytes, at: int, count: int) -> list[bytes | None]:
    """The byte strings that `buffer` ends with, from `at` on. Raises `WireError`."""
    start = at + 4 * count
    end = len(buffer)
    if count == 1 and start <= end:
        size = int.from_bytes(buffer[at:start], "little")
        if size == end - start:
            return [buffer[start:]]
    if start > end:
        raise WireError(f"{count} sizes do not fit into {end - at} bytes")
    values: list[bytes | None] = []
    for size in _sizes(count).unpack_from(buffer, at):
        if size == _ABSENT:
            values.append(None)
            continue
        stop = start + size
        if stop > end:
            break
        values.append(buffer[start:stop])
        start = stop
    if start != end or len(values) != count:
        raise WireError("the sizes do not add up to the bytes that there are")
    return values


def _sizes(count: int) -> struct.Struct:
    return _SIZES[count] if count < len(_SIZES) else struct.Struct(f"<{count}I")
