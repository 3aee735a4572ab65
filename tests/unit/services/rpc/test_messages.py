from __future__ import annotations

import random
import unittest

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table as Accessor
from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import RpcError, WireError
from jetstreamproto.services.rpc.batch import _ENOUGH
from jetstreamproto.services.rpc.messages import (
    HEAD_SIZE,
    MAX_FRAMES,
    VERSION,
    Flag,
    Kind,
    decode_error,
    decode_metadata,
    encode_call,
    encode_error,
    encode_frame,
    encode_metadata,
    split_frames,
)
from jetstreamproto.services.rpc.model import DEFAULT_LIMITS, RpcLimits, RpcStatus
from jetstreamproto.wire.schema_parser import load_schema

U8, U16, U32 = (
    number_types.Uint8Flags,
    number_types.Uint16Flags,
    number_types.Uint32Flags,
)
FIELDS = ((U32, "call"), (U32, "number"), (U16, "name_size"), (U16, "metadata_size"))
FIELDS += ((U8, "kind"), (U8, "flags"), (U8, "version"))
Parts = tuple[int, int, int, int, int, int, int, bytes]


def build(parts: Parts, order: list[int]) -> bytes:
    """A frame as the `flatbuffers` package writes it, its fields in any order."""
    builder = flatbuffers.Builder(64)
    body = builder.CreateByteVector(parts[7])
    builder.StartObject(8)
    for index in order:
        if index == 7:
            builder.PrependUOffsetTRelativeSlot(7, body, 0)
        else:
            builder.PrependSlot(FIELDS[index][0], index, parts[index], 0)
    builder.FinishSizePrefixed(builder.EndObject())
    return bytes(builder.Output())


def read(frame: bytes) -> Parts:
    """A frame as the `flatbuffers` package reads it."""
    start = int.from_bytes(frame[4:8], "little") + 4
    table = Accessor(bytearray(frame), start)
    numbers = []
    for index, (flags, _) in enumerate(FIELDS):
        at = table.Offset(4 + 2 * index)
        numbers.append(int(table.Get(flags, start + at)) if at else 0)
    at = table.Offset(18)
    where, size = table.Vector(at), table.VectorLen(at)
    return (*numbers, bytes(table.Bytes[where : where + size]))  # type: ignore[return-value]


def frames(message: bytes) -> list[tuple[object, ...]]:
    return [(*fields, bytes(body)) for *fields, body in split_frames(message)]


