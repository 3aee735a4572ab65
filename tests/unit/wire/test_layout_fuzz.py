"""Bytes that nobody meant to be a buffer, and bytes that were meant to hurt."""

from __future__ import annotations

import random
import struct
import unittest
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import flatbuffers
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.wire.binding import bind
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.reader import MAX_DEPTH, Reader
from jetstreamproto.wire.schema_parser import parse_schema
from tests.unit.wire.test_layout_oracle import (
    RICH,
    SCHEMA,
    SIZED_RICH,
    Rich,
    build,
    plain,
    riches,
)

RICH_SHAPE = bind(SCHEMA.table("Rich"), Rich)
REFUSED = "refused"


def outcome(decode: Callable[[Any], Any], data: bytes | memoryview) -> Any:
    """What `decode` makes of `data`; only a WireError may come instead of a value."""
    try:
        return plain(decode(data))
    except WireError:
        return REFUSED


def decode_generically(data: bytes) -> Any:
    """As `RICH.decode`, but never by comparing with the canonical layout."""
    reader = Reader(memoryview(data))
    return RICH_SHAPE.load(reader, reader.root(0), depth=0)


# --- damage ------------------------------------------------------------------------------

interesting = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 0x7F, 0x80, 0xFF]) | st.integers(0, 0xFF)
words = (
    st.integers(0, 64)
    | st.integers(0xFFFFFFC0, 0xFFFFFFFF)
    | st.sampled_from([0x7FFFFFFF, 0x80000000, 0x20000000, 0x40000001, 0xFFFF, 0x10000])
    | st.integers(0, 0xFFFFFFFF)
)


