"""What a FlatBuffers schema declares: scalars, enums, structs, tables and the schema itself.

Every type knows the slot that a field of it takes: its `size` and `align` in bytes, and its
`format`, which is `struct` codes without a byte order, padding included. The rules are those of
the FlatBuffers internals document (https://flatbuffers.dev/internals/): scalars are aligned to
their own size, a struct to its largest scalar, and everything else is a 32-bit offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from jetstreamproto.errors import SchemaError


@dataclass(frozen=True)
class Scalar:
    """A number or a bool; `python` is the Python type that its values have."""

    name: str
    format: str
    size: int
    python: type[bool] | type[int] | type[float]

    @property
    def align(self) -> int:
        return self.size

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Enum:
    """Named integers, stored as `scalar`."""

    name: str
    scalar: Scalar
    members: Mapping[str, int]

    @property
    def size(self) -> int:
        return self.scalar.size

    @property
    def align(self) -> int:
        return self.scalar.size

    @property
    def format(self) -> str:
        return self.scalar.format

    def __str__(self) -> str:
        return f"enum {self.name}"


@dataclass(frozen=True)
class StructField:
    """One field of a struct; `offset` counts bytes from the struct's start."""

    name: str
    type: Inline
    offset: int


@dataclass(frozen=True)
class Struct:
    """A fixed sequence of inline fields; make one with `struct_of`."""

    name: str
    fields: tuple[StructField, ...]
    size: int
    align: int
    format: str

    def __str__(self) -> str:
        return f"struct {self.name}"


Inline = Scalar | Enum | Struct


class Reference:
    """A type whose slot holds the distance to a value stored elsewhere."""

    size: ClassVar[int] = 4
    align: ClassVar[int] = 4
    format: ClassVar[str] = "I"


@dataclass(frozen=True)
class String(Reference):
    """UTF-8 text with a length before it and a NUL after it."""

    def __str__(self) -> str:
        return "string"


@dataclass(frozen=True)
class Vector(Reference):
    """A length and that many elements; references are stored as offsets."""

    element: Type

    def __str__(self) -> str:
        return f"[{self.element}]"


@dataclass(eq=False)
class Table(Reference):
    """Fields found through a vtable. Tables may contain one another, so `fields` is set late."""

    name: str
    fields: tuple[Field, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"table {self.name}"


Type = Scalar | Enum | Struct | String | Vector | Table


@dataclass(frozen=True)
class Field:
    """One field of a table; its place in `Table.fields` is its place in the vtable.

    `default` is what an absent scalar or enum is worth, None for every other type.
    """

    name: str
    type: Type
    default: bool | int | float | None = None
    required: bool = False


@dataclass(frozen=True)
class Schema:
    """One schema file. `source` is its name, for messages; `root` the table of `root_type`."""

    source: str
    namespace: str
    enums: Mapping[str, Enum]
    structs: Mapping[str, Struct]
    tables: Mapping[str, Table]
    root: Table | None

    def table(self, name: str) -> Table:
        """The table called `name`, without the namespace. Raises SchemaError if there is none."""
        if name not in self.tables:
            raise SchemaError(f"{self.source}: there is no table {name}")
        return self.tables[name]


_BOOL = Scalar("bool", "?", 1, bool)
_INTEGERS = (
    (("int8", "byte"), "b", 1),
    (("uint8", "ubyte"), "B", 1),
    (("int16", "short"), "h", 2),
    (("uint16", "ushort"), "H", 2),
    (("int32", "int"), "i", 4),
    (("uint32", "uint"), "I", 4),
    (("int64", "long"), "q", 8),
    (("uint64", "ulong"), "Q", 8),
)
_FLOATS = (
    (("float32", "float"), "f", 4),
    (("float64", "double"), "d", 8),
)

SCALARS: Mapping[str, Scalar] = {
    "bool": _BOOL,
    **{n: Scalar(names[0], code, size, int) for names, code, size in _INTEGERS for n in names},
    **{n: Scalar(names[0], code, size, float) for names, code, size in _FLOATS for n in names},
}
"""Every scalar by both of its spellings."""

UINT8 = SCALARS["uint8"]


def align_up(position: int, align: int) -> int:
    """The first multiple of `align` that is not below `position`."""
    return -(-position // align) * align


def struct_of(name: str, members: Sequence[tuple[str, Inline]]) -> Struct:
    """Lay out a struct: each field at the next multiple of its alignment, in declared order."""
    fields: list[StructField] = []
    codes = ""
    end = 0
    for field_name, declared in members:
        offset = align_up(end, declared.align)
        codes += "x" * (offset - end) + declared.format
        fields.append(StructField(field_name, declared, offset))
        end = offset + declared.size
    align = max(f.type.align for f in fields)
    size = align_up(end, align)
    return Struct(name, tuple(fields), size, align, codes + "x" * (size - end))
