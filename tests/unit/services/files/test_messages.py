from __future__ import annotations

import contextlib
import unittest
from enum import IntEnum

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table
from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.services.files import model
from jetstreamproto.services.files.messages import (
    ENTRIES,
    FILE,
    FINISH,
    HAVE,
    Entries,
    Entry,
    File,
    Finish,
    Have,
    Kind,
    decode_part,
    encode_part,
    read_digest,
)
from jetstreamproto.wire.schema_parser import load_schema

paths = st.text(min_size=1, max_size=30)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
u16 = st.integers(0, 2**16 - 1)
entries = st.builds(Entry, paths, st.sampled_from(model.EntryKind), st.integers(0, 2**63), i64, u16)

files = st.builds(
    File,
    *(paths, u64, st.booleans(), i64, u16, st.sampled_from(model.Overwrite), st.booleans()),
)
haves = st.builds(
    Have, st.sampled_from(model.Verdict), st.integers(0, 2**32 - 1), st.binary(max_size=99)
)


def built_by_the_library(kind: int, number: int, body: bytes) -> bytes:
    """A `Part` as flatbuffers' own builder writes it, in its own order."""
    builder = flatbuffers.Builder()
    vector = builder.CreateByteVector(body)
    builder.StartObject(3)
    builder.PrependUint8Slot(0, kind, 0)
    builder.PrependUOffsetTRelativeSlot(2, vector, 0)
    builder.PrependUint64Slot(1, number, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def read_by_the_library(data: bytes) -> tuple[int, int, bytes]:
    root = int.from_bytes(data[:4], "little")
    table = Table(data, root)
    kind_at, number_at, body_at = (table.Offset(slot) for slot in (4, 6, 8))
    kind = table.Get(number_types.Uint8Flags, root + kind_at) if kind_at else 0
    number = table.Get(number_types.Uint64Flags, root + number_at) if number_at else 0
    start = table.Vector(body_at)
    return kind, number, data[start : start + table.VectorLen(body_at)]


class PartTests(unittest.TestCase):
    @given(st.sampled_from(Kind), u64, st.binary(max_size=200))
    def test_there_and_back(self, kind: Kind, number: int, body: bytes) -> None:
        message = encode_part(kind, body, number)
        self.assertEqual(decode_part(message), (kind, number, body))
        self.assertEqual(read_by_the_library(message), (kind, number, body))
        self.assertEqual(
            decode_part(built_by_the_library(kind, number, body)), (kind, number, body)
        )

    @given(st.binary(max_size=100))
    def test_anything_is_read_or_a_wire_error(self, data: bytes) -> None:
        with contextlib.suppress(WireError):
            decode_part(data)

    @given(st.data())
    def test_what_was_changed_on_the_way(self, data: st.DataObject) -> None:
        message = bytearray(encode_part(Kind.PIECE, b"some bytes", 3))
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] ^= data.draw(st.integers(1, 255))
        try:
            _, _, body = decode_part(bytes(message))
        except WireError:
            return
        self.assertLessEqual(len(body), len(message))

    def test_a_chunk_is_not_copied_when_it_is_read(self) -> None:
        message = encode_part(Kind.PIECE, bytes(100), 1)
        self.assertIs(decode_part(message)[2].obj, message)


class TableTests(unittest.TestCase):
    def test_enums_are_those_of_the_schema(self) -> None:
        schema = load_schema("files.fbs")
        pairs: list[tuple[str, type[IntEnum]]] = [
            ("Kind", Kind),
            ("Overwrite", model.Overwrite),
            ("Verdict", model.Verdict),
            ("EntryKind", model.EntryKind),
        ]
        for name, kind in pairs:
            self.assertEqual(dict(schema.enums[name].members), {m.name: m.value for m in kind})

    @given(files)
    def test_file(self, file: File) -> None:
        self.assertEqual(FILE.decode(FILE.encode(file)), file)

    @given(haves)
    def test_have(self, have: Have) -> None:
        self.assertEqual(HAVE.decode(HAVE.encode(have)), have)

    @given(st.lists(entries, max_size=5), st.integers(0, 2**32 - 1))
    def test_entries(self, some: list[Entry], unnamed: int) -> None:
        part = Entries(tuple(some), unnamed)
        self.assertEqual(ENTRIES.decode(ENTRIES.encode(part)), part)

    def test_finish(self) -> None:
        finish = Finish(7, bytes(range(32)))
        self.assertEqual(FINISH.decode(FINISH.encode(finish)), finish)

    def test_digests_have_one_size(self) -> None:
        self.assertEqual(read_digest(memoryview(bytes(32))), bytes(32))
        for size in (0, 31, 33):
            with self.assertRaises(WireError):
                read_digest(bytes(size))

    def test_numbers_that_no_enum_has(self) -> None:
        bad = HAVE.encode(Have(model.Verdict.SEND, 1, b"x"))
        for at in range(len(bad)):
            changed = bytearray(bad)
            changed[at] ^= 0x40
            try:
                have = HAVE.decode(bytes(changed))
            except WireError:
                continue
            self.assertIn(have.verdict, list(model.Verdict))
