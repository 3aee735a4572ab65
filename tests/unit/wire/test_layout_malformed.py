"""Buffers that break the rules, and buffers that are only unusual."""

from __future__ import annotations

import struct
import unittest
from enum import IntEnum
from typing import NamedTuple

from jetstreamproto.errors import WireError
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import Lead, lay_out
from jetstreamproto.wire.schema_parser import parse_schema
from tests.unit.wire.test_layout_oracle import POOR, RICH, SCHEMA, SIZED_RICH, Rich


class Switch(IntEnum):
    OFF = 0
    ON = 1


class Spot(NamedTuple):
    x: int


class Target(NamedTuple):
    number: int = 7
    text: str = "text"
    longs: tuple[int, ...] = (1, 2)
    next: Target | None = None
    switch: Switch = Switch.ON
    spot: Spot | None = Spot(9)
    names: tuple[str, ...] = ("a", "b")
    must: str = "must"


TARGET_SCHEMA = parse_schema(
    """
    enum Switch : ushort { OFF, ON }
    struct Spot { x:ulong; }
    table Target {
      number:uint = 5;
      text:string;
      longs:[ulong];
      next:Target;
      switch:Switch;
      spot:Spot;
      names:[string];
      must:string (required);
    }
    """
)
TARGET = Codec(TARGET_SCHEMA, "Target", Target)
LAYOUT = lay_out(TARGET_SCHEMA.table("Target"), Lead.ROOT)
RICH_LAYOUT = lay_out(SCHEMA.table("Rich"), Lead.ROOT)
FIELDS = Target._fields
VTABLE = 4
INNER = Target()
OUTER = Target(next=INNER)


def slot(name: str) -> int:
    """Where the field `name` of the root table is."""
    return LAYOUT.positions[FIELDS.index(name)]


def entry(name: str) -> int:
    """Where the vtable entry of the field `name` is."""
    return VTABLE + 4 + 2 * FIELDS.index(name)


class Patch:
    """An encoded buffer to be damaged."""

    def __init__(self, value: Target = OUTER) -> None:
        self.data = bytearray(TARGET.encode(value))

    def u16(self, at: int, value: int) -> Patch:
        struct.pack_into("<H", self.data, at, value)
        return self

    def u32(self, at: int, value: int) -> Patch:
        struct.pack_into("<I", self.data, at, value & 0xFFFFFFFF)
        return self

    def target(self, name: str) -> int:
        """Where the field `name` refers to."""
        return self.follow(slot(name))

    def follow(self, at: int) -> int:
        return at + int(struct.unpack_from("<I", self.data, at)[0])

    def point(self, at: int, to: int) -> Patch:
        """Make the offset at `at` lead to `to`."""
        return self.u32(at, to - at)


