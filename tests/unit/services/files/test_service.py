from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

from blake3 import blake3
from twisted.internet.defer import CancelledError, Deferred

from jetstreamproto.errors import (
    ChannelReset,
    ConfigurationError,
    FileError,
    MessageTooLarge,
    NotAllowed,
    SessionClosed,
    SessionCut,
)
from jetstreamproto.services.files import service
from jetstreamproto.services.files.client import FileClient
from jetstreamproto.services.files.conversation import PATIENCE
from jetstreamproto.services.files.messages import (
    ENTRIES,
    FILE,
    FINISH,
    FOLDER,
    GET,
    HAVE,
    LIST,
    Entries,
    Entry,
    File,
    Finish,
    Get,
    Have,
    Kind,
    List,
    MakeFolder,
    decode_part,
    encode_part,
)
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    PIECES,
    EntryKind,
    FileCode,
    Overwrite,
    Verdict,
)
from jetstreamproto.services.files.service import FileOffer
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.settings import SessionSettings
from tests.unit.services.files.place import PlaceCase, at_once, noise

LONG = noise(9 << 20)  # more than is read ahead
BIG = noise(5 * CHUNK_SIZE + 77)


class ServiceCase(PlaceCase):
    def setUp(self) -> None:
        super().setUp()
        self.pair = self.connect()
        self.files = self.client(self.pair)

    def run_(self, deferred: Deferred[Any]) -> Any:
        return self.pair.run(deferred)

    def fails(self, code: int, deferred: Deferred[Any]) -> FileError:
        with self.assertRaises(FileError) as caught:
            self.pair.run(deferred)
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.still_works()
        return caught.exception

    def still_works(self) -> None:
        self.run_(self.files.list())

    def raw(self, *messages: bytes) -> Inbox:
        inbox: Inbox = self.run_(self.pair.client.open("files"))
        for message in messages:
            inbox.channel.send(message)
        return inbox

    def hear(self, inbox: Inbox, kind: Kind) -> tuple[int, memoryview]:
        found, number, body = decode_part(self.run_(inbox.get()))
        self.assertEqual(found, kind)
        return number, body

    def assert_reset(self, code: int, inbox: Inbox) -> str:
        with self.assertRaises(ChannelReset) as caught:
            while True:
                self.run_(inbox.get())
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.still_works()
        return caught.exception.reason

    def offer_file(self, path: str = "f", **fields: Any) -> bytes:
        return encode_part(Kind.FILE, FILE.encode(File(path, **fields)))


