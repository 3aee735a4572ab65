"""The first piece of a file that does not wait for the answer, where the server is far away."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from blake3 import blake3
from twisted.internet.defer import Deferred

from jetstreamproto.errors import ChannelReset, WireError
from jetstreamproto.services.files.messages import (
    FILE,
    FINISH,
    HAVE,
    File,
    Finish,
    Have,
    Kind,
    decode_part,
    encode_part,
)
from jetstreamproto.services.files.model import CHUNK_SIZE, PIECE_SIZE, PIECES, Verdict
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.doubles import IDENTITY, QuickClock
from tests.unit.services.files.place import PlaceCase, noise

BIG = noise(5 * CHUNK_SIZE + 77)
RTT = 0.1


class AheadCase(PlaceCase):
    def connect(self, **options: Any) -> DatagramPair:
        services = options.pop("services", self.offer.services)
        link = options.pop("link", LinkOptions(rate=100e6, delay=RTT / 2))
        return DatagramPair(services, link=link, identity=IDENTITY, clock=QuickClock(), **options)


class SendTests(AheadCase):
    def setUp(self) -> None:
        super().setUp()
        self.pair = self.connect()
        self.files = self.client(self.pair)
        self.said: list[int] = []

    def send(self, path: str = "f", **options: Any) -> Any:
        """The result, with the kinds of what the client said in `said`."""
        self.said = []
        encode = encode_part

        def noted(kind: Kind, body: bytes | memoryview = b"", number: int = 0) -> bytes:
            self.said.append(kind)
            return encode(kind, body, number)

        module = "jetstreamproto.services.files.%s.encode_part"
        with (
            mock.patch(module % "conversation", noted),
            mock.patch(module % "reader", noted),
        ):
            return self.pair.run(self.files.send(self.local / "f", path, **options))

    def test_it_is_sent_once(self) -> None:
        self.make("f", BIG)
        done: list[int] = []
        transfer = self.send(progress=done.append)
        self.assertEqual((self.root / "f").read_bytes(), BIG)
        self.assertEqual((transfer.sent, sum(done)), (len(BIG), len(BIG)))
        self.assertEqual(transfer.digest, blake3(BIG).hexdigest())
        self.assertEqual(self.said.count(Kind.AHEAD), 1)
        self.assertEqual(self.said.count(Kind.PIECE), 5 * PIECES + 1 - 1)

    def test_only_the_first_file_of_a_session(self) -> None:
        self.make("f", BIG)
        self.send()
        self.assertEqual(self.send("g").sent, len(BIG))
        self.assertNotIn(Kind.AHEAD, self.said)

    def test_not_where_it_does_not_pay(self) -> None:
        self.make("f", BIG)
        for options in ({"dry_run": True}, {"limit": 10_000_000}):
            self.files = self.client(self.pair)
            self.send(**options)
            self.assertNotIn(Kind.AHEAD, self.said)
        self.make("f", noise(100_000))
        self.files = self.client(self.pair)
        self.send("small")
        self.assertNotIn(Kind.AHEAD, self.said)
        self.make("f", BIG)
        self.pair = self.connect(link=LinkOptions(rate=100e6, delay=0.001))
        self.files = self.client(self.pair)
        self.send("near")
        self.assertNotIn(Kind.AHEAD, self.said)

    def test_a_file_that_is_there(self) -> None:
        self.make("f", BIG)
        self.send()
        self.files = self.client(self.pair)
        self.assertEqual(self.send().verdict, Verdict.SAME)
        self.assertIn(Kind.AHEAD, self.said)
        self.pair.run(self.files.list())

    def test_a_partial(self) -> None:
        """Of what was sent before, less than a chunk is sent again, that piece included."""
        for have in (CHUNK_SIZE, 3 * CHUNK_SIZE - PIECE_SIZE, 3 * CHUNK_SIZE):
            self.make("f", BIG)
            self.make("f.part", BIG[:have], self.root)
            (self.root / "f").unlink(missing_ok=True)
            self.files = self.client(self.pair)
            transfer = self.send()
            again = transfer.sent - (len(BIG) - have) + PIECE_SIZE
            self.assertLessEqual(again, CHUNK_SIZE)
            self.assertEqual((self.root / "f").read_bytes(), BIG)

    def test_it_saves_a_round_trip(self) -> None:
        self.make("f", BIG)
        times = []
        for ahead in (False, True):
            pair = self.connect()
            files = self.client(pair)
            files._sends_ahead = files._sends_ahead and ahead
            since = pair.clock.seconds()
            pair.run(files.send(self.local / "f", f"f{ahead}"))
            times.append(pair.clock.seconds() - since)
        self.assertGreater(times[0] - times[1], 0.9 * RTT)

    def test_whatever_is_lost(self) -> None:
        self.make("f", BIG)
        for seed in range(12):
            with self.subTest(seed=seed):
                link = LinkOptions(rate=100e6, delay=RTT / 2, loss=0.2)
                pair = self.connect(link=link, seed=seed)
                transfer = pair.run(self.client(pair).send(self.local / "f", f"f{seed}"))
                self.assertEqual(transfer.sent, len(BIG))
                self.assertEqual((self.root / f"f{seed}").read_bytes(), BIG)


class HostileTests(AheadCase):
    def setUp(self) -> None:
        super().setUp()
        self.pair = self.connect(link=LinkOptions())

    def raw(self, *messages: bytes) -> Inbox:
        inbox: Inbox = self.pair.run(self.pair.client.open("files"))
        for message in messages:
            inbox.channel.send(message)
        return inbox

    def offered(self, **fields: Any) -> bytes:
        fields = {"size": 3 * PIECE_SIZE, "ahead": True} | fields
        return encode_part(Kind.FILE, FILE.encode(File("f", **fields)))

    def hear(self, inbox: Inbox) -> Have:
        kind, _, body = decode_part(self.pair.run(inbox.get()))
        self.assertEqual(kind, Kind.HAVE)
        have: Have = HAVE.decode(body)
        return have

    def refused(self, *messages: bytes) -> None:
        (self.root / "f.part").unlink(missing_ok=True)
        inbox = self.raw(*messages)
        with self.assertRaises(ChannelReset) as caught:
            while True:
                self.pair.run(inbox.get())
        self.assertEqual(caught.exception.code, ResetCode.BAD_MESSAGE, caught.exception)
        self.pair.run(self.client(self.pair).list())

    def test_in_any_order(self) -> None:
        data = noise(3 * PIECE_SIZE)
        first = encode_part(Kind.AHEAD, data[:PIECE_SIZE])
        rest = [
            encode_part(Kind.PIECE, data[PIECE_SIZE : 2 * PIECE_SIZE], 1),
            encode_part(Kind.PIECE, data[2 * PIECE_SIZE :], 2),
            encode_part(Kind.FINISH, FINISH.encode(Finish(len(data), blake3(data).digest())), 3),
        ]
        for before, after in (
            ([first, self.offered()], rest),
            ([self.offered(), first], rest),
            ([self.offered()], [first, *rest]),
            ([self.offered()], [*rest, first]),
        ):
            inbox = self.raw(*before)
            self.assertTrue(self.hear(inbox).ahead)
            for message in after:
                inbox.channel.send(message)
            kind, _, digest = decode_part(self.pair.run(inbox.get()))
            self.assertEqual((kind, bytes(digest)), (Kind.DONE, blake3(data).digest()))
            self.assertEqual((self.root / "f").read_bytes(), data)
            (self.root / "f").unlink()

    def test_what_cannot_be(self) -> None:
        first = encode_part(Kind.AHEAD, bytes(PIECE_SIZE))
        self.refused(self.offered(ahead=False), first)
        self.refused(first, self.offered(ahead=False))
        self.refused(self.offered(), first, first)
        self.refused(first, first)
        self.refused(self.offered(), encode_part(Kind.AHEAD, bytes(PIECE_SIZE - 1)))
        self.refused(encode_part(Kind.AHEAD, b""), self.offered())
        self.refused(self.offered(size=PIECE_SIZE - 1), first)
        self.refused(self.offered(), first, encode_part(Kind.PIECE, bytes(PIECE_SIZE), 0))

    def test_an_answer_that_cannot_be(self) -> None:
        """Nobody can have taken what was not sent, or what they say they had already."""
        self.make("f", BIG)
        size = CHUNK_SIZE
        for far, have in (
            (False, Have(Verdict.SEND, size, ahead=True)),
            (True, Have(Verdict.SEND, size, bytes(32), ahead=True)),
            (True, Have(Verdict.SEND, 2 * size, ahead=True)),
        ):
            answer = encode_part(Kind.HAVE, HAVE.encode(have))

            class Lying(ChannelProtocol):
                def message_received(self, message: bytes, answer: bytes = answer) -> None:
                    if decode_part(message)[0] == Kind.FILE:
                        self.channel.send(answer)

            link = LinkOptions(delay=RTT / 2 if far else 0.0)
            pair = self.connect(services={"files": Lying}, link=link)
            with self.assertRaises(WireError):
                pair.run(self.client(pair).send(self.local / "f", "f"))

    def test_a_channel_that_ends_before_there_is_a_place(self) -> None:
        waiting: list[Deferred[Any]] = []

        def worker(call: Any) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1].addCallback(lambda _: call())

        with mock.patch.object(self.offer.desk, "_worker", worker):
            inbox = self.raw(self.offered(), encode_part(Kind.AHEAD, bytes(PIECE_SIZE)))
            self.pair.advance(1)
            inbox.channel.reset(7, "enough")
            self.pair.advance(1)
            while waiting:
                waiting.pop(0).callback(None)
                self.pair.advance(0.1)
        self.assertEqual(os.listdir(self.root), ["f.part"])
        self.pair.run(self.client(self.pair).list())
