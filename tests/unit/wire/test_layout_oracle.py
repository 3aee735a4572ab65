"""Our codec against the `flatbuffers` package, on a schema that uses everything we support.

`build` writes any table of a schema with `flatbuffers.Builder` in one of its many layouts,
`read` reads one with `flatbuffers.table.Table`. Neither knows the canonical layout.
"""

from __future__ import annotations

import random
import typing
import unittest
from enum import IntEnum
from typing import Any, NamedTuple

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table as Accessor
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.schema_parser import parse_schema
from jetstreamproto.wire.schema_types import (
    SCALARS,
    UINT8,
    Enum,
    Inline,
    Reference,
    Scalar,
    String,
    Struct,
    Table,
    Type,
    Vector,
    struct_of,
)

RICH_SCHEMA = """
// Everything that a schema may say.
namespace test.rich;

enum Color : ubyte { RED = 1, GREEN, BLUE = 0x20, }
enum Level : int16 { LOW = -300, MID = 0, HIGH = 300 }

struct Point { x:float32; y:double; tag:byte; }
struct Box {
  low:Point;
  high:test.rich.Point;
  level:Level;
  wide:ushort;
}

table Rich {
  flag:bool = true;
  tiny:byte = -1;
  small:int16;
  medium:int = 0x7fffffff;
  large:long = -9223372036854775808;
  utiny:uint8 = 255;
  usmall:ushort;
  umedium:uint32 = 7;
  ularge:ulong = 18446744073709551615;
  ratio:float = 0.1;
  exact:float64 = -2.5e-3;
  color:Color = GREEN;
  level:Level;
  number:Color = 32;
  box:Box;
  origin:Point (required);
  title:string (required);
  note:string;
  remark:string;
  data:[ubyte];
  view:[uint8];
  maybe:[uint8];
  flags:[bool];
  shorts:[int16];
  longs:[ulong];
  doubles:[double];
  colors:[Color];
  points:[Point];
  names:[string];
  leaf:Leaf;
  node:Node (required);
  leaves:[Leaf];
}

/* Declared after their use,
   and containing itself. */
table Leaf { name:string; weight:int64 = -5; }
table Node { id:uint; leaf:test.rich.Leaf; children:[Node]; }

root_type Rich;
"""


class Color(IntEnum):
    RED = 1
    GREEN = 2
    BLUE = 32


class Level(IntEnum):
    LOW = -300
    MID = 0
    HIGH = 300


class Point(NamedTuple):
    x: float
    y: float
    tag: int


class Box(NamedTuple):
    low: Point
    high: Point
    level: Level
    wide: int


class Leaf(NamedTuple):
    name: str | None = None
    weight: int = -5


class Node(NamedTuple):
    id: int = 0
    leaf: Leaf | None = None
    children: tuple[Node, ...] = ()


class Rich(NamedTuple):
    flag: bool
    tiny: int
    small: int
    medium: int
    large: int
    utiny: int
    usmall: int
    umedium: int
    ularge: int
    ratio: float
    exact: float
    color: Color
    level: Level
    number: int
    box: Box | None
    origin: Point
    title: str
    note: str | None
    remark: str
    data: bytes
    view: memoryview
    maybe: bytes | None
    flags: tuple[bool, ...]
    shorts: tuple[int, ...]
    longs: tuple[int, ...] | None
    doubles: tuple[float, ...]
    colors: tuple[Color, ...]
    points: tuple[Point, ...]
    names: tuple[str, ...]
    leaf: Leaf | None
    node: Node
    leaves: tuple[Leaf, ...]


SCHEMA = parse_schema(RICH_SCHEMA, "rich.fbs")
RICH = Codec(SCHEMA, "Rich", Rich)
SIZED_RICH = Codec(SCHEMA, "Rich", Rich, size_prefixed=True)


