"""How values of each schema type become Python values and back.

A shape belongs to one declared type and one Python type. Its value takes a fixed number of
scalars in a table's slots: `pick` makes a value of scalars that were unpacked, `put` appends
the scalars to be packed. A reference's one scalar is the distance to what a reader or a writer
has elsewhere. `pick` raises WireError for what the type does not allow, `put` ValueError.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from jetstreamproto.errors import WireError
from jetstreamproto.wire.layout import Lead, TableLayout, lay_out
from jetstreamproto.wire.reader import MAX_DEPTH, Reader
from jetstreamproto.wire.schema_types import Enum, String, Struct, Table, Type, Vector
from jetstreamproto.wire.writer import Writer

_LEAST_TABLE = 4
"""What reading a table counts: its offset to the vtable, which the smallest consists of."""


class Shape(ABC):
    """Reads and writes one slot. `width` is the number of scalars in it."""

    def __init__(self, declared: Type) -> None:
        self.slot = struct.Struct("<" + declared.format)
        self.size = declared.size
        self.align = declared.align
        self.width = len(self.slot.unpack(bytes(self.size)))

    def read(self, reader: Reader, at: int, depth: int) -> Any:
        """The value of the slot at `at`, which the reader has checked."""
        return self.pick(self.slot.unpack_from(reader.view, at), 0, reader, at, depth)

    @abstractmethod
    def pick(self, scalars: Sequence[Any], index: int, reader: Reader, at: int, depth: int) -> Any:
        """The value whose scalars start at `index` and were unpacked from the slot at `at`."""

    @abstractmethod
    def put(self, value: Any, scalars: list[Any], writer: Writer, at: int, depth: int) -> None:
        """Append the scalars of `value` for the slot at `at`."""


# --- values in the slot itself -----------------------------------------------------------


class InlineShape(Shape):
    """A value that is stored in its slot, so that it needs neither reader nor writer."""

    def pick(self, scalars: Sequence[Any], index: int, reader: Reader, at: int, depth: int) -> Any:
        return self.build(scalars, index)

    def put(self, value: Any, scalars: list[Any], writer: Writer, at: int, depth: int) -> None:
        self.flatten(value, scalars)

    def build(self, scalars: Sequence[Any], index: int) -> Any:
        """The value whose scalars start at `index`."""
        return scalars[index]

    def flatten(self, value: Any, scalars: list[Any]) -> None:
        """Append the scalars of `value`."""
        scalars.append(value)


class ScalarShape(InlineShape):
    """A bool, int or float as it is."""


class EnumShape(InlineShape):
    """A member of an IntEnum; other numbers are refused."""

    def __init__(self, declared: Enum, kind: type[IntEnum]) -> None:
        super().__init__(declared)
        self.kind = kind
        self._members: Mapping[int, IntEnum] = {int(member): member for member in kind}

    def build(self, scalars: Sequence[Any], index: int) -> Any:
        member = self._members.get(scalars[index])
        if member is None:
            raise WireError(f"{scalars[index]} is no value of {self.kind.__name__}")
        return member

    def flatten(self, value: Any, scalars: list[Any]) -> None:
        if value not in self._members:
            raise ValueError(f"{value!r} is no value of {self.kind.__name__}")
        scalars.append(value)


class StructShape(InlineShape):
    """A NamedTuple of the struct's fields."""

    def __init__(
        self, declared: Struct, kind: type[tuple[Any, ...]], fields: Sequence[InlineShape]
    ) -> None:
        super().__init__(declared)
        self._kind = kind
        self._fields = tuple(fields)

    def build(self, scalars: Sequence[Any], index: int) -> Any:
        values = []
        for shape in self._fields:
            values.append(shape.build(scalars, index))
            index += shape.width
        return tuple.__new__(self._kind, values)

    def flatten(self, value: Any, scalars: list[Any]) -> None:
        for shape, item in zip(self._fields, value, strict=True):
            shape.flatten(item, scalars)


# --- values elsewhere --------------------------------------------------------------------


class ReferenceShape(Shape):
    """A value that the slot refers to."""

    def pick(self, scalars: Sequence[Any], index: int, reader: Reader, at: int, depth: int) -> Any:
        return self.load(reader, reader.target(at, scalars[index]), depth)

    def put(self, value: Any, scalars: list[Any], writer: Writer, at: int, depth: int) -> None:
        scalars.append(self.store(writer, value, depth) - at)

    @abstractmethod
    def load(self, reader: Reader, at: int, depth: int) -> Any:
        """The value at `at`; `depth` is the number of tables around it."""

    @abstractmethod
    def store(self, writer: Writer, value: Any, depth: int) -> int:
        """Write `value`; returns the position that offsets to it lead to."""


class StringShape(ReferenceShape):
    """A str."""

    def __init__(self) -> None:
        super().__init__(String())

    def load(self, reader: Reader, at: int, depth: int) -> str:
        return reader.string(at)

    def store(self, writer: Writer, value: str, depth: int) -> int:
        text = value.encode("utf-8")
        return writer.append(len(text).to_bytes(4, "little") + text + b"\0", align=4)


