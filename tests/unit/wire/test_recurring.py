"""A codec that remembers."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import TestCase, mock

from jetstreamproto.errors import WireError
from jetstreamproto.wire import codec
from jetstreamproto.wire.codec import Codec, RecurringCodec
from jetstreamproto.wire.schema_parser import parse_schema

SCHEMA = parse_schema("table Note { number: uint32; text: string (required); }")


class Note(NamedTuple):
    number: int
    text: str


def recurring() -> RecurringCodec[Note]:
    return RecurringCodec(SCHEMA, "Note", Note, secret=lambda note: note.text == "secret")


class RecurringTests(TestCase):
    def setUp(self) -> None:
        self.plain = Codec(SCHEMA, "Note", Note)
        self.codec: Any = recurring()

    def test_it_says_what_a_plain_codec_says(self) -> None:
        for _ in range(3):
            for note in (Note(1, "a"), Note(2, "b"), Note(1, "secret"), Note(3, "x" * 1000)):
                data = self.codec.encode(note)
                self.assertEqual(data, self.plain.encode(note))
                self.assertEqual(self.codec.decode(memoryview(data)), note)

    def test_what_it_has_seen_is_not_worked_out_again(self) -> None:
        data = self.codec.encode(Note(1, "a"))
        self.codec.decode(data)
        with (
            mock.patch.object(Codec, "encode", side_effect=AssertionError),
            mock.patch.object(Codec, "decode", side_effect=AssertionError),
        ):
            self.assertEqual(self.codec.encode(Note(1, "a")), data)
            self.assertEqual(self.codec.decode(bytearray(data)), Note(1, "a"))

    def test_secrets_and_large_values_are_not_kept(self) -> None:
        for note in (Note(1, "secret"), Note(1, "x" * 1000)):
            self.codec.decode(self.codec.encode(note))
        self.assertEqual((self.codec._encoded, self.codec._decoded), ({}, {}))

    def test_it_keeps_a_bounded_number(self) -> None:
        for number in range(3 * codec._REMEMBERED):
            self.codec.decode(self.codec.encode(Note(number, "a")))
            self.assertLessEqual(len(self.codec._encoded), codec._REMEMBERED)
            self.assertLessEqual(len(self.codec._decoded), codec._REMEMBERED)

    def test_what_is_malformed_stays_an_error(self) -> None:
        for _ in range(2):
            for data in (b"", b"abc", self.plain.encode(Note(1, "a"))[:-6]):
                with self.assertRaises(WireError):
                    self.codec.decode(data)
        for _ in range(2):
            with self.assertRaises(ValueError):
                self.codec.encode(Note(-1, "a"))