def plain(value: Any) -> Any:
    """`value` in a form that tells apart all that matters, and in which NaN equals NaN."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bool | float):
        return repr(value)
    return int(value) if isinstance(value, int) else value


# --- values ------------------------------------------------------------------------------


def whole(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    lowest = -(1 << (bits - 1)) if signed else 0
    return st.integers(lowest, lowest + (1 << bits) - 1)


texts = st.text(max_size=12)
blobs = st.binary(max_size=20)
singles = st.floats(width=32)
points = st.builds(Point, singles, st.floats(), whole(8, signed=True))
boxes = st.builds(Box, points, points, st.sampled_from(Level), whole(16, signed=False))
leaves = st.builds(Leaf, st.none() | texts, whole(64, signed=True))


def tuples(items: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=most).map(tuple)


ids = whole(32, signed=False)
twigs = st.builds(Node, ids, st.none() | leaves, st.just(()))
branches = st.builds(Node, ids, st.none(), tuples(twigs, 2))
nodes = st.builds(Node, ids, st.none() | leaves, tuples(branches, 2))
riches = st.builds(
    Rich,
    flag=st.booleans(),
    tiny=whole(8, signed=True),
    small=whole(16, signed=True),
    medium=whole(32, signed=True),
    large=whole(64, signed=True),
    utiny=whole(8, signed=False),
    usmall=whole(16, signed=False),
    umedium=whole(32, signed=False),
    ularge=whole(64, signed=False),
    ratio=singles,
    exact=st.floats(),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    number=whole(8, signed=False),
    box=st.none() | boxes,
    origin=points,
    title=texts,
    note=st.none() | texts,
    remark=texts,
    data=blobs,
    view=blobs.map(memoryview),
    maybe=st.none() | blobs,
    flags=tuples(st.booleans()),
    shorts=tuples(whole(16, signed=True)),
    longs=st.none() | tuples(whole(64, signed=False)),
    doubles=tuples(st.floats()),
    colors=tuples(st.sampled_from(Color)),
    points=tuples(points),
    names=tuples(texts),
    leaf=st.none() | leaves,
    node=nodes,
    leaves=tuples(leaves),
)

POOR = Rich(
    flag=True,
    tiny=-1,
    small=0,
    medium=0x7FFFFFFF,
    large=-(1 << 63),
    utiny=255,
    usmall=0,
    umedium=7,
    ularge=(1 << 64) - 1,
    ratio=0.10000000149011612,
    exact=-0.0025,
    color=Color.GREEN,
    level=Level.MID,
    number=32,
    box=None,
    origin=Point(0.0, 0.0, 0),
    title="",
    note=None,
    remark="",
    data=b"",
    view=memoryview(b""),
    maybe=None,
    flags=(),
    shorts=(),
    longs=None,
    doubles=(),
    colors=(),
    points=(),
    names=(),
    leaf=None,
    node=Node(),
    leaves=(),
)
"""Every field as it is when the buffer lacks it, and the required ones as small as can be."""


# --- the other implementation's writer ---------------------------------------------------

FLAGS = {
    name: getattr(number_types, f"{name.capitalize()}Flags")
    for name in sorted({scalar.name for scalar in SCALARS.values()})
}


def flags_of(declared: Scalar | Enum) -> Any:
    return FLAGS[declared.scalar.name if isinstance(declared, Enum) else declared.name]


def build(
    table: Table,
    value: tuple[Any, ...],
    dice: random.Random,
    *,
    sized: bool = False,
    keep: float = 0.3,
    share: bool = True,
) -> bytes:
    """`value` in one of the layouts that the other implementation can write.

    `keep` is the probability that a field is written though it has its default value; with
    `share`, equal strings may be written once.
    """
    builder = flatbuffers.Builder(0)
    root = Building(builder, dice, keep, share).table(table, value)
    if sized:
        builder.FinishSizePrefixed(root)
    else:
        builder.Finish(root)
    return bytes(builder.Output())


class Building:
    def __init__(self, builder: Any, dice: random.Random, keep: float, share: bool) -> None:
        self.builder = builder
        self.dice = dice
        self.keep = keep
        self.string_writers = [builder.CreateString]
        if share:
            self.string_writers.append(builder.CreateSharedString)

    def table(self, table: Table, value: Any) -> int:
        fields = [i for i in range(len(table.fields)) if not self.is_left_out(table, value, i)]
        self.dice.shuffle(fields)
        stored = {
            i: self.reference(table.fields[i].type, value[i])
            for i in fields
            if isinstance(table.fields[i].type, Reference)
        }
        unknown = self.dice.choice([0, 0, 2])
        self.builder.StartObject(len(table.fields) + unknown)
        if unknown:
            self.builder.PrependUint64(self.dice.getrandbits(64))
            self.builder.Slot(len(table.fields) + 1)
        self.dice.shuffle(fields)
        for i in fields:
            if i in stored:
                self.builder.PrependUOffsetTRelative(stored[i])
            else:
                self.inline(table.fields[i].type, value[i])
            self.builder.Slot(i)
        return int(self.builder.EndObject())

    def is_left_out(self, table: Table, value: Any, index: int) -> bool:
        field, item = table.fields[index], value[index]
        if item is None:
            return True
        if field.required or self.dice.random() < self.keep:
            return False
        hint = typing.get_type_hints(type(value))[field.name]
        if type(None) in typing.get_args(hint):
            return False
        if isinstance(field.type, Scalar | Enum):
            return bool(plain(item) == plain(field.default))
        return not len(item)

    def inline(self, declared: Any, value: Any) -> None:
        if not isinstance(declared, Struct):
            self.builder.Prepend(flags_of(declared), value)
            return
        self.builder.Prep(declared.align, declared.size)
        end = declared.size
        for member, item in reversed(list(zip(declared.fields, value, strict=True))):
            self.builder.Pad(end - member.offset - member.type.size)
            self.inline(member.type, item)
            end = member.offset

    def reference(self, declared: Type, value: Any) -> int:
        if isinstance(declared, String):
            return int(self.dice.choice(self.string_writers)(value))
        if isinstance(declared, Table):
            return self.table(declared, value)
        assert isinstance(declared, Vector)
        if declared.element == UINT8 and self.dice.random() < 0.5:
            return int(self.builder.CreateByteVector(bytes(value)))
        return self.vector(declared.element, value)

    def vector(self, element: Type, items: Any) -> int:
        if isinstance(element, Reference):
            stored = [self.reference(element, item) for item in items]
            self.builder.StartVector(4, len(stored), 4)
            for offset in reversed(stored):
                self.builder.PrependUOffsetTRelative(offset)
        else:
            self.builder.StartVector(element.size, len(items), element.align)
            for item in reversed(items):
                self.inline(element, item)
        return int(self.builder.EndVector())


# --- the other implementation's reader ---------------------------------------------------


def read(table: Table, data: bytes) -> list[Any]:
    """The fields of the root table in `data`; absent ones are None or, scalars, the default."""
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
    return read_table(table, Accessor(data, root))


def read_table(table: Table, accessor: Any) -> list[Any]:
    values: list[Any] = []
    for index, field in enumerate(table.fields):
        offset = accessor.Offset(4 + 2 * index)
        if not offset:
            values.append(field.default)
        elif isinstance(field.type, Vector):
            values.append(read_vector(field.type.element, accessor, offset))
        else:
            values.append(read_value(field.type, accessor, accessor.Pos + offset))
    return values


def read_vector(element: Type, accessor: Any, offset: int) -> list[Any]:
    start = accessor.Vector(offset)
    positions = [start + element.size * i for i in range(accessor.VectorLen(offset))]
    return [read_value(element, accessor, position) for position in positions]


def read_value(declared: Type, accessor: Any, at: int) -> Any:
    if isinstance(declared, Table):
        return read_table(declared, Accessor(accessor.Bytes, accessor.Indirect(at)))
    if isinstance(declared, String):
        return accessor.String(at).decode()
    if isinstance(declared, Struct):
        return [read_value(f.type, accessor, at + f.offset) for f in declared.fields]
    assert isinstance(declared, Scalar | Enum)
    return accessor.Get(flags_of(declared), at)


class OtherImplementationTests(unittest.TestCase):
    @settings(deadline=None)
    @given(riches, st.randoms(use_true_random=False))
    def test_we_read_what_it_writes(self, value: Rich, dice: random.Random) -> None:
        data = build(SCHEMA.table("Rich"), value, dice)
        self.assertEqual(plain(RICH.decode(data)), plain(value))

    @settings(deadline=None)
    @given(riches, st.randoms(use_true_random=False))
    def test_we_read_its_size_prefixed_buffers(self, value: Rich, dice: random.Random) -> None:
        data = build(SCHEMA.table("Rich"), value, dice, sized=True)
        self.assertEqual(plain(SIZED_RICH.decode(data)), plain(value))

    @settings(deadline=None)
    @given(riches)
    def test_it_reads_what_we_write(self, value: Rich) -> None:
        found = read(SCHEMA.table("Rich"), RICH.encode(value))
        expected = [list(v) if isinstance(v, bytes) else v for v in plain(value)]
        self.assertEqual(plain(found), expected)

    def test_defaults_are_the_same(self) -> None:
        data = build(SCHEMA.table("Rich"), POOR, random.Random(1), keep=0)
        self.assertLess(len(data), len(RICH.encode(POOR)) / 2)
        self.assertEqual(plain(RICH.decode(data)), plain(POOR))


class StructTests(unittest.TestCase):
    """Offsets and sizes that the generated C++ of the reference implementation has."""

    def test_fields_are_aligned_and_the_end_is_padded(self) -> None:
        point, box = SCHEMA.structs["Point"], SCHEMA.structs["Box"]
        self.assertEqual([f.offset for f in point.fields], [0, 8, 16])
        self.assertEqual((point.size, point.align), (24, 8))
        self.assertEqual([f.offset for f in box.fields], [0, 24, 48, 50])
        self.assertEqual((box.size, box.align), (56, 8))

    def test_a_struct_of_bytes_needs_no_padding(self) -> None:
        members: list[tuple[str, Inline]] = [("a", UINT8), ("b", UINT8), ("c", UINT8)]
        three = struct_of("Three", members)
        self.assertEqual((three.size, three.align, three.format), (3, 1, "BBB"))
