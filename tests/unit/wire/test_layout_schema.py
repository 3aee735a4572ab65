"""The schema language: what is understood, and what is refused with its line."""

from __future__ import annotations

import math
import re
import unittest

from jetstreamproto.errors import SchemaError
from jetstreamproto.wire.schema_parser import load_schema, parse_schema
from jetstreamproto.wire.schema_types import SCALARS, Field, Scalar, String, Vector


def fields_of(text: str) -> tuple[Field, ...]:
    return parse_schema(text).table("T").fields


class UnderstoodTests(unittest.TestCase):
    def test_namespace_root_and_comments(self) -> None:
        schema = parse_schema(
            "// first\n/* second\n * third */ namespace a.b; /// fourth\n"
            "table T {} root_type a.b.T;"
        )
        self.assertEqual(schema.namespace, "a.b")
        self.assertIs(schema.root, schema.table("T"))

    def test_a_root_type_is_not_needed(self) -> None:
        self.assertIsNone(parse_schema("table T {}").root)

    def test_enum_values_count_on_from_the_last(self) -> None:
        schema = parse_schema("enum E : short { A, B = -0x10, C, D = 7, }")
        self.assertEqual(schema.enums["E"].members, {"A": 0, "B": -16, "C": -15, "D": 7})
        self.assertEqual(schema.enums["E"].scalar, SCALARS["int16"])

    def test_both_spellings_of_a_scalar_are_one_type(self) -> None:
        pairs = ["int8 byte", "uint8 ubyte", "int16 short", "uint16 ushort", "int32 int"]
        pairs += ["uint32 uint", "int64 long", "uint64 ulong", "float32 float", "float64 double"]
        for pair in pairs:
            first, second = fields_of("table T {{ a:{}; b:{}; }}".format(*pair.split()))
            self.assertEqual(first.type, second.type)
            assert isinstance(first.type, Scalar)
            self.assertEqual(first.type.size, int(re.sub(r"\D", "", first.type.name)) // 8)

    def test_scalar_defaults(self) -> None:
        fields = fields_of(
            "enum E : byte { ZERO, ONE, TWO }"
            "table T { a:int; b:int = -0x1F; c:float = .5; d:double = 1e3; e:double = 3;"
            "f:bool; g:bool = true; h:bool = 0; i:E; j:E = ONE; k:E = 2; l:double = -inf; }"
        )
        self.assertEqual(
            [field.default for field in fields],
            [0, -31, 0.5, 1000.0, 3.0, False, True, False, 0, 1, 2, -math.inf],
        )
        self.assertEqual(
            [type(field.default) for field in fields[:6]], [int, int, float, float, float, bool]
        )

    def test_a_float32_default_is_what_a_buffer_would_carry(self) -> None:
        (field,) = fields_of("table T { a:float = 0.1; }")
        self.assertEqual(field.default, 0.10000000149011612)
        (field,) = fields_of("table T { a:float = nan; }")
        assert isinstance(field.default, float)
        self.assertTrue(math.isnan(field.default))

    def test_vectors_and_required(self) -> None:
        a, b, c = fields_of("table T { a:[string] (required); b:[T]; c:string (required); }")
        self.assertEqual((a.type, a.required), (Vector(String()), True))
        assert isinstance(b.type, Vector)
        self.assertEqual((str(b.type), b.required), ("[table T]", False))
        self.assertEqual((c.type, c.required), (String(), True))

    def test_the_schemas_of_the_package(self) -> None:
        packet, session = load_schema("packet.fbs"), load_schema("session.fbs")
        self.assertIs(packet.root, packet.table("Packet"))
        self.assertEqual(list(session.tables), ["Hello", "Open"])
        self.assertIs(load_schema("packet.fbs"), packet)


REFUSED = [
    ('include "other.fbs";', "'include' is not supported"),
    ("union U { T }", "'union' is not supported"),
    ('attribute "key";', "'attribute' is not supported"),
    ('file_identifier "ABCD";', "'file_identifier' is not supported"),
    ("rpc_service S {}", "'rpc_service' is not supported"),
    ("42", "'42' is not supported"),
    ("table T { a:int; } @", "'@' is not supported"),
    ("/* never closed", "'/' is not supported"),
    ("namespace a; namespace b;", "second namespace"),
    ("table T {} root_type T; root_type T;", "second root_type"),
    ("root_type T;", "type T is not declared"),
    ("struct S { a:int; } root_type S;", "not a table"),
    ("table T {} table T {}", "T is declared twice"),
    ("struct int {}", "built-in"),
    ("table T", "before the end of the file"),
    ("table T { a:int }", "expected ';' before '}'"),
    ("table T { a = 1; }", "expected ':' before '='"),
    ("table T { 1:int; }", "expected a field's name instead of '1'"),
    ("table T { a:int; a:int; }", "two fields named a"),
    ("table T { a:Missing; }", "type Missing is not declared"),
    ("table T { a:[[int]]; }", "vector of vectors"),
    ("struct S { a:[int:3]; }", "array of fixed length"),
    ("table T (original_order) { a:int; }", "'original_order' is not supported"),
    ("table T { a:int (deprecated); }", "'deprecated' is not supported"),
    ("table T { a:int (id: 0); }", "'id' is not supported"),
    ("table T { a:int (required); }", "cannot be required"),
    ("table T { a:int = null; }", "optional scalar"),
    ("table T { a:string = nothing; }", "default for a string"),
    ("table T { a:[int] = []; }", "'[' is not a constant"),
    ("table T { a:int = 1.5; }", "'1.5' is not a constant of type int32"),
    ("table T { a:int = ; }", "';' is not a constant"),
    ("table T { a:byte = 128; }", "128 does not fit into int8"),
    ("table T { a:bool = 2; }", "'2' is not a constant of type bool"),
    ("table T { a:float = 1e39; }", "'1e39' is not a constant of type float32"),
    ('table T { a:double = "1"; }', "not a constant of type float64"),
    ("enum E { A }", "expected ':'"),
    ("enum E : float { A }", "integer type"),
    ("enum E : bool { A }", "integer type"),
    ("enum E : byte (bit_flags) { A }", "'bit_flags' is not supported"),
    ("enum E : byte {}", "without values"),
    ("enum E : byte { A, A }", "repeats a name"),
    ("enum E : byte { A = 1, B = 1 }", "repeats a name or value"),
    ("enum E : byte { A = 127, B }", "128 does not fit"),
    ("enum E : byte { A = x }", "'x' is not a constant"),
    ("enum E : byte { A B }", "expected '}' before 'B'"),
    ("enum E : byte { A = 1 } table T { a:E; }", "default 0 is no value of enum E"),
    ("enum E : byte { A } table T { a:E = B; }", "'B' is not a constant"),
    ("struct S {}", "without fields"),
    ("struct S { a:int = 1; }", "cannot have a default"),
    ("struct S { a:S; }", "type S is not declared"),
    ("struct S { a:string; }", "string inside a struct"),
    ("table T {} struct S { a:T; }", "table T inside a struct"),
    ("enum E : byte { A = 1 } struct S { a:E; }", "enum E needs a zero"),
    ("struct S { a:[int]; }", "[int32] inside a struct"),
]


class RefusedTests(unittest.TestCase):
    def test_each_with_its_line(self) -> None:
        for text, problem in REFUSED:
            with self.subTest(text):
                with self.assertRaises(SchemaError) as caught:
                    parse_schema("\n// a comment\n" + text, "x.fbs")
                self.assertIn(problem, str(caught.exception))
                self.assertTrue(str(caught.exception).startswith("x.fbs:3: "))

    def test_lines_are_those_of_the_construct(self) -> None:
        with self.assertRaisesRegex(SchemaError, r"^x\.fbs:4: a default for a string"):
            parse_schema('table T {\n  a:int;\n  /*\n*/  b:string = "";\n  c:int;\n}', "x.fbs")

    def test_a_table_that_is_not_there(self) -> None:
        with self.assertRaisesRegex(SchemaError, "no table Missing"):
            parse_schema("table T {}").table("Missing")
