"""Tests for jetstreamproto.wire.framing."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from itertools import pairwise
from traceback import walk_tb
from typing import NamedTuple
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import FrameTooLong, WireError
from jetstreamproto.wire.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthDelimited,
)

untimed = settings(deadline=None)


class Outcome(NamedTuple):
    """What decoding a whole stream came to."""

    frames: list[bytes]
    pending: int
    failure: str | None


def decode(framing: Framing, chunks: Iterable[bytes]) -> Outcome:
    """Feed all chunks to a fresh decoder, the way its docstring shows."""
    decoder = framing.decoder()
    frames = []
    for chunk in chunks:
        try:
            frames += decoder.feed(chunk)
        except WireError:
            break
        if decoder.failure is not None:
            break
    return Outcome(frames, decoder.pending, repr(decoder.failure) if decoder.failure else None)


def chop(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut `data` at the given places, taken modulo its length; some pieces may be empty."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def singles(data: bytes) -> list[bytes]:
    return chop(data, range(1, len(data)))


cuts = st.lists(st.integers(0, 1 << 16), max_size=20)


@st.composite
def length_framings(draw: st.DrawFn) -> LengthDelimited:
    width, offset = draw(st.integers(1, 8)), draw(st.integers(0, 5))
    return LengthDelimited(
        width,
        byteorder=draw(st.sampled_from(["big", "little"])),
        length_offset=offset,
        length_adjustment=draw(st.integers(-20, 20)),
        num_skip=draw(st.none() | st.integers(0, offset + width + 4)),
    )


def dropped(framing: LengthDelimited) -> int:
    return framing.header_size if framing.num_skip is None else framing.num_skip


@st.composite
def length_streams(draw: st.DrawFn) -> tuple[LengthDelimited, list[bytes], list[bytes]]:
    """A framing, some frames as sent, and the same frames as they should be delivered."""
    framing = draw(length_framings())
    skip = dropped(framing)
    shortest = max(0, skip - framing.header_size + max(0, framing.length_adjustment))
    head = st.binary(min_size=framing.length_offset, max_size=framing.length_offset)
    payload = st.binary(min_size=shortest, max_size=shortest + 60)
    sent = [framing.encode(p, h) for h, p in draw(st.lists(st.tuples(head, payload), max_size=8))]
    return framing, sent, [frame[skip:] for frame in sent]


class LengthDelimitedTests(TestCase):
    def test_default_is_a_big_endian_32_bit_length(self) -> None:
        self.assertEqual(LengthDelimited().encode(b"hello"), b"\0\0\0\x05hello")
        self.assertEqual(LengthDelimited().encode(b""), b"\0\0\0\0")

    def test_little_endian(self) -> None:
        framing = LengthDelimited(3, byteorder="little")
        self.assertEqual(framing.encode(b"hello"), b"\x05\0\0hello")

    def test_settings_are_frozen_and_comparable(self) -> None:
        framing = LengthDelimited(2)
        self.assertEqual(framing, LengthDelimited(length_width=2))
        self.assertEqual(len({framing, LengthDelimited(2), LengthDelimited(3)}), 2)
        with self.assertRaises(FrozenInstanceError):
            framing.max_length = 1  # type: ignore[misc]

    def test_bad_settings_are_named(self) -> None:
        for name, value in (
            ("length_width", 0),
            ("length_width", 9),
            ("byteorder", "middle"),
            ("length_offset", -1),
            ("num_skip", -1),
            ("max_length", -1),
        ):
            with self.subTest(name, value=value), self.assertRaisesRegex(ValueError, name):
                LengthDelimited(**{name: value})  # type: ignore[arg-type]

    def test_layouts_of_real_protocols(self) -> None:
        """One frame each: the settings, the bytes sent, the bytes delivered."""
        for framing, sent, delivered in (
            (LengthDelimited(2), b"\x00\x03abc", b"abc"),
            # The header is delivered too.
            (LengthDelimited(2, num_skip=0, length_adjustment=2), b"\x00\x03abc", b"\x00\x03abc"),
            # The length counts itself; delivered without or with it.
            (LengthDelimited(2, length_adjustment=-2), b"\x00\x05abc", b"abc"),
            (LengthDelimited(2, num_skip=0), b"\x00\x05abc", b"\x00\x05abc"),
            # Two bytes of the payload's own header are not counted.
            (
                LengthDelimited(3, num_skip=0, length_adjustment=5),
                b"\x00\x00\x03\xca\xfeabc",
                b"\x00\x00\x03\xca\xfeabc",
            ),
            # A head before the length is dropped, one byte after it is kept.
            (
                LengthDelimited(2, length_offset=1, length_adjustment=1),
                b"\xca\x00\x03\xfeabc",
                b"\xfeabc",
            ),
            # The length counts everything, the head too.
            (
                LengthDelimited(2, length_offset=1, length_adjustment=-3),
                b"\xca\x00\x07\xfeabc",
                b"\xfeabc",
            ),
            # One byte after the length is neither counted nor delivered.
            (LengthDelimited(3, num_skip=4), b"\x00\x00\x03\xffabc", b"abc"),
        ):
            with self.subTest(framing=framing):
                self.assertEqual(decode(framing, [sent * 2]).frames, [delivered] * 2)
                head, payload = sent[: framing.length_offset], sent[framing.header_size :]
                self.assertEqual(framing.encode(payload, head), sent)

    @untimed
    @given(length_streams(), cuts)
    def test_round_trip_however_chopped(
        self, stream: tuple[LengthDelimited, list[bytes], list[bytes]], cuts: list[int]
    ) -> None:
        framing, sent, delivered = stream
        wire = b"".join(sent)
        for chunks in ([wire], chop(wire, cuts), singles(wire), sent):
            self.assertEqual(decode(framing, chunks), Outcome(delivered, 0, None))

    @untimed
    @given(length_framings(), st.binary(max_size=200), cuts)
    def test_any_bytes_decode_the_same_however_chopped(
        self, framing: LengthDelimited, data: bytes, cuts: list[int]
    ) -> None:
        whole = decode(framing, [data])
        self.assertEqual(decode(framing, chop(data, cuts)), whole)
        self.assertEqual(decode(framing, singles(data)), whole)

    def test_header_alone(self) -> None:
        framing = LengthDelimited(2, length_offset=2)
        self.assertEqual(framing.header(5, b"JS"), b"JS\x00\x05")
        self.assertEqual(framing.header(5, b"JS") + b"hello", framing.encode(b"hello", b"JS"))

    def test_payload_may_be_any_buffer(self) -> None:
        framing = LengthDelimited(1)
        numbers = array("H", [1, 2, 3])
        for payload in (bytearray(b"abc"), memoryview(b"abc")):
            self.assertEqual(framing.encode(payload), b"\x03abc")
        self.assertEqual(framing.encode(memoryview(numbers)), b"\x06" + numbers.tobytes())

    def test_encoding_keeps_max_length(self) -> None:
        framing = LengthDelimited(2, max_length=5)
        self.assertEqual(framing.encode(b"12345"), b"\x00\x0512345")
        with self.assertRaisesRegex(FrameTooLong, "6 bytes where 5"):
            framing.encode(b"123456")

    def test_encoding_keeps_to_what_the_field_can_say(self) -> None:
        framing = LengthDelimited(1)
        self.assertEqual(decode(framing, [framing.encode(bytes(255))]).frames, [bytes(255)])
        with self.assertRaisesRegex(FrameTooLong, "256 does not fit 1 byte"):
            framing.encode(bytes(256))
        roomier = LengthDelimited(1, length_adjustment=10)
        self.assertEqual(decode(roomier, [roomier.encode(bytes(265))]).frames, [bytes(265)])
        with self.assertRaises(FrameTooLong):
            roomier.encode(bytes(266))

    def test_encoding_refuses_what_the_settings_cannot_express(self) -> None:
        for framing, payload in (
            (LengthDelimited(1, length_adjustment=4), b"abc"),
            (LengthDelimited(1, num_skip=5), b"abc"),
            (LengthDelimited(1, num_skip=5, length_adjustment=-4), b"abc"),
        ):
            with self.subTest(framing=framing):
                with self.assertRaisesRegex(ValueError, "too short") as caught:
                    framing.encode(payload)
                self.assertNotIsInstance(caught.exception, WireError)
                framing.encode(payload + b"d")
        for head in (b"", b"12", b"1234"):
            with self.assertRaisesRegex(ValueError, "where 3 belong"):
                LengthDelimited(length_offset=3).encode(b"abc", head)

    def test_decoding_accepts_exactly_max_length(self) -> None:
        limit = LengthDelimited(2, max_length=5)
        self.assertEqual(decode(limit, [b"\x00\x0512345"]).frames, [b"12345"])
        with self.assertRaisesRegex(FrameTooLong, "6 bytes where 5"):
            limit.decoder().feed(b"\x00\x06")

    def test_max_length_is_of_what_is_delivered(self) -> None:
        whole = LengthDelimited(2, num_skip=0, length_adjustment=2, max_length=5)
        self.assertEqual(decode(whole, [b"\x00\x03abc"]).frames, [b"\x00\x03abc"])
        with self.assertRaises(FrameTooLong):
            whole.decoder().feed(b"\x00\x04")
        with self.assertRaises(FrameTooLong):
            whole.encode(b"abcd")

    def test_too_long_is_refused_with_the_last_byte_of_the_length(self) -> None:
        decoder = LengthDelimited(4, length_offset=2, num_skip=10, max_length=1000).decoder()
        for byte in singles(b"JS\xff\xff\xff"):
            self.assertEqual(decoder.feed(byte), [])
        self.assertEqual(decoder.pending, 5)
        with self.assertRaises(FrameTooLong):
            decoder.feed(b"\xff" + bytes(1 << 16))
        self.assertEqual(decoder.pending, 0)

    def test_only_what_came_is_buffered(self) -> None:
        decoder = LengthDelimited().decoder()
        decoder.feed(b"\x00\x80\x00\x00")
        self.assertEqual(decoder.pending, 4)
        decoder.feed(bytes(10))
        self.assertEqual(decoder.pending, 14)

    def test_frame_shorter_than_its_own_header(self) -> None:
        for framing in (LengthDelimited(2, num_skip=0), LengthDelimited(2, length_adjustment=-2)):
            with self.subTest(framing=framing):
                decoder = framing.decoder()
                self.assertEqual(len(decoder.feed(b"\x00\x02")), 1)
                with self.assertRaisesRegex(WireError, "inside its own header") as caught:
                    decoder.feed(b"\x00\x01")
                self.assertNotIsInstance(caught.exception, FrameTooLong)


@st.composite
def delimiter_streams(draw: st.DrawFn) -> tuple[Delimited, bytes]:
    """A framing and bytes over its delimiter's few letters, so that there are many near misses."""
    letters = st.lists(st.sampled_from(b"ab"), min_size=1, max_size=3).map(bytes)
    framing = Delimited(
        draw(letters), max_length=draw(st.integers(0, 12)), strip=draw(st.booleans())
    )
    return framing, bytes(draw(st.lists(st.sampled_from(b"abc"), max_size=80)))