class BytesShape(ReferenceShape):
    """A [uint8] as bytes, or as a memoryview of the buffer that was read."""

    def __init__(self, declared: Vector, kind: type[bytes] | type[memoryview]) -> None:
        super().__init__(declared)
        self._kind = kind

    def load(self, reader: Reader, at: int, depth: int) -> bytes | memoryview:
        start, end = reader.vector(at, 1, 1)
        return self._kind(reader.view[start:end])

    def store(self, writer: Writer, value: bytes | memoryview, depth: int) -> int:
        content = bytes(value)
        position = writer.vector(len(content), 1)
        writer.append(content)
        return position


class InlineVectorShape(ReferenceShape):
    """A tuple of values that are stored one after the other."""

    def __init__(self, declared: Vector, element: InlineShape) -> None:
        super().__init__(declared)
        self._element = element
        # Long columns of numbers are read and written in one call.
        self._code = element.slot.format[1:] if type(element) is ScalarShape else ""

    def load(self, reader: Reader, at: int, depth: int) -> tuple[Any, ...]:
        element = self._element
        start, end = reader.vector(at, element.size, element.align)
        if self._code:
            count = (end - start) // element.size
            return struct.unpack(f"<{count}{self._code}", reader.view[start:end])
        items = element.slot.iter_unpack(reader.view[start:end])
        return tuple(element.build(scalars, 0) for scalars in items)

    def store(self, writer: Writer, value: Sequence[Any], depth: int) -> int:
        position = writer.vector(len(value), self._element.align)
        if self._code:
            writer.append(struct.pack(f"<{len(value)}{self._code}", *value))
            return position
        pieces = []
        for item in value:
            scalars: list[Any] = []
            self._element.flatten(item, scalars)
            pieces.append(self._element.slot.pack(*scalars))
        writer.append(b"".join(pieces))
        return position


class ReferenceVectorShape(ReferenceShape):
    """A tuple of strings or tables."""

    def __init__(self, declared: Vector, element: ReferenceShape) -> None:
        super().__init__(declared)
        self._element = element

    def load(self, reader: Reader, at: int, depth: int) -> tuple[Any, ...]:
        start, end = reader.vector(at, self.size, self.align)
        read = self._element.read
        return tuple(read(reader, position, depth) for position in range(start, end, self.size))

    def store(self, writer: Writer, value: Sequence[Any], depth: int) -> int:
        position = writer.vector(len(value), self.align)
        number, start = writer.reserve(self.size * len(value), 1)
        offsets: list[int] = []
        for index, item in enumerate(value):
            self._element.put(item, offsets, writer, start + self.size * index, depth)
        writer.fill(number, struct.pack(f"<{len(offsets)}I", *offsets))
        return position


# --- tables ------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoundField:
    """A table's field and its shape. `absent` is its value when the buffer has none."""

    name: str
    shape: Shape
    required: bool
    absent: Any


class TableShape(ReferenceShape):
    """A NamedTuple of the table's fields. `fields` is set late, as a table may contain itself."""

    fields: tuple[BoundField, ...]

    def __init__(self, declared: Table, kind: type[tuple[Any, ...]]) -> None:
        super().__init__(declared)
        self.name = declared.name
        self._kind = kind
        self._layout = lay_out(declared, Lead.NESTED)
        self._slots = tuple((field.type.size, field.type.align) for field in declared.fields)

    def load(self, reader: Reader, at: int, depth: int) -> Any:
        if depth == MAX_DEPTH:
            raise WireError(f"more than {MAX_DEPTH} tables are nested")
        reader.spend(_LEAST_TABLE)
        values = []
        for field, position in zip(self.fields, reader.table(at, self._slots), strict=True):
            if position is not None:
                values.append(field.shape.read(reader, position, depth + 1))
            elif field.required:
                raise WireError(f"{self.name} lacks its required field {field.name}")
            else:
                values.append(field.absent)
        return tuple.__new__(self._kind, values)

    def load_block(self, reader: Reader, layout: TableLayout, slots: Sequence[Any]) -> Any:
        """The value of a root block whose constants are those of `layout`.

        `slots` are the scalars that `layout.head` unpacked after the constants.
        """
        reader.spend(_LEAST_TABLE)
        values: list[Any] = [None] * len(self.fields)
        at = 0
        for index in layout.order:
            shape = self.fields[index].shape
            values[index] = shape.pick(slots, at, reader, layout.positions[index], 1)
            at += shape.width
        return tuple.__new__(self._kind, values)

    def store(self, writer: Writer, value: Any, depth: int) -> int:
        layout = self._layout
        number, start = writer.reserve(layout.head.size, layout.align)
        scalars = self.store_fields(writer, value, layout, start, depth)
        writer.fill(number, layout.head.pack(*scalars))
        return start + layout.table

    def store_fields(
        self, writer: Writer, value: Any, layout: TableLayout, start: int, depth: int
    ) -> list[Any]:
        """Write what the fields refer to; returns the constants and slots of the block."""
        if depth == MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} tables are nested")
        if len(value) != len(self.fields):
            raise ValueError(f"{self.name} has {len(self.fields)} fields, not {len(value)}")
        scalars: list[Any] = [layout.constants]
        absent = []
        for index in layout.order:
            field, item = self.fields[index], value[index]
            if item is not None:
                at = start + layout.positions[index]
                field.shape.put(item, scalars, writer, at, depth + 1)
            elif field.required or field.absent is not None:
                raise ValueError(f"{self.name}.{field.name} must not be None")
            else:
                absent.append(index)
                scalars += [0] * field.shape.width
        if absent:
            scalars[0] = layout.constants_without(absent)
        return scalars
