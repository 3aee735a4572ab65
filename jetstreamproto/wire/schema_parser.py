"""Reads the part of the FlatBuffers schema language that this package supports.

That part is: `namespace` (one), `enum` with an explicit integer type, `struct`, `table` with
scalars, enums, structs, strings, tables and vectors of all of these, scalar defaults,
`(required)`, `root_type`, and comments. Everything else, for instance `include`, `union` or
an attribute, raises SchemaError with the line and the construct.

The language is described at https://flatbuffers.dev/grammar/.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NoReturn

from jetstreamproto.errors import SchemaError
from jetstreamproto.wire.schema_types import (
    SCALARS,
    Enum,
    Field,
    Inline,
    Reference,
    Scalar,
    Schema,
    String,
    Struct,
    Table,
    Type,
    Vector,
    struct_of,
)

_TOKEN = re.compile(
    r"""
      (?P<skip>   \s+ | //[^\n]* | /\*.*?\*/ )
    | (?P<number> [-+]?0[xX][0-9a-fA-F]+
                | [-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?
                | [-+](?:infinity|inf|nan)\b )
    | (?P<name>   [A-Za-z_]\w* )
    | (?P<string> "(?:[^"\\\n]|\\.)*" )
    | (?P<mark>   [{}()\[\]:;,=.] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


@dataclass(frozen=True)
class _Token:
    kind: str  # "number", "name", "string", "mark", or "end" after the last
    text: str
    line: int

    def __str__(self) -> str:
        return "the end of the file" if self.kind == "end" else repr(self.text)


@dataclass(frozen=True)
class _TypeName:
    name: str
    is_vector: bool
    line: int


@dataclass(frozen=True)
class _Declared:
    """A table's field before the types that it names are all known."""

    name: str
    type: _TypeName
    default: _Token | None
    required: bool
    line: int


@cache
def load_schema(name: str) -> Schema:
    """The schema in the package's file `name`, such as "packet.fbs"; parsed once a process."""
    directory = resources.files("jetstreamproto.wire") / "schema"
    return parse_schema((directory / name).read_text("utf-8"), name)


def parse_schema(text: str, source: str = "schema") -> Schema:
    """Parse a schema's text. `source` names it in messages.

    Raises SchemaError, whose message starts with source and line, for what is not supported.
    """
    return _Parser(text, source).parse()


class _Parser:
    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = self._tokenize(text)
        self._token = next(self._tokens)
        self._namespace = ""
        self._enums: dict[str, Enum] = {}
        self._structs: dict[str, Struct] = {}
        self._tables: dict[str, Table] = {}
        self._fields: dict[str, list[_Declared]] = {}
        self._root: _TypeName | None = None

    def parse(self) -> Schema:
        statements: dict[str, Callable[[], None]] = {
            "namespace": self._parse_namespace,
            "enum": self._parse_enum,
            "struct": self._parse_struct,
            "table": self._parse_table,
            "root_type": self._parse_root,
        }
        while self._token.kind != "end":
            word = self._take()
            if word.text not in statements:
                self._fail(f"{word} is not supported here", word.line)
            statements[word.text]()
        # Tables may name types that are declared further down, so their fields come last.
        for name, declared in self._fields.items():
            self._tables[name].fields = tuple(self._resolve_field(one) for one in declared)
        root = None if self._root is None else self._resolve_root(self._root)
        return Schema(self._source, self._namespace, self._enums, self._structs, self._tables, root)

    # --- tokens --------------------------------------------------------------------------

    def _tokenize(self, text: str) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self._fail(f"{text[at]!r} is not supported", line)
            kind = match.lastgroup or ""
            if kind != "skip":
                yield _Token(kind, match[0], line)
            line += match[0].count("\n")
            at = match.end()
        yield _Token("end", "", line)

    def _take(self) -> _Token:
        taken = self._token
        if taken.kind != "end":
            self._token = next(self._tokens)
        return taken

    def _take_if(self, mark: str) -> bool:
        found = self._token.kind == "mark" and self._token.text == mark
        if found:
            self._take()
        return found

    def _expect(self, mark: str) -> None:
        if not self._take_if(mark):
            self._fail(f"expected {mark!r} before {self._token}", self._token.line)

    def _take_name(self, what: str) -> str:
        token = self._take()
        if token.kind != "name":
            self._fail(f"expected {what} instead of {token}", token.line)
        return token.text

    def _take_constant(self) -> _Token:
        token = self._take()
        if token.kind not in ("number", "name", "string"):
            self._fail(f"{token} is not a constant", token.line)
        return token

    def _take_path(self, what: str) -> str:
        path = self._take_name(what)
        while self._take_if("."):
            path += "." + self._take_name(what)
        return path

    def _fail(self, problem: str, line: int) -> NoReturn:
        raise SchemaError(f"{self._source}:{line}: {problem}")

    # --- statements ----------------------------------------------------------------------

    def _parse_namespace(self) -> None:
        line = self._token.line
        if self._namespace:
            self._fail("a second namespace is not supported", line)
        self._namespace = self._take_path("a namespace")
        self._expect(";")

    def _parse_root(self) -> None:
        line = self._token.line
        if self._root is not None:
            self._fail("a second root_type is not supported", line)
        self._root = _TypeName(self._take_path("a table's name"), False, line)
        self._expect(";")

    def _parse_enum(self) -> None:
        line = self._token.line
        name = self._take_new_type_name()
        self._expect(":")
        scalar = SCALARS.get(self._take_name("an integer type"))
        if scalar is None or scalar.python is not int:
            self._fail(f"enum {name} needs an integer type", line)
        self._refuse_attributes()
        self._expect("{")
        members: dict[str, int] = {}
        while not self._take_if("}"):
            self._parse_enum_member(name, scalar, members)
            if not self._take_if(","):
                self._expect("}")
                break
        if not members:
            self._fail(f"enum {name} without values is not supported", line)
        self._enums[name] = Enum(name, scalar, members)

    def _parse_enum_member(self, enum: str, scalar: Scalar, members: dict[str, int]) -> None:
        line = self._token.line
        name = self._take_name("an enum value's name")
        if self._take_if("="):
            value = self._to_integer(self._take_constant(), scalar)
        else:
            value = list(members.values())[-1] + 1 if members else 0
            self._check_range(value, scalar, line)
        if name in members or value in members.values():
            self._fail(f"{name} = {value} repeats a name or value of enum {enum}", line)
        members[name] = value

    def _parse_struct(self) -> None:
        line = self._token.line
        name = self._take_new_type_name()
        members: list[tuple[str, Inline]] = []
        for declared in self._parse_fields(name):
            if declared.default is not None or declared.required:
                self._fail("a struct's field cannot have a default or attribute", declared.line)
            resolved = self._resolve_type(declared.type)
            if isinstance(resolved, Reference):
                self._fail(f"a {resolved} inside a struct is not supported", declared.line)
            if isinstance(resolved, Enum) and 0 not in resolved.members.values():
                self._fail(f"{resolved} needs a zero to be inside a struct", declared.line)
            members.append((declared.name, resolved))
        if not members:
            self._fail(f"struct {name} without fields is not supported", line)
        self._structs[name] = struct_of(name, members)

    def _parse_table(self) -> None:
        name = self._take_new_type_name()
        self._fields[name] = list(self._parse_fields(name))
        self._tables[name] = Table(name)

    def _take_new_type_name(self) -> str:
        line = self._token.line
        name = self._take_name("a type's name")
        if name in self._enums or name in self._structs or name in self._tables:
            self._fail(f"{name} is declared twice", line)
        if name in SCALARS or name == "string":
            self._fail(f"{name} is the name of a built-in type", line)
        return name

    # --- fields --------------------------------------------------------------------------

    def _parse_fields(self, owner: str) -> Iterator[_Declared]:
        self._refuse_attributes()
        self._expect("{")
        seen: set[str] = set()
        while not self._take_if("}"):
            field = self._parse_field()
            if field.name in seen:
                self._fail(f"{owner} has two fields named {field.name}", field.line)
            seen.add(field.name)
            yield field

    def _parse_field(self) -> _Declared:
        line = self._token.line
        name = self._take_name("a field's name")
        self._expect(":")
        type_name = self._parse_type()
        default = self._take_constant() if self._take_if("=") else None
        required = self._parse_required()
        self._expect(";")
        return _Declared(name, type_name, default, required, line)

    def _parse_type(self) -> _TypeName:
        line = self._token.line
        if not self._take_if("["):
            return _TypeName(self._take_path("a type"), False, line)
        if self._take_if("["):
            self._fail("a vector of vectors is not supported", line)
        element = self._take_path("a type")
        if self._take_if(":"):
            self._fail("an array of fixed length is not supported", line)
        self._expect("]")
        return _TypeName(element, True, line)

    def _parse_required(self) -> bool:
        if not self._take_if("("):
            return False
        line = self._token.line
        attribute = self._take_name("an attribute")
        if attribute != "required":
            self._fail(f"the attribute {attribute!r} is not supported", line)
        self._expect(")")
        return True

    def _refuse_attributes(self) -> None:
        line = self._token.line
        if self._take_if("("):
            self._fail(f"the attribute {self._token} is not supported", line)

    # --- names to types ------------------------------------------------------------------

    def _resolve_type(self, named: _TypeName) -> Type:
        name = named.name.removeprefix(self._namespace + ".")
        found = (
            SCALARS.get(name)
            or self._enums.get(name)
            or self._structs.get(name)
            or self._tables.get(name)
            or (String() if name == "string" else None)
        )
        if found is None:
            self._fail(f"the type {named.name} is not declared", named.line)
        return Vector(found) if named.is_vector else found

    def _resolve_root(self, named: _TypeName) -> Table:
        found = self._resolve_type(named)
        if not isinstance(found, Table):
            self._fail(f"the root type {named.name} is not a table", named.line)
        return found

    def _resolve_field(self, declared: _Declared) -> Field:
        resolved = self._resolve_type(declared.type)
        if isinstance(resolved, Scalar | Enum):
            if declared.required:
                self._fail("a scalar always has a value and cannot be required", declared.line)
            default = self._resolve_default(resolved, declared)
            return Field(declared.name, resolved, default)
        if declared.default is not None:
            self._fail(f"a default for a {resolved} is not supported", declared.line)
        return Field(declared.name, resolved, required=declared.required)

    def _resolve_default(self, declared: Scalar | Enum, at: _Declared) -> bool | int | float:
        token = at.default
        if token is not None and token.text == "null":
            self._fail("an optional scalar (= null) is not supported", token.line)
        if isinstance(declared, Scalar):
            return declared.python() if token is None else self._to_scalar(token, declared)
        if token is not None and token.text in declared.members:
            return declared.members[token.text]
        value = 0 if token is None else self._to_integer(token, declared.scalar)
        if value not in declared.members.values():
            self._fail(f"the default {value} is no value of {declared}", at.line)
        return value

    # --- constants -----------------------------------------------------------------------

    def _to_scalar(self, token: _Token, scalar: Scalar) -> bool | int | float:
        if scalar.python is float:
            return self._to_float(token, scalar)
        if scalar.python is int:
            return self._to_integer(token, scalar)
        if token.text not in ("true", "false", "0", "1"):
            self._fail(f"{token} is not a constant of type {scalar}", token.line)
        return token.text in ("true", "1")

    def _to_integer(self, token: _Token, scalar: Scalar) -> int:
        try:
            value = int(token.text, 16 if "x" in token.text.lower() else 10)
        except ValueError:
            self._fail(f"{token} is not a constant of type {scalar}", token.line)
        self._check_range(value, scalar, token.line)
        return value

    def _to_float(self, token: _Token, scalar: Scalar) -> float:
        try:
            value = int(token.text, 16) if "x" in token.text.lower() else float(token.text)
            # What a buffer would carry: a float32 is not the double it was written as.
            carried = struct.pack("<" + scalar.format, value)
            return float(struct.unpack("<" + scalar.format, carried)[0])
        except (ValueError, OverflowError):
            self._fail(f"{token} is not a constant of type {scalar}", token.line)

    def _check_range(self, value: int, scalar: Scalar, line: int) -> None:
        try:
            struct.pack("<" + scalar.format, value)
        except struct.error:
            self._fail(f"{value} does not fit into {scalar}", line)
