"""Canonical layouts, and codecs that use them."""

from __future__ import annotations

import struct
import unittest
from enum import IntEnum
from typing import Any, NamedTuple

from hypothesis import given, settings

from jetstreamproto.errors import SchemaError, WireError
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import Lead, lay_out, lay_out_tail
from jetstreamproto.wire.reader import MAX_DEPTH
from jetstreamproto.wire.schema_parser import load_schema, parse_schema
from tests.unit.wire.test_layout_oracle import (
    POOR,
    RICH,
    SCHEMA,
    SIZED_RICH,
    Color,
    Node,
    Rich,
    plain,
    riches,
)

NODE = Codec(SCHEMA, "Node", Node)


def nested(depth: int) -> Node:
    node = Node()
    for _ in range(depth - 1):
        node = Node(children=(node,))
    return node


class LayoutTests(unittest.TestCase):
    def test_references_come_first_then_inline_fields_by_alignment(self) -> None:
        table = parse_schema("table T { a:byte; b:string; c:long; d:short; e:[int]; }").table("T")
        layout = lay_out(table, Lead.NESTED)
        # 0 vtable, 14 padding, 16 table, 20 b, 24 e, 28 padding, 32 c, 40 d, 42 a
        self.assertEqual(layout.table, 16)
        self.assertEqual(layout.positions, (42, 20, 32, 40, 24))
        self.assertEqual(layout.order, (1, 4, 2, 3, 0))
        self.assertEqual(layout.head.format, "<20sII" + "xxxx" + "qhb")
        vtable = struct.pack("<7H", 14, 27, 26, 4, 16, 24, 8)
        self.assertEqual(layout.constants, vtable + b"\0\0" + struct.pack("<i", 16))
        self.assertEqual(layout.align, 8)

    def test_alignment_counts_from_the_start_of_the_buffer(self) -> None:
        table = parse_schema("table T { a:long; }").table("T")
        self.assertEqual(lay_out(table, Lead.ROOT).positions, (16,))
        self.assertEqual(lay_out(table, Lead.SIZED_ROOT).positions, (24,))

    def test_a_table_without_fields(self) -> None:
        layout = lay_out(parse_schema("table T {}").table("T"), Lead.ROOT)
        self.assertEqual(layout.constants, struct.pack("<IHHi", 8, 4, 4, 4))

    def test_fields_that_are_absent_have_no_place_in_the_vtable(self) -> None:
        table = parse_schema("table T { a:string; b:string; c:string; }").table("T")
        constants = lay_out(table, Lead.ROOT).constants_without([0, 2])
        self.assertEqual(constants, struct.pack("<IHHHHHxxi", 16, 10, 16, 0, 8, 0, 12))

    def test_a_table_that_is_too_large(self) -> None:
        many = "".join(f"a{n}:ulong;" for n in range(8192))
        with self.assertRaisesRegex(SchemaError, "too large"):
            lay_out(parse_schema(f"table T {{ {many} }}").table("T"), Lead.ROOT)


class TailLayoutTests(unittest.TestCase):
    def test_a_packet(self) -> None:
        table = load_schema("packet.fbs").table("Packet")
        tail = lay_out_tail(table, size_prefixed=True)
        self.assertEqual(tail.head.format, "<I20sQIBBHI")
        self.assertEqual(tail.constants, struct.pack("<IHHHHiI", 12, 8, 24, 8, 4, 8, 20))
        scalars = ["seq", "channel", "kind", "flags", "code"]
        self.assertEqual(tail.names, tuple(f"header.{name}" for name in scalars))
        self.assertEqual(tail.size_base, 40)

    def test_padding_before_the_first_and_after_the_last_inline_field(self) -> None:
        table = parse_schema("table T { a:byte; b:[ubyte]; c:long; }").table("T")
        tail = lay_out_tail(table, size_prefixed=False)
        # 4 vtable, 14 padding, 16 table, 20 b, 24 c, 32 a, 33 padding, 36 length of b
        self.assertEqual(tail.head.format, "<24sqbxxxI")
        self.assertEqual(tail.names, ("c", "a"))
        table = parse_schema("table T { b:[ubyte]; c:long; }").table("T")
        # 4 vtable, 12 table, 16 b, 20 padding, 24 c, 32 length of b
        self.assertEqual(lay_out_tail(table, size_prefixed=False).head.format, "<20sxxxxqI")

    def test_it_is_what_the_codec_reads_and_writes(self) -> None:
        class T(NamedTuple):
            a: int
            b: bytes
            c: int

        schema = parse_schema("table T { a:byte; b:[ubyte]; c:long; }")
        for sized in (False, True):
            codec = Codec(schema, "T", T, size_prefixed=sized)
            tail = lay_out_tail(schema.table("T"), size_prefixed=sized)
            size = [tail.size_base + 3] if sized else []
            data = tail.head.pack(*size, tail.constants, -9, 5, 3) + b"xyz"
            self.assertEqual(codec.decode(data), T(5, b"xyz", -9))
            self.assertEqual(codec.encode(T(5, b"xyz", -9)), data)

    def test_other_shapes_are_refused(self) -> None:
        for fields in ["a:int;", "a:string;", "a:[byte];", "a:[ubyte]; b:[ubyte];"]:
            with self.subTest(fields), self.assertRaisesRegex(SchemaError, r"one \[uint8\]"):
                lay_out_tail(parse_schema(f"table T {{ {fields} }}").table("T"), size_prefixed=True)