def split(framing: Delimited, data: bytes) -> tuple[list[bytes], bytes | None]:
    """Decode at leisure: the frames, and what follows them or None if that is too long."""
    *frames, rest = data.split(framing.delimiter)
    end = b"" if framing.strip else framing.delimiter
    for index, frame in enumerate(frames):
        if len(frame) > framing.max_length:
            return [frame + end for frame in frames[:index]], None
    fits = len(rest) < framing.max_length + len(framing.delimiter)
    return [frame + end for frame in frames], rest if fits else None


class DelimitedTests(TestCase):
    def test_lines(self) -> None:
        framing = Delimited()
        self.assertEqual(framing.encode(b"one"), b"one\n")
        self.assertEqual(decode(framing, [b"one\n\ntwo\nthr"]), ([b"one", b"", b"two"], 3, None))

    def test_unstripped(self) -> None:
        framing = Delimited(b"\r\n", strip=False)
        self.assertEqual(framing.encode(b"one"), b"one\r\n")
        self.assertEqual(decode(framing, [b"one\r", b"\ntwo\r\n"]).frames, [b"one\r\n", b"two\r\n"])

    def test_bad_settings_are_named(self) -> None:
        for name, value in (("delimiter", b""), ("delimiter", "\n"), ("max_length", -1)):
            with self.subTest(name, value=value), self.assertRaisesRegex(ValueError, name):
                Delimited(**{name: value})  # type: ignore[arg-type]

    @untimed
    @given(delimiter_streams(), cuts)
    def test_any_bytes_decode_like_split_however_chopped(
        self, stream: tuple[Delimited, bytes], cuts: list[int]
    ) -> None:
        framing, data = stream
        frames, rest = split(framing, data)
        for chunks in ([data], chop(data, cuts), singles(data)):
            outcome = decode(framing, chunks)
            self.assertEqual(outcome.frames, frames)
            self.assertEqual(outcome.pending, len(rest or b""))
            self.assertEqual(outcome.failure is None, rest is not None)

    @untimed
    @given(delimiter_streams())
    def test_encoding_refuses_just_what_would_not_come_back(
        self, stream: tuple[Delimited, bytes]
    ) -> None:
        framing, payload = stream
        wire = payload + framing.delimiter
        frame = payload if framing.strip else wire
        if split(framing, wire) == ([frame], b""):
            self.assertEqual(framing.encode(payload), wire)
        else:
            with self.assertRaises(ValueError):
                framing.encode(payload)

    def test_encoding_refuses_a_delimiter_in_the_frame(self) -> None:
        for delimiter, payload in ((b"\n", b"a\nb"), (b"\r\n", b"\r\n"), (b"aa", b"ba")):
            with (
                self.subTest(delimiter=delimiter, payload=payload),
                self.assertRaisesRegex(ValueError, "contains the delimiter"),
            ):
                Delimited(delimiter).encode(payload)
        self.assertEqual(Delimited(b"\r\n").encode(b"a\r"), b"a\r\r\n")

    def test_encoding_keeps_max_length(self) -> None:
        framing = Delimited(max_length=3)
        self.assertEqual(framing.encode(memoryview(b"abc")), b"abc\n")
        with self.assertRaises(FrameTooLong):
            framing.encode(b"abcd")

    def test_exactly_max_length_and_one_beyond(self) -> None:
        framing = Delimited(b"\r\n", max_length=4)
        for chunks in ([b"1234\r\n"], singles(b"1234\r\n")):
            self.assertEqual(decode(framing, chunks).frames, [b"1234"])
        for chunks in ([b"12345\r\n"], [b"1", b"2345\r\n"], singles(b"12345\r\n")):
            outcome = decode(framing, chunks)
            self.assertEqual((outcome.frames, outcome.pending), ([], 0))
            self.assertIn("FrameTooLong", outcome.failure or "")

    def test_too_long_is_never_buffered(self) -> None:
        framing = Delimited(b"\r\n", max_length=100)
        decoder = framing.decoder()
        for _ in range(101):
            decoder.feed(b"x")
        self.assertEqual(decoder.pending, 101)
        with self.assertRaisesRegex(FrameTooLong, "within 100 bytes"):
            decoder.feed(b"x" * (1 << 16))
        self.assertEqual(decoder.pending, 0)


