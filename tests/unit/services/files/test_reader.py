"""What the sender makes of a file, beside what the tests of the service show."""

from __future__ import annotations

from blake3 import blake3

from jetstreamproto.services.files.folder import open_file
from jetstreamproto.services.files.messages import Kind, decode_part
from jetstreamproto.services.files.model import CHUNK_SIZE, PIECES
from jetstreamproto.services.files.reader import Reader
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