def damage(data: bytes, dice: random.Random, draw: Callable[[Any], Any]) -> bytes:
    """Change `data` in one to four places."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = dice.randrange(len(changed) or 1)
        kind = draw(st.sampled_from(["bit", "byte", "half", "word", "near", "cut", "drop", "add"]))
        if kind == "bit" and changed:
            changed[at] ^= 1 << dice.randrange(8)
        elif kind == "byte" and changed:
            changed[at] = draw(interesting)
        elif kind == "half":
            changed[at & ~1 : (at & ~1) + 2] = struct.pack("<H", draw(words) & 0xFFFF)
        elif kind == "word":
            changed[at & ~3 : (at & ~3) + 4] = struct.pack("<I", draw(words))
        elif kind == "near" and len(changed) > 1:
            changed[at & ~1] = (changed[at & ~1] + dice.choice([-8, -4, -2, 2, 4, 8])) & 0xFF
        elif kind == "cut":
            del changed[at:]
        elif kind == "drop":
            del changed[at : at + dice.choice([1, 2, 4, 8])]
        else:
            changed[at:at] = bytes(dice.choice([1, 2, 4, 8]))
    return bytes(changed)


dice_rolls = st.randoms(use_true_random=False)


class FuzzTests(unittest.TestCase):
    def check(self, data: bytes) -> None:
        """No surprises, the same result in any surroundings and on both ways of reading."""
        result = outcome(RICH.decode, data)
        self.assertEqual(outcome(decode_generically, data), result)
        for filler in (b"\0", b"\1\0\0\0", b"\xff"):
            padding = filler * 16
            surrounded = memoryview(padding + data + padding)
            inside = surrounded[len(padding) : len(padding) + len(data)]
            self.assertEqual(outcome(RICH.decode, inside), result)

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200))
    def test_random_bytes(self, data: bytes) -> None:
        self.check(data)
        outcome(SIZED_RICH.decode, data)
        outcome(SIZED_RICH.decode, struct.pack("<I", len(data)) + data)

    @settings(deadline=None, max_examples=300)
    @given(riches, dice_rolls, st.data())
    def test_damaged_canonical_buffers(
        self, value: Rich, dice: random.Random, data: st.DataObject
    ) -> None:
        self.check(damage(RICH.encode(value), dice, data.draw))

    @settings(deadline=None, max_examples=300)
    @given(riches, dice_rolls, st.data())
    def test_damaged_buffers_of_the_other_implementation(
        self, value: Rich, dice: random.Random, data: st.DataObject
    ) -> None:
        self.check(damage(build(SCHEMA.table("Rich"), value, dice), dice, data.draw))

    @settings(deadline=None, max_examples=20)
    @given(riches, dice_rolls)
    def test_every_truncation(self, value: Rich, dice: random.Random) -> None:
        for data in (RICH.encode(value), build(SCHEMA.table("Rich"), value, dice)):
            for length in range(len(data)):
                outcome(RICH.decode, data[:length])

    @settings(deadline=None, max_examples=20)
    @given(riches)
    def test_what_was_accepted_can_be_written_again(self, value: Rich) -> None:
        data = bytearray(RICH.encode(value))
        for at in range(len(data)):
            data[at] ^= 1
            result = outcome(RICH.decode, bytes(data))
            if result != REFUSED:
                again = RICH.encode(RICH.decode(bytes(data)))
                self.assertEqual(outcome(RICH.decode, again), result)
            data[at] ^= 1


# --- sharing -----------------------------------------------------------------------------


class Tree(NamedTuple):
    children: tuple[Tree, ...] = ()
    names: tuple[str, ...] = ()


TREE_SCHEMA = parse_schema("table Tree { children:[Tree]; names:[string]; }")
TREE = Codec(TREE_SCHEMA, "Tree", Tree)


def shared(builder: Any, offset: int, times: int) -> int:
    """A vector whose elements are all the object at `offset`."""
    builder.StartVector(4, times, 4)
    for _ in range(times):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def bomb(levels: int, fan_out: int) -> bytes:
    """`levels` tables: the children of each are the next one, `fan_out` times."""
    builder = flatbuffers.Builder(0)
    below = 0
    for _ in range(levels):
        children = shared(builder, below, fan_out) if below else 0
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, children, 0)
        below = int(builder.EndObject())
    builder.Finish(below)
    return bytes(builder.Output())


def repeated_name(name: str, times: int) -> bytes:
    """A table whose names are one string, `times` times."""
    builder = flatbuffers.Builder(0)
    names = shared(builder, builder.CreateString(name), times)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, names, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


class SharingTests(unittest.TestCase):
    def visits(self, data: bytes) -> int:
        """How many objects are read, root aside, before `data` is refused."""
        target = Reader.target
        with mock.patch.object(Reader, "target", autospec=True, side_effect=target) as visit:
            with self.assertRaisesRegex(WireError, "shared too often"):
                TREE.decode(data)
            return visit.call_count

    def test_the_work_is_linear_in_the_size_of_a_bomb(self) -> None:
        for levels, fan_out in [(60, 2), (60, 20), (30, 10), (4, 1000)]:
            with self.subTest(levels=levels, fan_out=fan_out):
                data = bomb(levels, fan_out)
                self.assertLess(self.visits(data), 4 * len(data) + 256)

    def test_strings_count_with_all_their_bytes(self) -> None:
        data = repeated_name("x" * 100_000, 25_000)
        self.assertLess(self.visits(data), 40)

    def test_some_sharing_is_fine(self) -> None:
        leaf = Tree()
        self.assertEqual(TREE.decode(bomb(3, 4)), Tree((Tree((leaf,) * 4),) * 4))
        self.assertEqual(TREE.decode(repeated_name("name", 1000)).names, ("name",) * 1000)
        self.assertEqual(TREE.decode(bomb(2, 10_000)).children, (leaf,) * 10_000)

    @settings(deadline=None)
    @given(riches, dice_rolls)
    def test_what_is_not_shared_never_counts_more_than_its_size(
        self, value: Rich, dice: random.Random
    ) -> None:
        counted = []
        with mock.patch.object(Reader, "spend", lambda reader, size: counted.append(size)):
            for data in (RICH.encode(value), build(SCHEMA.table("Rich"), value, dice, share=False)):
                counted.clear()
                RICH.decode(data)
                self.assertLessEqual(sum(counted), len(data))

    def test_nesting_is_limited(self) -> None:
        TREE.decode(bomb(MAX_DEPTH, 1))
        with self.assertRaisesRegex(WireError, "more than 64 tables are nested"):
            TREE.decode(bomb(MAX_DEPTH + 1, 1))
