"""Matches the types of a schema with the annotations of Python classes.

| schema                | annotation                                                      |
| --------------------- | --------------------------------------------------------------- |
| bool, integer, float  | `bool`, `int`, `float`                                          |
| enum                  | an `IntEnum` with the same members, or `int` to take any number |
| struct, table         | a `NamedTuple` with the same fields in the same order           |
| string                | `str`                                                           |
| [uint8]               | `bytes`, or `memoryview` to share the buffer's memory           |
| any other vector      | `tuple[X, ...]`, X being the annotation of an element           |

`X | None` makes an absent field None. It is refused for what cannot be absent: scalars, which
have a default, and required fields. Without it an absent string is "", an absent vector is
empty, and structs and tables must be required.
"""

from __future__ import annotations

import types
import typing
from enum import IntEnum
from typing import Any

from jetstreamproto.errors import SchemaError
from jetstreamproto.wire.schema_types import (
    UINT8,
    Enum,
    Field,
    Inline,
    Reference,
    Scalar,
    String,
    Struct,
    Table,
    Type,
    Vector,
)
from jetstreamproto.wire.shapes import (
    BoundField,
    BytesShape,
    EnumShape,
    InlineShape,
    InlineVectorShape,
    ReferenceShape,
    ReferenceVectorShape,
    ScalarShape,
    Shape,
    StringShape,
    StructShape,
    TableShape,
)


def bind(table: Table, kind: type[tuple[Any, ...]]) -> TableShape:
    """The shape of `table` as `kind`, a NamedTuple. Raises SchemaError if they do not match."""
    return _Binder().bind_table(table, kind)


class _Binder:
    def __init__(self) -> None:
        self._tables: dict[tuple[Table, type], TableShape] = {}

    def bind_table(self, table: Table, kind: type[tuple[Any, ...]]) -> TableShape:
        known = self._tables.get((table, kind))
        if known is not None:
            return known
        hints = _field_hints(table, [field.name for field in table.fields], kind)
        # Registered before its fields are bound: one of them may be this table again.
        shape = self._tables[table, kind] = TableShape(table, kind)
        shape.fields = tuple(
            self._bind_field(field, hints[field.name], f"{kind.__name__}.{field.name}")
            for field in table.fields
        )
        return shape

    def _bind_field(self, field: Field, hint: Any, where: str) -> BoundField:
        optional, hint = _split_optional(hint)
        if optional and (field.required or isinstance(field.type, Scalar | Enum)):
            raise SchemaError(f"{where}: {field.type} is never absent, so it cannot be None")
        if not (optional or field.required) and isinstance(field.type, Struct | Table):
            raise SchemaError(f"{where}: {field.type} may be absent, so None must be allowed")
        shape = self._bind_type(field.type, hint, where)
        absent = None if optional or field.required else _absent(field, shape, hint)
        return BoundField(field.name, shape, field.required, absent)

    def _bind_type(self, declared: Type, hint: Any, where: str) -> Shape:
        if isinstance(declared, Reference):
            return self._bind_reference(declared, hint, where)
        return self._bind_inline(declared, hint, where)

    def _bind_inline(self, declared: Inline, hint: Any, where: str) -> InlineShape:
        if isinstance(declared, Struct):
            hints = _field_hints(declared, [field.name for field in declared.fields], hint)
            members = [
                self._bind_inline(f.type, hints[f.name], f"{hint.__name__}.{f.name}")
                for f in declared.fields
            ]
            return StructShape(declared, hint, members)
        if hint is (int if isinstance(declared, Enum) else declared.python):
            return ScalarShape(declared)
        if isinstance(declared, Enum) and _is_class(hint, IntEnum):
            if {name: int(member) for name, member in hint.__members__.items()} != dict(
                declared.members
            ):
                raise SchemaError(f"{where}: {hint.__name__} differs from {declared}")
            return EnumShape(declared, hint)
        raise _mismatch(declared, hint, where)

    def _bind_reference(self, declared: Reference, hint: Any, where: str) -> ReferenceShape:
        if isinstance(declared, Table):
            return self.bind_table(declared, hint)
        if isinstance(declared, String) and hint is str:
            return StringShape()
        if isinstance(declared, Vector):
            if declared.element == UINT8 and hint in (bytes, memoryview):
                return BytesShape(declared, hint)
            arguments = typing.get_args(hint)
            if typing.get_origin(hint) is tuple and arguments[1:] == (...,):
                return self._bind_vector(declared, arguments[0], where)
        raise _mismatch(declared, hint, where)

    def _bind_vector(self, declared: Vector, hint: Any, where: str) -> ReferenceShape:
        element = declared.element
        if isinstance(element, Reference):
            return ReferenceVectorShape(declared, self._bind_reference(element, hint, where))
        return InlineVectorShape(declared, self._bind_inline(element, hint, where))


def _absent(field: Field, shape: Shape, hint: Any) -> Any:
    if isinstance(shape, InlineShape):
        return shape.build([field.default], 0)
    return memoryview(b"") if hint is memoryview else (typing.get_origin(hint) or hint)()


def _mismatch(declared: object, hint: Any, where: str) -> SchemaError:
    return SchemaError(f"{where}: {declared} cannot be annotated as {hint!r}")


def _is_class(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, base)


def _split_optional(hint: Any) -> tuple[bool, Any]:
    """Whether `hint` is `X | None`, and that X."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(arguments) == 2:
        rest = [argument for argument in arguments if argument is not types.NoneType]
        if len(rest) == 1:
            return True, rest[0]
    return False, hint


def _field_hints(declared: Struct | Table, names: list[str], kind: Any) -> dict[str, Any]:
    """The annotations of `kind`, which must be a NamedTuple with the fields `names`."""
    if not (_is_class(kind, tuple) and hasattr(kind, "_fields")):
        raise SchemaError(f"{declared} needs a NamedTuple, not {kind!r}")
    if list(kind._fields) != names:
        raise SchemaError(
            f"{kind.__name__} has the fields {', '.join(kind._fields)}, "
            f"but {declared} has {', '.join(names)}"
        )
    try:
        return typing.get_type_hints(kind)
    except NameError as problem:
        raise SchemaError(f"{kind.__name__}: {problem}") from None