class RuleTests(unittest.TestCase):
    def refuse(self, data: bytes | Patch, rule: str) -> None:
        with self.assertRaisesRegex(WireError, rule):
            TARGET.decode(bytes(data.data if isinstance(data, Patch) else data))

    def test_nothing_is_wrong_before_the_damage(self) -> None:
        self.assertEqual(TARGET.decode(bytes(Patch().data)), OUTER)

    def test_the_root_offset(self) -> None:
        self.refuse(b"", "ends within its root offset")
        self.refuse(b"\4\0\0", "ends within its root offset")
        size = len(Patch().data)
        self.refuse(Patch().u32(0, 0), "offset 0 at 0 is not between")
        self.refuse(Patch().u32(0, 1 << 31), "not between 1 and")
        self.refuse(Patch().u32(0, size), "leads out of the buffer")
        self.refuse(Patch().u32(0, size - 3), "leads out of the buffer")
        self.refuse(Patch().u32(0, LAYOUT.table + 2), "misaligned")

    def test_where_the_vtable_is(self) -> None:
        table, size = LAYOUT.table, len(Patch().data)
        self.refuse(Patch().u32(table, table + 1), "vtable of the table at 24 is out")
        self.refuse(Patch().u32(table, table - size + 2), "vtable of the table at 24 is out")
        self.refuse(Patch().u32(table, 0x80000000), "vtable of the table at 24 is out")
        self.refuse(Patch().u32(table, 0x7FFFFFFF), "vtable of the table at 24 is out")
        self.refuse(Patch().u32(table, table - VTABLE + 1), "vtable .* misaligned")

    def test_the_sizes_in_the_vtable(self) -> None:
        for size in (0, 2, 21):
            self.refuse(Patch().u16(VTABLE, size), "vtable at 4 has the impossible size")
        self.refuse(Patch().u16(VTABLE, 0xFFFE), "vtable at 4 extends beyond")
        self.refuse(Patch().u16(VTABLE + 2, 3), "table at 24 has the impossible size")
        self.refuse(Patch().u16(VTABLE + 2, 0xFFFF), "table at 24 extends beyond")

    def test_where_fields_are(self) -> None:
        inline_size = struct.unpack_from("<H", Patch().data, VTABLE + 2)[0]
        for offset in (1, 3, inline_size - 3, inline_size, 0xFFFF):
            self.refuse(Patch().u16(entry("number"), offset), "field 0 .* outside")
        self.refuse(Patch().u16(entry("number"), 6), "field 0 .* misaligned")
        self.refuse(Patch().u16(entry("switch"), 5), "field 4 .* misaligned")
        self.refuse(Patch().u16(entry("spot"), 12), "field 5 .* misaligned")
        self.refuse(Patch().u16(entry("text"), 6), "field 1 .* misaligned")

    def test_required_fields(self) -> None:
        self.refuse(Patch().u16(entry("must"), 0), "Target lacks its required field must")
        self.refuse(Patch().u16(VTABLE, 4), "Target lacks its required field must")

    def test_enum_values(self) -> None:
        self.refuse(Patch().u16(slot("switch"), 2), "2 is no value of Switch")

    def test_offsets_of_fields(self) -> None:
        size = len(Patch().data)
        for name in ("text", "longs", "next", "names", "must"):
            at = slot(name)
            self.refuse(Patch().u32(at, 0), f"offset 0 at {at} is not between")
            self.refuse(Patch().u32(at, -4), f"at {at} is not between")
            self.refuse(Patch().point(at, size), f"at {at} leads out of the buffer")
            self.refuse(Patch().u32(at, 0x7FFFFFFC), f"at {at} leads out of the buffer")
            self.refuse(Patch().u32(at, 5), "misaligned")

    def test_vectors(self) -> None:
        patch = Patch()
        at, size = patch.target("longs"), len(patch.data)
        most = (size - at - 4) // 8
        self.assertEqual(len(TARGET.decode(bytes(Patch().u32(at, most).data)).longs), most)
        for length in (most + 1, 0x20000000, 0x7FFFFFFF, 0xFFFFFFFF):
            self.refuse(Patch().u32(at, length), f"vector at {at} extends beyond")
        moved = Patch().u32(at + 4, 1).point(slot("longs"), at + 4)
        self.refuse(moved, f"elements of the vector at {at + 4} are misaligned")

    def test_an_empty_vector_has_nothing_to_align(self) -> None:
        patch = Patch()
        at = patch.target("longs")
        patch.u32(at + 4, 0).point(slot("longs"), at + 4)
        self.assertEqual(TARGET.decode(bytes(patch.data)).longs, ())

    def test_offsets_in_vectors(self) -> None:
        patch = Patch()
        second = patch.target("names") + 8
        self.refuse(Patch().u32(second, 0), f"offset 0 at {second}")
        self.refuse(Patch().point(second, len(patch.data)), f"at {second} leads out")

    def test_strings(self) -> None:
        patch = Patch()
        at, size = patch.target("text"), len(patch.data)
        self.refuse(Patch().u32(at, 3), f"string at {at} does not end with a NUL")
        self.refuse(Patch().u32(at, size - at - 4), f"string at {at} does not end with a NUL")
        self.refuse(Patch().u32(at, size - at - 3), f"vector at {at} extends beyond")
        for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"abc\xe2"):
            patch = Patch()
            patch.data[at + 4 : at + 8] = bad.ljust(4, b"x")
            self.refuse(patch, f"string at {at} is not UTF-8")

    def test_text_may_hold_nuls(self) -> None:
        value = OUTER._replace(text="a\0b")
        self.assertEqual(TARGET.decode(TARGET.encode(value)), value)

    def test_nested_tables_are_held_to_the_same_rules(self) -> None:
        at = Patch().target("next")
        self.refuse(Patch().u32(at, at + 1), f"vtable of the table at {at} is out")

    def test_size_prefixes(self) -> None:
        data = SIZED_RICH.encode(POOR)
        for bad, rule in [
            (b"", "ends within its size prefix"),
            (b"\0\0\0", "ends within its size prefix"),
            (b"\0\0\0\0", "ends within its root offset"),
            (data[:-1], "size prefix says"),
            (data + b"\0", "size prefix says"),
            (bytes(3) + b"\xff" + data[4:], "size prefix says"),
        ]:
            with self.assertRaisesRegex(WireError, rule):
                SIZED_RICH.decode(bad)


class UnusualTests(unittest.TestCase):
    """Layouts that no known writer makes, but that the format allows."""

    def test_a_vtable_behind_its_table(self) -> None:
        # 0 root, 4 table, 8 must, 12 vtable, 32 text
        vtable = struct.pack("<10H", 20, 8, 0, 0, 0, 0, 0, 0, 0, 4)
        data = struct.pack("<IiI", 4, -8, 24) + vtable + struct.pack("<I5s", 4, b"here")
        self.assertEqual(
            TARGET.decode(data),
            Target(5, "", (), None, Switch.OFF, None, (), "here"),
        )

    def test_fields_that_share_their_bytes(self) -> None:
        patch = Patch().point(slot("text"), Patch().target("must"))
        patch.u16(entry("number"), slot("text") - LAYOUT.table)
        value = TARGET.decode(bytes(patch.data))
        self.assertEqual((value.text, value.must), ("must", "must"))
        self.assertEqual(value.number, patch.target("text") - slot("text"))

    def test_padding_is_not_looked_at(self) -> None:
        data = bytearray(RICH.encode(POOR))
        at = RICH_LAYOUT.positions[Rich._fields.index("origin")]
        data[at + 4 : at + 8] = b"junk"
        data[at + 17 : at + 24] = b"garbage"
        self.assertEqual(RICH.decode(bytes(data)), POOR)

    def test_any_byte_but_zero_is_true(self) -> None:
        data = bytearray(RICH.encode(POOR))
        data[RICH_LAYOUT.positions[Rich._fields.index("flag")]] = 2
        self.assertIs(RICH.decode(bytes(data)).flag, True)