class FrameTests(unittest.TestCase):
    def test_the_schema_says_what_the_code_says(self) -> None:
        kinds = load_schema("rpc.fbs").enums["Kind"].members
        self.assertEqual(kinds, {kind.name: kind.value for kind in Kind})
        fields = [field.name for field in load_schema("rpc.fbs").table("Frame").fields]
        self.assertEqual(fields, [*(name for _, name in FIELDS), "body"])

    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
        st.binary(max_size=40),
        st.binary(max_size=200),
        st.integers(0, 255),
    )
    def test_the_library_reads_what_we_write(
        self, call: int, number: int, name: bytes, metadata: bytes, payload: bytes, flags: int
    ) -> None:
        frame = encode_call(call, number, name, metadata, payload, flags)
        body = name + metadata + payload
        parts = (call, number, len(name), len(metadata), Kind.CALL, flags, VERSION, body)
        self.assertEqual(read(frame), parts)
        other = encode_frame(Kind.ITEM, call, payload, number, flags)
        self.assertEqual(read(other), (call, number, 0, 0, Kind.ITEM, flags, VERSION, payload))
        self.assertEqual(frames(frame + other), [parts, read(other)])

    @given(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**16 - 1),
            st.integers(0, 2**16 - 1),
            st.integers(0, 255),
            st.integers(0, 255),
            st.integers(0, 255),
            st.binary(max_size=100),
        ),
        st.permutations(list(range(8))),
    )
    def test_we_read_what_the_library_writes(self, parts: Parts, order: list[int]) -> None:
        ours = encode_frame(Kind.RESULT, 7, b"before")
        self.assertEqual(frames(ours + build(parts, order))[1], parts)

    def test_a_name_that_is_too_long_for_its_field(self) -> None:
        with self.assertRaises(ValueError):
            encode_call(1, 1, bytes(1 << 16), b"", b"", 0)

    def test_what_is_cut_or_empty_is_an_error(self) -> None:
        frame = encode_frame(Kind.ITEM, 1, b"payload")
        for size in range(len(frame)):
            with self.subTest(size), self.assertRaises(WireError):
                frames(frame + frame[:size] if size else b"")

    def test_too_many_in_one_message(self) -> None:
        frame = encode_frame(Kind.CANCEL, 1)
        self.assertEqual(len(frames(frame * MAX_FRAMES)), MAX_FRAMES)
        with self.assertRaises(WireError):
            frames(frame * (MAX_FRAMES + 1))

    def test_our_own_batches_are_smaller(self) -> None:
        self.assertLess(_ENOUGH // HEAD_SIZE + 1, MAX_FRAMES)

    def test_mutations_are_errors_or_other_frames_and_nothing_else(self) -> None:
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        good = encode_call(9, 1000, b"demo.Calc#add", b"\x80", b"\x92\x01\x02", 0) * 2
        for _ in range(3000):
            bad = bytearray(good)
            for _ in range(chance.randint(1, 6)):
                bad[chance.randrange(len(bad))] = chance.choice((0, 1, 4, 127, 128, 255))
            try:
                for _, _, _, _, _, _, _, body in split_frames(bytes(bad)):
                    self.assertLessEqual(len(body), len(bad) - HEAD_SIZE + 40, f"seed {seed}")
            except WireError:
                pass
            except Exception as error:
                self.fail(f"seed {seed}: {error!r}")


class MetadataTests(unittest.TestCase):
    def test_there_and_back(self) -> None:
        data = encode_metadata({"trace": "1-2", "ü": ""}, DEFAULT_LIMITS)
        self.assertEqual(decode_metadata(memoryview(data), DEFAULT_LIMITS)["trace"], "1-2")
        self.assertEqual(encode_metadata(None, DEFAULT_LIMITS), b"")
        self.assertEqual(decode_metadata(memoryview(b""), DEFAULT_LIMITS), {})

    def test_limits_and_nonsense(self) -> None:
        with self.assertRaises(ValueError):
            encode_metadata({"a": "x" * 9000}, DEFAULT_LIMITS)
        with self.assertRaises(TypeError):
            encode_metadata({"a": 1}, DEFAULT_LIMITS)  # type: ignore[dict-item]
        for data in (b"\x01", b"\x81\xa1a\x01", b"\x81\xa1", b"\x91" * 5000, bytes(9000)):
            with self.subTest(data[:4]), self.assertRaises(RpcError) as raised:
                decode_metadata(memoryview(data), DEFAULT_LIMITS)
            self.assertIs(raised.exception.status, RpcStatus.INVALID_ARGUMENT)


class ErrorTests(unittest.TestCase):
    def carried(self, error: RpcError, limits: RpcLimits = DEFAULT_LIMITS) -> RpcError:
        ((_, number, _, _, kind, flags, _, body),) = split_frames(encode_error(5, error, limits))
        self.assertEqual(kind, Kind.ERROR)
        return decode_error(number, flags, body)

    def test_there_and_back(self) -> None:
        for status in list(RpcStatus)[1:]:
            error = self.carried(RpcError(status, "why", {"id": [1, b"x"]}, started=False))
            self.assertEqual(
                (error.status, error.message, error.details, error.started),
                (status, "why", {"id": [1, b"x"]}, False),
            )

    def test_what_cannot_be_sent_is_left_out(self) -> None:
        for details in (object(), 1 << 70, "x" * 100_000, _deep(100_000)):
            error = self.carried(RpcError(RpcStatus.ABORTED, "why", details))
            self.assertEqual((error.message, error.details, error.started), ("why", None, True))
        self.assertEqual(len(self.carried(RpcError(RpcStatus.ABORTED, "x" * 9999)).message), 1024)
        self.assertEqual(self.carried(RpcError(RpcStatus.ABORTED, "\ud800")).message, "?")

    def test_a_peer_that_sends_nonsense(self) -> None:
        for body in (b"", b"\xc0", b"\x93\xa0\xa0\xa0", b"\x92\x01\x01", b"\x92\xa1\xff\xc0"):
            error = decode_error(5, Flag.NOT_STARTED, memoryview(body))
            self.assertIs(error.status, RpcStatus.NOT_FOUND)
        for number in (0, 17, 2**32 - 1):
            self.assertIs(decode_error(number, 0, memoryview(b"")).status, RpcStatus.UNKNOWN)


def _deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value