class FixedLengthTests(TestCase):
    @untimed
    @given(st.integers(1, 20), st.binary(max_size=200), cuts)
    def test_slices_however_chopped(self, size: int, data: bytes, cuts: list[int]) -> None:
        whole = len(data) - len(data) % size
        frames = [data[i : i + size] for i in range(0, whole, size)]
        for chunks in ([data], chop(data, cuts), singles(data)):
            self.assertEqual(
                decode(FixedLength(size), chunks), Outcome(frames, len(data) - whole, None)
            )

    def test_encoding_wants_the_exact_size(self) -> None:
        framing = FixedLength(3)
        self.assertEqual(framing.encode(bytearray(b"abc")), b"abc")
        with self.assertRaisesRegex(FrameTooLong, "4 bytes where 3"):
            framing.encode(b"abcd")
        with self.assertRaisesRegex(ValueError, "2 bytes where 3"):
            framing.encode(b"ab")

    def test_bad_size(self) -> None:
        for size in (0, -1):
            with self.assertRaisesRegex(ValueError, "size"):
                FixedLength(size)


class DecoderTests(TestCase):
    """What all decoders have in common."""

    framings: tuple[Framing, ...] = (
        LengthDelimited(2, max_length=9),
        Delimited(max_length=9),
        FixedLength(7),
    )
    # For the framings that can be broken from outside: bytes they refuse at once.
    breaking: tuple[tuple[Framing, bytes], ...] = (
        (framings[0], b"\xff\xff"),
        (framings[1], b"x" * 10),
    )

    def test_feeding_nothing(self) -> None:
        for framing in self.framings:
            with self.subTest(framing=framing):
                decoder = framing.decoder()
                self.assertEqual(decoder.feed(b""), [])
                decoder.feed(b"\0")
                self.assertEqual(decoder.feed(b""), [])
                self.assertEqual(decoder.pending, 1)

    def test_input_of_any_type_yields_bytes_of_its_own(self) -> None:
        for framing in self.framings:
            with self.subTest(framing=framing):
                decoder = framing.decoder()
                data = bytearray(framing.encode(b"payload") * 2 + b"\0")
                frames = decoder.feed(data) + framing.decoder().feed(memoryview(data)[:-1])
                data[:] = bytes(len(data))
                self.assertEqual(frames, [b"payload"] * 4)
                self.assertEqual({type(frame) for frame in frames}, {bytes})

    def test_finish_between_frames_and_inside_one(self) -> None:
        for framing in self.framings:
            with self.subTest(framing=framing):
                decoder = framing.decoder()
                decoder.finish()
                wire = framing.encode(b"payload")
                decoder.feed(wire)
                decoder.finish()
                self.assertIsNone(decoder.failure)
                self.assertEqual(decoder.feed(wire[:-1]), [])
                with self.assertRaisesRegex(WireError, f"{len(wire) - 1} bytes into a frame"):
                    decoder.finish()
                with self.assertRaisesRegex(WireError, "into a frame"):
                    decoder.feed(wire[-1:])
                self.assertEqual(decoder.pending, 0)

    def test_a_large_frame_in_single_bytes(self) -> None:
        payload = bytes(1 << 16)
        for framing in (LengthDelimited(), Delimited(b"\r\n"), FixedLength(len(payload))):
            self.assertEqual(decode(framing, singles(framing.encode(payload))).frames, [payload])

    def test_error_waits_for_the_frames_before_it(self) -> None:
        for framing, bad in self.breaking:
            wire = framing.encode(b"payload")
            for begun in (b"", wire[:1], wire[:-1]):
                with self.subTest(framing=framing, begun=begun):
                    decoder = framing.decoder()
                    decoder.feed(begun)
                    stream = (wire * 2)[len(begun) :] + bad + wire
                    self.assertEqual(decoder.feed(stream), [b"payload"] * 2)
                    self.assertIsInstance(decoder.failure, FrameTooLong)
                    self.assertEqual(decoder.pending, 0)
                    with self.assertRaises(FrameTooLong):
                        decoder.feed(b"")

    def test_a_failed_decoder_stays_failed(self) -> None:
        for framing, bad in self.breaking:
            with self.subTest(framing=framing):
                decoder = framing.decoder()
                for data in (bad, framing.encode(b"payload"), b""):
                    with self.assertRaises(FrameTooLong) as caught:
                        decoder.feed(data)
                    self.assertIs(caught.exception, decoder.failure)
                    self.assertEqual(decoder.pending, 0)
                with self.assertRaises(FrameTooLong) as caught:
                    decoder.finish()
                self.assertIs(caught.exception, decoder.failure)

    def test_raising_again_does_not_grow_the_traceback(self) -> None:
        decoder = self.framings[0].decoder()
        depths = []
        for _ in range(4):
            try:
                decoder.feed(b"\xff\xff")
            except FrameTooLong as error:  # assertRaises would cut the traceback
                depths.append(len(list(walk_tb(error.__traceback__))))
        self.assertEqual(depths[1:], [2, 2, 2])
