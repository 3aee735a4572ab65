"""What the service `files` owes its users, whatever carries the session."""

from __future__ import annotations

from typing import Any

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.model import CHUNK_SIZE, FileCode, Verdict
from tests.unit.services.files.place import PlaceCase, noise

CONTENT = noise(3 * CHUNK_SIZE + 123)


class FilesContract(PlaceCase):
    """The tests; say in `connect` how the sessions come together."""

    def connect(self, **options: Any) -> Any:
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        self.pair = self.connect()
        self.files = self.client(self.pair)

    def test_there_and_back(self) -> None:
        path = self.make("f", CONTENT)
        sent = self.pair.run(self.files.send(path, "d/f"))
        got = self.pair.run(self.files.get("d/f", self.local / "g"))
        self.assertEqual(sent.digest, got.digest)
        self.assertEqual((self.root / "d" / "f").read_bytes(), CONTENT)
        self.assertEqual((self.local / "g").read_bytes(), CONTENT)
        self.assertIs(self.pair.run(self.files.send(path, "d/f")).verdict, Verdict.SAME)

    def test_what_is_there_is_not_sent_again(self) -> None:
        self.make("f.part", CONTENT[:CHUNK_SIZE] + bytes(CHUNK_SIZE), self.root)
        transfer = self.pair.run(self.files.send(self.make("f", CONTENT), "f"))
        self.assertEqual(transfer.sent, 2 * CHUNK_SIZE + 123)
        self.assertEqual((self.root / "f").read_bytes(), CONTENT)

    def test_many_at_a_time(self) -> None:
        paths = [self.make(str(number), noise(500 * number, number)) for number in range(20)]
        for one in [self.files.send(path, path.name) for path in paths]:
            self.pair.run(one)
        for path in paths:
            self.assertEqual((self.root / path.name).read_bytes(), path.read_bytes())
        contents = self.pair.run(self.files.list())
        self.assertEqual(len(contents.entries), 20)

    def test_errors_are_typed_and_the_session_lives(self) -> None:
        for code, path in (
            (FileCode.NOT_FOUND, "no"),
            (FileCode.BAD_NAME, "../x"),
            (FileCode.IS_FOLDER, ""),
        ):
            with self.assertRaises(FileError) as caught:
                self.pair.run(self.files.get(path, self.local / "x"))
            self.assertEqual(caught.exception.code, code)
        self.pair.run(self.files.list())

    def test_a_limit(self) -> None:
        start = self.pair.clock.seconds()
        path = self.make("f", CONTENT)
        self.pair.run(self.files.send(path, "f", limit=CHUNK_SIZE))
        self.assertGreater(self.pair.clock.seconds() - start, 2.9)