class RoundTripTests(unittest.TestCase):
    @settings(deadline=None)
    @given(riches)
    def test_any_value_comes_back(self, value: Rich) -> None:
        for codec in (RICH, SIZED_RICH):
            self.assertEqual(plain(codec.decode(codec.encode(value))), plain(value))

    def test_the_types_come_back_too(self) -> None:
        value = RICH.decode(RICH.encode(POOR._replace(colors=(Color.RED,), data=b"x")))
        self.assertIs(type(value), Rich)
        self.assertIs(type(value.node), Node)
        self.assertIs(value.colors[0], Color.RED)
        self.assertIs(value.flag, True)
        self.assertEqual((type(value.data), type(value.view)), (bytes, memoryview))

    def test_views_share_the_memory_of_the_buffer(self) -> None:
        data = bytearray(RICH.encode(POOR._replace(view=memoryview(b"shared"))))
        value = RICH.decode(memoryview(data))
        data[data.index(b"shared")] = ord("S")
        self.assertEqual(bytes(value.view), b"Shared")

    def test_none_and_empty_are_different(self) -> None:
        value = POOR._replace(note="", maybe=b"", longs=())
        self.assertEqual(RICH.decode(RICH.encode(value)), value)
        self.assertNotEqual(value, POOR)
        self.assertEqual(RICH.decode(RICH.encode(POOR)), POOR)

    def test_a_size_prefix_counts_what_follows_it(self) -> None:
        data = SIZED_RICH.encode(POOR)
        self.assertEqual(int.from_bytes(data[:4], "little"), len(data) - 4)

    def test_trailing_bytes_are_ignored_without_a_size_prefix(self) -> None:
        self.assertEqual(RICH.decode(RICH.encode(POOR) + b"more"), POOR)
        with self.assertRaisesRegex(WireError, "size prefix"):
            SIZED_RICH.decode(SIZED_RICH.encode(POOR) + b"more")

    def test_the_deepest_nesting_comes_back(self) -> None:
        value = nested(MAX_DEPTH)
        self.assertEqual(NODE.decode(NODE.encode(value)), value)


class UnencodableTests(unittest.TestCase):
    def check(self, problem: str, **fields: Any) -> None:
        with self.subTest(**fields), self.assertRaisesRegex(ValueError, problem) as caught:
            RICH.encode(POOR._replace(**fields))
        self.assertNotIsInstance(caught.exception, WireError)

    def test_numbers_out_of_range(self) -> None:
        self.check("Rich: .*128", tiny=128)
        self.check("Rich", umedium=-1)
        self.check("Rich", ratio=1e39)
        self.check("Rich", shorts=(0, 40000))

    def test_numbers_that_are_no_enum_values(self) -> None:
        self.check("3 is no value of Color", color=3)
        self.check("3 is no value of Color", colors=(Color.RED, 3))

    def test_none_where_a_value_has_to_be(self) -> None:
        self.check(r"Rich\.title must not be None", title=None)
        self.check(r"Rich\.remark must not be None", remark=None)
        self.check(r"Rich\.tiny must not be None", tiny=None)

    def test_tuples_of_the_wrong_length(self) -> None:
        self.check("argument", origin=(1.0, 2.0))
        self.check("Node has 3 fields, not 2", node=(1, None))

    def test_text_that_utf_8_cannot_express(self) -> None:
        self.check("surrogates", title="\ud800")

    def test_tables_nested_too_deeply(self) -> None:
        with self.assertRaisesRegex(ValueError, "nested"):
            NODE.encode(nested(MAX_DEPTH + 1))