class SendTests(ServiceCase):
    def test_a_file_with_its_time_and_mode(self) -> None:
        path = self.make("big", BIG)
        os.utime(path, ns=(5, 1_234_567_890_123_456_789))
        path.chmod(0o750)
        done: list[int] = []
        transfer = self.run_(self.files.send(path, "d/e/big", progress=done.append))
        there = self.root / "d" / "e" / "big"
        self.assertEqual(there.read_bytes(), BIG)
        self.assertEqual(there.stat().st_mtime_ns, 1_234_567_890_123_456_789)
        self.assertEqual(there.stat().st_mode & 0o7777, 0o750)
        self.assertEqual((transfer.verdict, transfer.sent), (Verdict.SEND, len(BIG)))
        self.assertEqual(transfer.digest, blake3(BIG).hexdigest())
        self.assertEqual(sum(done), len(BIG))
        self.assertEqual(os.listdir(there.parent), ["big"])

    def test_sizes_at_the_edges(self) -> None:
        for size in (0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 1 << 21, (1 << 21) + 1):
            with self.subTest(size):
                path = self.make(f"f{size}", noise(size))
                self.run_(self.files.send(path, path.name))
                self.assertEqual((self.root / path.name).read_bytes(), path.read_bytes())
                self.run_(self.files.get(path.name, self.local / "back"))
                self.assertEqual((self.local / "back").read_bytes(), path.read_bytes())

    def test_what_is_the_same_is_not_sent(self) -> None:
        path = self.make("f", BIG)
        self.run_(self.files.send(path, "f"))
        for policy in Overwrite:
            again = self.run_(self.files.send(path, "f", overwrite=policy))
            self.assertEqual((again.verdict, again.sent, again.digest), (Verdict.SAME, 0, ""))
        again = self.run_(self.files.get("f", path))
        self.assertIs(again.verdict, Verdict.SAME)

    def test_policies(self) -> None:
        path = self.make("f", b"new")
        there = self.make("f", b"older", self.root)
        os.utime(path, (2000, 2000))
        os.utime(there, (1000, 1000))
        self.fails(FileCode.EXISTS, self.files.send(path, "f", overwrite=Overwrite.NEVER))
        self.assertEqual(there.read_bytes(), b"older")
        os.utime(there, (3000, 3000))
        kept = self.run_(self.files.send(path, "f", overwrite=Overwrite.NEWER))
        self.assertEqual((kept.verdict, there.read_bytes()), (Verdict.OLDER, b"older"))
        os.utime(there, (1000, 1000))
        self.run_(self.files.send(path, "f", overwrite=Overwrite.NEWER))
        self.assertEqual(there.read_bytes(), b"new")

    def test_a_dry_run_changes_nothing(self) -> None:
        path = self.make("f", BIG)
        self.assertIs(self.run_(self.files.send(path, "d/f", dry_run=True)).verdict, Verdict.SEND)
        self.assertEqual(os.listdir(self.root), [])
        self.run_(self.files.send(path, "f"))
        self.assertIs(self.run_(self.files.send(path, "f", dry_run=True)).verdict, Verdict.SAME)
        self.run_(self.files.get("f", self.local / "g", dry_run=True))
        self.assertFalse((self.local / "g").exists() or (self.local / "g.part").exists())

    def test_a_stream(self) -> None:
        for content in (b"", b"some", BIG):
            reading, writing = os.pipe()
            with os.fdopen(writing, "wb") as file:
                if len(content) > 60000:
                    with open(self.make("big", content), "rb") as big:
                        os.dup2(big.fileno(), reading)
                else:
                    file.write(content)
            transfer = self.run_(self.files.send_stream(reading, "s"))
            os.close(reading)
            self.assertEqual((self.root / "s").read_bytes(), content)
            self.assertEqual(transfer.size, len(content))

    def test_a_limit_is_kept(self) -> None:
        path = self.make("f", BIG)
        for transfer in (
            lambda: self.files.send(path, "f", limit=len(BIG) // 10),
            lambda: self.files.get("f", self.local / "back", limit=len(BIG) // 10),
        ):
            start = self.pair.clock.seconds()
            self.run_(transfer())
            seconds = self.pair.clock.seconds() - start
            self.assertGreater(seconds, 9.5)
            self.assertLess(seconds, 11)

    def test_a_source_that_changes_meanwhile(self) -> None:
        path = self.make("f", LONG)
        sending = self.files.send(path, "f", limit=len(LONG) // 10)
        self.pair.advance(2)
        with path.open("ab") as file:
            file.write(b"more")
        self.fails(FileCode.CHANGED, sending)
        self.assertFalse((self.root / "f").exists())
        self.run_(self.files.send(path, "f"))
        self.assertEqual((self.root / "f").read_bytes(), LONG + b"more")

    def test_what_is_not_there_here(self) -> None:
        self.fails(FileCode.NOT_FOUND, self.files.send(self.local / "no", "f"))
        self.fails(FileCode.IS_FOLDER, self.files.send(self.local, "f"))
        os.mkfifo(self.local / "p")
        self.fails(FileCode.NOT_A_FILE, self.files.send(self.local / "p", "f"))

    def test_what_cannot_be_there(self) -> None:
        path = self.make("f", b"x")
        (self.root / "d").mkdir()
        (self.root / "file").write_bytes(b"")
        (self.root / "link").symlink_to(self.local)
        for code, there in (
            (FileCode.IS_FOLDER, "d"),
            (FileCode.IS_FOLDER, ""),
            (FileCode.NOT_FOLDER, "file/x"),
            (FileCode.NOT_FOLDER, "link/x"),
            (FileCode.BAD_NAME, "../x"),
            (FileCode.BAD_NAME, "x.part"),
            (FileCode.NAME_TOO_LONG, "x" * 251),
        ):
            with self.subTest(there):
                self.fails(code, self.files.send(path, there))
        self.assertEqual(sorted(os.listdir(self.local)), ["f"])

    def test_errors_of_the_disk_are_told_and_what_came_stays(self) -> None:
        path = self.make("f", BIG)
        write = os.pwritev
        for number, code in ((errno.ENOSPC, FileCode.NO_SPACE), (errno.EIO, FileCode.IO_ERROR)):

            def failing(fd: int, views: Any, at: int, number: int = number) -> int:
                if at + sum(map(len, views)) > 3 * CHUNK_SIZE:
                    if at >= 3 * CHUNK_SIZE:
                        raise OSError(number, os.strerror(number))
                    return write(fd, [b"".join(views)[: 3 * CHUNK_SIZE - at]], at)
                return write(fd, views, at)

            with (
                mock.patch.object(os, "pwritev", failing),
                mock.patch.object(os, "pwrite", lambda fd, data, at: failing(fd, [data], at)),
            ):
                self.fails(code, self.files.send(path, "f"))
            self.assertEqual((self.root / "f.part").stat().st_size, 3 * CHUNK_SIZE)
        transfer = self.run_(self.files.send(path, "f"))
        self.assertEqual(transfer.sent, len(BIG) - 3 * CHUNK_SIZE)
        self.assertEqual((self.root / "f").read_bytes(), BIG)


class ResumeTests(ServiceCase):
    def test_only_what_is_missing_is_sent(self) -> None:
        path = self.make("f", BIG)
        for have, missing in (
            (BIG[: 3 * CHUNK_SIZE], 2 * CHUNK_SIZE + 77),
            (BIG[: 3 * CHUNK_SIZE - 1], 3 * CHUNK_SIZE + 77),
            (BIG, 0),
            (BIG + b"and more of another", 77),
            (bytes(CHUNK_SIZE) + BIG[CHUNK_SIZE:], CHUNK_SIZE),
            (noise(len(BIG), 9), len(BIG)),
        ):
            with self.subTest(len(have)):
                self.make("f.part", have, self.root)
                transfer = self.run_(self.files.send(path, "f"))
                self.assertEqual(transfer.sent, missing)
                self.assertEqual((self.root / "f").read_bytes(), BIG)
                self.assertEqual(transfer.digest, blake3(BIG).hexdigest())
                (self.root / "f").unlink()

    def test_the_same_for_get(self) -> None:
        self.make("f", BIG, self.root)
        self.make("g.part", BIG[: 2 * CHUNK_SIZE + 5])
        transfer = self.run_(self.files.get("f", self.local / "g"))
        self.assertEqual(transfer.sent, 3 * CHUNK_SIZE + 77)
        self.assertEqual((self.local / "g").read_bytes(), BIG)

    def test_a_stream_that_is_given_again(self) -> None:
        self.make("f.part", BIG[: 2 * CHUNK_SIZE], self.root)
        with self.make("f", BIG).open("rb") as file:
            transfer = self.run_(self.files.send_stream(file.fileno(), "f"))
        self.assertEqual(transfer.sent, 3 * CHUNK_SIZE + 77)
        self.assertEqual((self.root / "f").read_bytes(), BIG)

    def test_a_partial_of_another_version(self) -> None:
        path, piece = self.make("f", BIG), CHUNK_SIZE // PIECES
        self.make("f", BIG, self.root)
        gap = BIG[:piece] + bytes(piece) + BIG[2 * piece :]
        changed = BIG[:piece] + noise(piece, 3) + BIG[2 * piece :]
        for have, other in (
            (gap, False),  # a piece has not come
            (bytes(CHUNK_SIZE) + BIG[CHUNK_SIZE:], False),
            (BIG[: CHUNK_SIZE + 9], False),  # nor has the rest
            (changed, True),
            (BIG[:CHUNK_SIZE] + changed, True),
            (noise(len(BIG), 9), True),
            (BIG + bytes(2 * CHUNK_SIZE), False),
        ):
            with self.subTest(len(have)):
                self.make("f.part", have, self.root)
                (self.root / "f").unlink()
                sent = self.run_(self.files.send(path, "f"))
                self.make("g.part", have)
                got = self.run_(self.files.get("f", self.local / "g"))
                self.assertEqual((sent.other, got.other), (other, other))
                self.assertEqual((self.root / "f").read_bytes(), BIG)
                self.assertEqual((self.local / "g").read_bytes(), BIG)
                (self.local / "g").unlink()

    def test_giving_up_leaves_the_partial(self) -> None:
        path = self.make("f", BIG)
        sending = self.files.send(path, "f", limit=CHUNK_SIZE)
        self.pair.advance(2.9)
        sending.cancel()
        with self.assertRaises(CancelledError):
            self.run_(sending)
        self.still_works()
        self.assertEqual((self.root / "f.part").read_bytes(), BIG[: 3 * CHUNK_SIZE])
        self.assertEqual(self.offer.desk.operations, 0)
        self.run_(self.files.send(path, "f"))

    def test_the_same_client_takes_over_from_itself(self) -> None:
        path = self.make("f", BIG)
        first = self.files.send(path, "f", limit=CHUNK_SIZE)
        self.pair.advance(2.9)
        second = self.client(self.pair).send(path, "f")
        self.fails(FileCode.TAKEN_OVER, first)
        self.assertEqual(self.run_(second).sent, len(BIG) - 3 * CHUNK_SIZE)

    def test_and_again_before_it_has_begun(self) -> None:
        path = self.make("f", BIG)
        all_ = [self.files.send(path, "f", limit=CHUNK_SIZE) for _ in range(3)]
        last = self.files.send(path, "f")
        for one in all_:
            self.fails(FileCode.TAKEN_OVER, one)
        self.assertEqual(self.run_(last).verdict, Verdict.SEND)
        self.assertEqual(self.offer.desk.uploads, {})

    def test_others_do_not(self) -> None:
        path = self.make("f", BIG)
        first = self.files.send(path, "f", limit=CHUNK_SIZE)
        self.pair.advance(2.5)
        with mock.patch.object(service, "_owner", id):
            self.fails(FileCode.BUSY, self.files.send(path, "f"))
        self.assertEqual(self.run_(first).sent, len(BIG))


class GetTests(ServiceCase):
    def test_what_cannot_be_got(self) -> None:
        (self.root / "d").mkdir()
        (self.root / "link").symlink_to(self.make("secret", b"x"))
        for code, there in (
            (FileCode.NOT_FOUND, "no"),
            (FileCode.IS_FOLDER, "d"),
            (FileCode.IS_FOLDER, ""),
            (FileCode.NOT_A_FILE, "link"),
            (FileCode.BAD_NAME, "../local/secret"),
            (FileCode.BAD_NAME, "/etc/passwd"),
            (FileCode.BAD_NAME, "\udcff"),
        ):
            with self.subTest(ascii(there)):
                self.fails(code, self.files.get(there, self.local / "x"))
        self.make("f", b"x", self.root)
        self.fails(FileCode.NOT_FOUND, self.files.get("f", self.local / "no" / "x"))

    def test_to_a_stream(self) -> None:
        self.make("f", BIG, self.root)
        with (self.local / "out").open("wb") as file:
            self.run_(self.files.get_stream("f", file.fileno()))
        self.assertEqual((self.local / "out").read_bytes(), BIG)

    def test_to_a_pipe_that_nobody_reads(self) -> None:
        self.make("f", BIG, self.root)
        reading, writing = os.pipe()
        os.close(reading)
        error = self.fails(FileCode.IO_ERROR, self.files.get_stream("f", writing))
        self.assertIsInstance(error.__cause__, BrokenPipeError)
        os.close(writing)

    def test_a_file_that_shrinks_while_it_is_sent(self) -> None:
        path = self.make("f", LONG, self.root)
        getting = self.files.get("f", self.local / "f", limit=CHUNK_SIZE)
        self.pair.advance(1)
        os.truncate(path, 10)
        self.fails(FileCode.CHANGED, getting)


class ListTests(ServiceCase):
    def names(self, path: str = "", **options: Any) -> list[str]:
        return [entry.path for entry in self.run_(self.files.list(path, **options)).entries]

    def test_folders_and_files(self) -> None:
        self.make("b/c/f", b"123", self.root)
        self.make("a", b"", self.root)
        self.assertEqual(self.names(), ["a", "b"])
        self.assertEqual(self.names(deep=True), ["a", "b", "b/c", "b/c/f"])
        self.assertEqual(self.names("b", deep=True), ["c", "c/f"])
        (only,) = self.run_(self.files.list("b/c/f")).entries
        self.assertEqual((only.path, only.kind, only.size), ("", EntryKind.FILE, 3))
        self.fails(FileCode.NOT_FOUND, self.files.list("no"))

    def test_many(self) -> None:
        for number in range(1203):
            (self.root / f"{number:04}").write_bytes(b"")
        (self.root / "x\ny").write_bytes(b"")
        contents = self.run_(self.files.list())
        self.assertEqual(len(contents.entries), 1203)
        self.assertEqual(contents.unnamed, 1)

    def test_folders_are_made(self) -> None:
        self.run_(self.files.make_folder("a/b"))
        self.run_(self.files.make_folder("a/b"))
        self.assertEqual(self.names(deep=True), ["a", "a/b"])
        self.make("f", b"", self.root)
        self.fails(FileCode.NOT_FOLDER, self.files.make_folder("f/g"))


class RuleTests(ServiceCase):
    def denied(self, deferred: Deferred[Any]) -> None:
        with self.assertRaises(NotAllowed):
            self.run_(deferred)

    def test_patterns_narrow(self) -> None:
        path = self.make("f", b"x")
        self.allowed = {"read": ("open/**",), "write": ("in/*.txt",)}
        self.make("open/a", b"", self.root)
        self.make("closed/a", b"", self.root)
        self.run_(self.files.send(path, "in/f.txt"))
        self.denied(self.files.send(path, "in/f.exe"))
        self.denied(self.files.send(path, "open/f.txt"))
        self.denied(self.files.make_folder("x"))
        self.denied(self.files.get("closed/a", self.local / "a"))
        self.denied(self.files.get("no", self.local / "a"))
        self.denied(self.files.list("closed"))
        self.run_(self.files.get("open/a", self.local / "a"))
        names = [entry.path for entry in self.run_(self.files.list(deep=True)).entries]
        self.assertEqual(names, ["open", "open/a"])

    def test_nothing(self) -> None:
        self.allowed = {"read": (), "write": ()}
        self.denied(self.files.list())
        self.denied(self.files.send(self.make("f", b"x"), "f"))


class ReadOnlyTests(ServiceCase):
    writable = False

    def test_nothing_is_written_whatever_the_rules_say(self) -> None:
        self.allowed = {"write": ("**",)}
        path = self.make("f", b"x")
        for asked in (self.files.send(path, "f"), self.files.make_folder("d")):
            with self.assertRaises(NotAllowed):
                self.run_(asked)
        self.assertEqual(os.listdir(self.root), [])
        self.make("g", b"y", self.root)
        self.run_(self.files.get("g", self.local / "g"))


class HostileClientTests(ServiceCase):
    """What a client says that is not ours."""

    def test_what_no_operation_begins_with(self) -> None:
        for message in (
            *(b"", b"nonsense", bytes(100)),
            *(encode_part(kind) for kind in (Kind.NONE, Kind.HAVE, Kind.PIECE, Kind.DONE)),
            *(encode_part(Kind.GET, b"?"), encode_part(Kind.FILE), encode_part(99)),  # type: ignore[arg-type]
        ):
            with self.subTest(message):
                self.assert_reset(ResetCode.BAD_MESSAGE, self.raw(message))

    def test_paths_that_lead_out(self) -> None:
        """Our client would not even ask."""
        for path in ("../local/secret", "/etc/passwd", "a/../../x", "\x1b[2J", "a\\b", "C:x"):
            for request in (
                encode_part(Kind.GET, GET.encode(Get(path))),
                encode_part(Kind.LIST, LIST.encode(List(path))),
                encode_part(Kind.FOLDER, FOLDER.encode(MakeFolder(path))),
                self.offer_file(path),
            ):
                self.assert_reset(FileCode.BAD_NAME, self.raw(request))
        self.assertEqual(os.listdir(self.home / "root"), [])

    def test_a_second_request(self) -> None:
        self.make("f", BIG, self.root)
        for request in (
            encode_part(Kind.GET, GET.encode(Get("f"))),
            encode_part(Kind.LIST, LIST.encode(List(""))),
            self.offer_file("g", size=3),
            encode_part(Kind.FOLDER, FOLDER.encode(MakeFolder("d"))),
        ):
            self.assert_reset(ResetCode.BAD_MESSAGE, self.raw(request, request))

    def test_chunks_that_cannot_be(self) -> None:
        for size, number, length in ((5, 0, 6), (5, 1, 5), (5, 1 << 60, 5), (0, 0, 1), (5, 0, 0)):
            with self.subTest((size, number, length)):
                inbox = self.raw(self.offer_file(size=size))
                self.hear(inbox, Kind.HAVE)
                inbox.channel.send(encode_part(Kind.PIECE, bytes(length), number))
                self.assert_reset(ResetCode.BAD_MESSAGE, inbox)
        inbox = self.raw(self.offer_file(sized=False))
        self.hear(inbox, Kind.HAVE)
        inbox.channel.send(encode_part(Kind.PIECE, bytes(CHUNK_SIZE // PIECES + 1)))
        self.assert_reset(ResetCode.BAD_MESSAGE, inbox)

    def test_chunks_before_they_are_wanted(self) -> None:
        chunk = encode_part(Kind.PIECE, b"12345")
        with mock.patch.object(self.offer.desk, "_worker", lambda call: Deferred()):
            inbox = self.raw(self.offer_file(size=5), chunk)
            self.assert_reset_only(inbox)

    def assert_reset_only(self, inbox: Inbox) -> None:
        with self.assertRaises(ChannelReset) as caught:
            self.run_(inbox.get())
        self.assertEqual(caught.exception.code, ResetCode.BAD_MESSAGE)

    def test_a_wrong_digest(self) -> None:
        inbox = self.raw(self.offer_file(size=5))
        self.hear(inbox, Kind.HAVE)
        inbox.channel.send(encode_part(Kind.PIECE, b"12345"))
        inbox.channel.send(encode_part(Kind.FINISH, FINISH.encode(Finish(5, bytes(32))), 1))
        self.assert_reset(FileCode.WRONG_DIGEST, inbox)
        self.assertEqual(os.listdir(self.root), ["f.part"])

    def test_an_end_without_all_chunks(self) -> None:
        """The digest is of what is there, so a client cannot pass off a gap as its file."""
        digest = blake3(b"12345").digest()
        inbox = self.raw(self.offer_file(size=5))
        self.hear(inbox, Kind.HAVE)
        inbox.channel.send(encode_part(Kind.FINISH, FINISH.encode(Finish(5, digest)), 0))
        self.assert_reset(FileCode.WRONG_DIGEST, inbox)
        for total, size, digest_ in ((2, 5, digest), (1, 4, digest), (1, 5, b"short")):
            inbox = self.raw(self.offer_file(size=5))
            self.hear(inbox, Kind.HAVE)
            finish = FINISH.encode(Finish(size, digest_))
            inbox.channel.send(encode_part(Kind.FINISH, finish, total))
            self.assert_reset(ResetCode.BAD_MESSAGE, inbox)

    def test_a_file_that_is_too_large(self) -> None:
        inbox = self.raw(self.offer_file(size=1 << 62))
        self.assert_reset(FileCode.TOO_LARGE, inbox)
        self.assertEqual(os.listdir(self.root), [])

    def test_bits_of_the_mode_that_give_rights(self) -> None:
        inbox = self.raw(self.offer_file(size=0, mode=0o7777))
        self.hear(inbox, Kind.HAVE)
        finish = FINISH.encode(Finish(0, blake3().digest()))
        inbox.channel.send(encode_part(Kind.FINISH, finish, 0))
        self.hear(inbox, Kind.DONE)
        self.assertEqual((self.root / "f").stat().st_mode & 0o7777, 0o777)

    def test_answers_to_a_get_that_cannot_be(self) -> None:
        self.make("f", BIG, self.root)
        for have in (
            Have(Verdict.SEND, 5),
            Have(Verdict.SEND, CHUNK_SIZE, bytes(33)),
            Have(Verdict.SEND, 1 << 30),
        ):
            inbox = self.raw(encode_part(Kind.GET, GET.encode(Get("f"))))
            self.hear(inbox, Kind.FILE)
            inbox.channel.send(encode_part(Kind.HAVE, HAVE.encode(have)))
            self.assert_reset(ResetCode.BAD_MESSAGE, inbox)
        inbox = self.raw(encode_part(Kind.GET, GET.encode(Get("f"))))
        self.hear(inbox, Kind.FILE)
        inbox.channel.send(encode_part(Kind.DONE, bytes(32)))
        self.assert_reset(ResetCode.BAD_MESSAGE, inbox)

    def test_a_client_that_says_no_more(self) -> None:
        """It is given up; one that says that it is alive is not."""
        self.pair = self.connect(
            settings=SessionSettings(heartbeat=1000, idle_timeout=2000), latency=0.001
        )
        self.files = self.client(self.pair)
        silent, alive = (self.raw(self.offer_file(name, size=5)) for name in "ab")
        for _ in range(int(2 * PATIENCE)):
            self.pair.advance(1)
            alive.channel.send(encode_part(Kind.ALIVE))
        self.assert_reset(ResetCode.TIMED_OUT, silent)
        self.hear(alive, Kind.HAVE)
        self.pair.run_until(lambda: self.offer.desk.operations == 1)

    def test_a_disk_that_takes_long_is_waited_for(self) -> None:
        """While the receiver is behind it does not listen, and the sender is not to blame."""
        self.pair = self.connect(
            settings=SessionSettings(heartbeat=1000, idle_timeout=2000), latency=0.001
        )
        waiting: list[Deferred[None]] = []

        def slow(call: Any) -> Deferred[Any]:
            if self.offer.desk.uploads and len(waiting) < 2:
                waiting.append(Deferred())
                return waiting[-1].addCallback(lambda _: call())
            return at_once(call)

        path = self.make("f", noise(24 << 20))
        self.offer.desk.open(self.offer.desk.folder, slow)
        sending = self.client(self.pair).send(path, "f")
        self.pair.advance(1)
        waiting[0].callback(None)
        self.pair.advance(5 * PATIENCE)
        waiting[1].callback(None)
        self.assertEqual(self.run_(sending).sent, 24 << 20)

    def test_too_many_operations(self) -> None:
        with mock.patch.object(service, "MAX_OPERATIONS", 3):
            held = [self.raw(self.offer_file(str(number), size=5)) for number in range(3)]
            for inbox in held:
                self.hear(inbox, Kind.HAVE)
            refused = self.raw()
            with self.assertRaises(ChannelReset) as caught:
                self.run_(refused.get())
            self.assertEqual(caught.exception.code, ResetCode.LIMIT_EXCEEDED)
            held[0].channel.reset()
            self.still_works()
        with mock.patch.object(service, "MAX_OPERATIONS_IN_ALL", 2):
            refused = self.raw()
            with self.assertRaises(ChannelReset):
                self.run_(refused.get())

    def test_an_end_in_the_middle(self) -> None:
        inbox = self.raw(self.offer_file(size=5))
        self.hear(inbox, Kind.HAVE)
        inbox.channel.end()
        self.pair.run_until(lambda: self.offer.desk.operations == 0)
        self.still_works()


class Wrong(ChannelProtocol):
    """A server that answers every request with the same messages."""

    answers: tuple[bytes, ...] = ()
    end = False

    def message_received(self, message: bytes) -> None:
        kind, _, _ = decode_part(message)
        if kind in (Kind.GET, Kind.LIST, Kind.FILE, Kind.FOLDER):
            for answer in self.answers:
                self.channel.send(answer)
            if self.end:
                self.channel.end()


class HostileServerTests(PlaceCase):
    def ask(self, operation: Any, *answers: bytes, end: bool = False) -> Exception:
        wrong = type("Wrong", (Wrong,), {"answers": answers, "end": end})
        from jetstreamproto.testing.pair import SessionPair
        from tests.doubles import IDENTITY, QuickClock

        pair = SessionPair({"files": wrong}, identity=IDENTITY, clock=QuickClock())
        with self.assertRaises(Exception) as caught:
            pair.run(operation(FileClient(pair.client, at_once)))
        self.assertTrue(pair.client.accepts_channels)
        return caught.exception

    def test_names_in_a_listing(self) -> None:
        for name in ("../x", "/etc/passwd", "a\x1b", "a/../../b"):
            entry = Entry(name, EntryKind.FILE, 1, 0, 0o644)
            answer = encode_part(Kind.ENTRIES, ENTRIES.encode(Entries((entry,))))
            error = self.ask(lambda client: client.list(), answer)
            self.assertIsInstance(error, FileError)

    def test_answers_that_are_none(self) -> None:
        for operation in (
            lambda client: client.list(),
            lambda client: client.make_folder("x"),
            lambda client: client.get("x", self.local / "x"),
            lambda client: client.send(self.make("f", b"x"), "x"),
        ):
            for answer in (b"", encode_part(Kind.PIECE, b"x", 7), encode_part(Kind.FILE, b"")):
                self.assertIsInstance(self.ask(operation, answer), ValueError)
            self.assertIsInstance(self.ask(operation, end=True), SessionCut)
        self.assertEqual(sorted(os.listdir(self.local)), ["f"])

    def test_a_lie_about_the_digest(self) -> None:
        have = encode_part(Kind.HAVE, HAVE.encode(Have(Verdict.SEND, CHUNK_SIZE)))
        path = self.make("f", b"")
        error = self.ask(
            lambda client: client.send(path, "x"), have, encode_part(Kind.DONE, bytes(32))
        )
        self.assertIsInstance(error, FileError)


class ClientTests(ServiceCase):
    def test_a_service_that_is_not_there(self) -> None:
        from jetstreamproto.errors import ServiceNotFound
        from jetstreamproto.testing.pair import SessionPair

        pair = SessionPair({})
        client = FileClient(pair.client, at_once)
        for asked in (client.list(), client.send(self.make("f", b"x"), "f")):
            with self.assertRaises(ServiceNotFound):
                pair.run(asked)

    def test_a_session_that_is_over(self) -> None:
        self.run_(self.pair.client.close())
        with self.assertRaises(SessionClosed):
            self.run_(self.files.list())

    def test_a_server_that_takes_small_messages_only(self) -> None:
        self.pair = self.connect(settings=SessionSettings(max_message=1 << 15))
        self.files = self.client(self.pair)
        with self.assertRaises(MessageTooLarge):
            self.run_(self.files.send(self.make("f", BIG), "f"))
        self.still_works()

    def test_files_are_closed_whatever_happens(self) -> None:
        path, descriptors = self.make("f", BIG), Path("/proc/self/fd")
        if not descriptors.exists():
            self.skipTest("needs /proc")
        self.run_(self.files.send(path, "f"))
        before = len(os.listdir(descriptors))
        self.run_(self.files.get("f", self.local / "g"))
        for _ in range(3):
            sending = self.files.send(path, "h", limit=CHUNK_SIZE)
            getting = self.files.get("f", self.local / "i", limit=CHUNK_SIZE)
            self.pair.advance(0.5)
            self.pair.cut()
            for one in (sending, getting):
                with self.assertRaises(SessionCut):
                    self.run_(one)
            self.pair = self.connect()
            self.files = self.client(self.pair)
        self.assertEqual(len(os.listdir(descriptors)), before)


class OfferTests(PlaceCase):
    def test_a_folder_that_is_none(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            FileOffer(self.home / "no", True, self._permissions)
        self.assertIn(str(self.home / "no"), str(caught.exception))
        self.assertIn("--files", str(caught.exception))

    def test_after_the_end_nothing_is_served(self) -> None:
        pair = self.connect()
        self.offer.stop()
        for asked in (self.client(pair).list(), self.client(pair).get("x", self.local / "x")):
            with self.assertRaises(ChannelReset):
                pair.run(asked)
        self.offer.stop()
