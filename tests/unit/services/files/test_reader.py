"""What the sender makes of a file, beside what the tests of the service show."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from blake3 import blake3

from jetstreamproto.services.files.folder import open_file
from jetstreamproto.services.files.messages import Kind, decode_part
from jetstreamproto.services.files.model import CHUNK_SIZE, PIECES
from jetstreamproto.services.files.reader import Reader
from jetstreamproto.services.files.waiting import flags_not_to_wait
from jetstreamproto.session.codes import MAX_FRAGMENT
from tests.unit.services.files.place import PlaceCase, noise


class ReaderTests(PlaceCase):
    def test_pieces_are_numbered_and_fit_a_fragment(self) -> None:
        content = noise(12 * CHUNK_SIZE + 5)
        reader = Reader(open_file(self.make("f", content), None))
        self.addCleanup(reader.close)
        reader.start(CHUNK_SIZE, blake3(content[:CHUNK_SIZE]).digest())
        found, batches, last = bytearray(content[:CHUNK_SIZE]), 0, None
        while last is None:
            batch = reader.read()
            batches += 1
            last = batch.finish
            for message, size in batch.messages:
                self.assertLessEqual(len(message), MAX_FRAGMENT)
                kind, number, body = decode_part(message)
                self.assertEqual((kind, len(body)), (Kind.PIECE, size))
                self.assertEqual(number * (CHUNK_SIZE // PIECES), len(found))
                found += body
        self.assertEqual(found, content)
        self.assertEqual(last, (len(content), blake3(content).digest(), False))
        self.assertGreater(batches, 1)

    def test_what_is_in_memory_is_read_without_waiting(self) -> None:
        """A chunk at a time, also behind what the peer has, and between reads that wait."""
        content = noise(12 * CHUNK_SIZE + 5)
        reader = Reader(open_file(self.make("f", content), None))
        self.addCleanup(reader.close)
        reader.start(CHUNK_SIZE, blake3(content[:CHUNK_SIZE]).digest())
        if reader._now is None:
            self.skipTest("this file system does not say what it has in memory")
        self.assertIsNone(reader.read_now())  # the first one has to be compared
        batches = [reader.read()]
        while batches[-1].finish is None:
            batch = reader.read_now()
            assert batch is not None
            self.assertLessEqual(batch.size, CHUNK_SIZE)
            batches.append(batch)
        found = b"".join(decode_part(m)[2] for batch in batches for m, _ in batch.messages)
        self.assertEqual(found, content[CHUNK_SIZE:])
        self.assertEqual(batches[-1].finish, (len(content), blake3(content).digest(), False))

    def test_what_is_not_in_memory_is_left_to_a_thread(self) -> None:
        content = noise(5 * CHUNK_SIZE)
        reader = Reader(open_file(self.make("f", content), None))
        self.addCleanup(reader.close)
        reader.start(CHUNK_SIZE, b"")
        reader._now = 1 << 20  # a flag of this test's
        read, before = os.preadv, []

        def cold(descriptor: int, views: Any, offset: int, flags: int = 0) -> int:
            if flags:
                before.append(offset)
                if len(before) % 2 == 0:
                    raise BlockingIOError
                return read(descriptor, [views[0][:1000]], offset)  # the rest is not there
            return read(descriptor, views, offset)

        with mock.patch.object(os, "preadv", cold):
            self.assertIsNone(reader.read_now())
            batch = reader.read()
        self.assertEqual(before, [0, 1000])
        found = b"".join(decode_part(m)[2] for m, _ in batch.messages)
        self.assertEqual(found, content[: len(found)])
        while batch.finish is None:
            batch = reader.read()
        self.assertEqual(batch.finish.digest, blake3(content).digest())

    def test_streams_and_systems_that_do_not_say(self) -> None:
        reader = Reader(None, os.open(os.devnull, os.O_RDONLY))
        self.addCleanup(os.close, reader._descriptor)
        reader.start(CHUNK_SIZE, b"")
        self.assertIsNone(reader.read_now())
        descriptor = os.open(self.make("f", b"x"), os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        with mock.patch.object(os, "RWF_NOWAIT", None, create=True):
            self.assertIsNone(flags_not_to_wait(descriptor))