class Good(NamedTuple):
    text: str
    number: int


class Small(IntEnum):
    ONE = 1
    TWO = 2


def make(annotation: Any, name: str = "a") -> Any:
    """A NamedTuple class with one field, whatever its annotation is."""
    return NamedTuple("Made", [(name, annotation)])


def many(annotation: Any) -> Any:
    return tuple[annotation, ...]


BINDING_SCHEMA = """
enum Small : byte { ONE = 1, TWO = 2 }
struct S { a:int; }
table Child { a:int; }
"""


class BindingTests(unittest.TestCase):
    def check(self, field: str, kind: Any, problem: str) -> None:
        schema = parse_schema(BINDING_SCHEMA + f"table T {{ {field} }}")
        with self.subTest(field, kind=kind), self.assertRaisesRegex(SchemaError, problem):
            Codec(schema, "T", kind)

    def test_annotations_that_fit(self) -> None:
        for field, annotation in [
            ("a:Small = ONE;", Small),
            ("a:Small = ONE;", int),
            ("a:S;", make(int) | None),
            ("a:S (required);", make(int)),
            ("a:[S];", many(make(int))),
            ("a:[S] (required);", many(make(int))),
            ("a:Child;", make(int) | None),
            ("a:[byte];", tuple[int, ...] | None),
            ("a:[ubyte];", tuple[int, ...]),
        ]:
            with self.subTest(field, annotation=annotation):
                schema = parse_schema(BINDING_SCHEMA + f"table T {{ {field} }}")
                Codec(schema, "T", make(annotation))

    def test_annotations_that_do_not(self) -> None:
        for field, annotation in [
            ("a:int;", float),
            ("a:int;", bool),
            ("a:float;", int),
            ("a:bool;", int),
            ("a:int;", Small),
            ("a:Small = ONE;", str),
            ("a:string;", bytes),
            ("a:[ubyte];", str),
            ("a:[byte];", bytes),
            ("a:[int];", list[int]),
            ("a:[int];", tuple[int, int]),
            ("a:[int];", tuple[float, ...]),
            ("a:[string];", tuple[bytes, ...]),
            ("a:int;", int | str | None),
            ("a:string;", str | int),
        ]:
            self.check(field, make(annotation), r"Made\.a: .* cannot be annotated as")

    def test_none_only_where_a_field_can_be_absent(self) -> None:
        self.check("a:int;", make(int | None), "never absent")
        self.check("a:Small = ONE;", make(Small | None), "never absent")
        self.check("a:string (required);", make(str | None), "never absent")
        self.check("a:S;", make(make(int)), "may be absent")
        self.check("a:Child;", make(make(int)), "may be absent")

    def test_fields_must_be_the_same_in_the_same_order(self) -> None:
        problem = "Good has the fields text, number, but table T has number, text"
        self.check("number:int; text:string;", Good, problem)
        self.check("text:string;", Good, "Good has the fields")
        self.check("a:S (required);", make(make(int, "b")), "Made has the fields b, but struct S")

    def test_only_namedtuples_are_bound(self) -> None:
        self.check("a:int;", int, "needs a NamedTuple")
        self.check("a:int;", tuple, "needs a NamedTuple")
        self.check("a:S (required);", make(int), "struct S needs a NamedTuple")
        self.check("a:[Child];", make(tuple[int, ...]), "table Child needs a NamedTuple")

    def test_an_enum_must_have_the_same_members(self) -> None:
        other = IntEnum("other", {"ONE": 1, "THREE": 2})
        self.check("a:Small = ONE;", make(other), "other differs from enum Small")

    def test_an_annotation_that_names_nothing(self) -> None:
        self.check("a:int;", make("Missing"), "Missing")

    def test_a_table_that_the_schema_lacks(self) -> None:
        with self.assertRaisesRegex(SchemaError, "no table Nothing"):
            Codec(SCHEMA, "Nothing", Good)
