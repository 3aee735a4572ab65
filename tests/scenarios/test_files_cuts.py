"""Transfers that are cut anywhere, and the same command again: no chunk is sent twice but one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from unittest import mock

from jetstreamproto.errors import SessionCut
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.services.files.asking import Transfer
from jetstreamproto.services.files.conversation import Conversation
from jetstreamproto.services.files.model import CHUNK_SIZE, PIECES, Verdict
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.doubles import IDENTITY, QuickClock
from tests.unit.services.files.place import PlaceCase, noise

CONTENT = noise(6 * CHUNK_SIZE + 1000)
UP, DOWN = "up", "down"


def chunk_of(data: bytes, number: int) -> bytes:
    return data[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE]


def size_of(number: int) -> int:
    return len(chunk_of(CONTENT, number))


class _Counted:
    """Counts the messages of all operations, of both sides, and cuts the link after so many."""

    def __init__(self, pair: Any, cut_after: int | None) -> None:
        self.pair = pair
        self.left = cut_after
        self.seen = 0

    def __enter__(self) -> _Counted:
        received = Conversation.message_received

        def message_received(conversation: Conversation, message: bytes) -> None:
            received(conversation, message)
            self.seen += 1
            if self.seen == self.left:
                self.pair.clock.callLater(0, self.pair.cut)

        self._patch = mock.patch.object(Conversation, "message_received", message_received)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


class CutTests(PlaceCase):
    """Over TCP: in order, so at most one chunk is on its way in part."""

    def setUp(self) -> None:
        super().setUp()
        self.make("f", CONTENT)
        self.make("g", CONTENT, self.root)

    def transfer(self, pair: Any, direction: str) -> Transfer:
        client = self.client(pair)
        if direction == UP:
            return pair.run(client.send(self.local / "f", "g"))
        return pair.run(client.get("g", self.local / "f"))

    def arrived(self, direction: str) -> Any:
        return self.root / "g" if direction == UP else self.local / "f"

    def forget(self, direction: str) -> None:
        self.arrived(direction).unlink(missing_ok=True)

    def test_after_every_message(self) -> None:
        for direction in (UP, DOWN):
            self.forget(direction)
            with _Counted(self.connect(), None) as counted:
                self.transfer(counted.pair, direction)
            self.assertGreater(counted.seen, 9)
            for number in range(1, counted.seen + 1):
                with self.subTest(direction=direction, cut_after=number):
                    self.forget(direction)
                    self.cut_after(number, direction)

    def cut_after(self, number: int, direction: str) -> None:
        with suppress(SessionCut), _Counted(self.connect(), number) as counted:
            self.transfer(counted.pair, direction)
        arrived = self.arrived(direction)
        partial = arrived.with_name(arrived.name + ".part")
        have = partial.stat().st_size // CHUNK_SIZE * CHUNK_SIZE if partial.exists() else 0
        again = self.transfer(self.connect(), direction)
        if again.verdict is not Verdict.SAME:
            self.assertEqual(again.sent, len(CONTENT) - have)
        self.assertEqual(arrived.read_bytes(), CONTENT)
        self.assertFalse(partial.exists())

    def test_after_every_packet(self) -> None:
        """Bytes are counted, so that most cuts are within a message."""
        self.forget(UP)
        pair = self.connect()
        before = pair.client_transport.sent
        self.transfer(pair, UP)
        whole = pair.client_transport.sent - before
        for at in range(0, whole, 70_001):
            with self.subTest(cut_after=at):
                self.forget(UP)
                pair = self.connect(latency=0.001, chop=16384)
                client = self.client(pair)
                start = pair.client_transport.sent
                sending = client.send(self.local / "f", "g")
                sending.addErrback(lambda failure: failure.trap(SessionCut))
                self.run_to(pair, start + at)
                pair.advance(0.0005)
                pair.cut()
                partial = self.root / "g.part"
                have = partial.stat().st_size if partial.exists() else 0
                self.assertIn(have % (CHUNK_SIZE // PIECES), (0, len(CONTENT) % CHUNK_SIZE))
                if have < len(CONTENT):
                    have -= have % CHUNK_SIZE
                again = self.transfer(self.connect(), UP)
                if again.verdict is not Verdict.SAME:
                    self.assertEqual(again.sent, len(CONTENT) - have)
                self.assertEqual((self.root / "g").read_bytes(), CONTENT)

    def run_to(self, pair: Any, sent: int) -> None:
        """Until the client has sent so many bytes."""
        pair.run_until(lambda: pair.client_transport.sent >= sent)

    def test_a_source_that_is_another_by_then(self) -> None:
        self.forget(UP)
        with self.assertRaises(SessionCut), _Counted(self.connect(), 5) as counted:
            self.transfer(counted.pair, UP)
        other = noise(len(CONTENT) - 50_000, 7)
        self.make("f", other)
        self.assertEqual(self.transfer(self.connect(), UP).sent, len(other))
        self.assertEqual((self.root / "g").read_bytes(), other)


class DatagramCutTests(PlaceCase):
    """Over UDP, where chunks come in any order: what was written is not sent again."""

    link = LinkOptions(delay=0.01, jitter=0.002, loss=0.05)
    transport = "udp"

    def connect(self, **options: Any) -> DatagramPair:
        return DatagramPair(
            self.offer.services,
            link=self.link,
            transport=self.transport,
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=DatagramSettings(mtu=1452),
            **options,
        )

    def test_a_link_that_is_lost_again_and_again(self) -> None:
        path, partial = self.make("f", CONTENT), self.root / "f.part"
        held, cuts, transfer = 0, 0, None
        for seed in range(1, 40):
            pair = self.connect(seed=seed)
            outcome: list[Any] = []
            self.client(pair).send(path, "f").addBoth(outcome.append)
            pair.advance(0.1 + 0.01 * seed)
            if outcome:
                (transfer,) = outcome
                break
            pair.client.abort()  # the server hears of it, or of the next client
            pair.advance(0.1)
            if (self.root / "f").exists():  # all but the client's knowledge of it
                transfer = self.again(path)
                break
            now = self.held(partial)
            self.assertGreaterEqual(now, held, f"seed {seed}")
            held, cuts = now, cuts + 1
        assert isinstance(transfer, Transfer), transfer
        self.assertGreater(cuts, 1)
        missing = [at for at in range(7) if not self.had >> at & 1]
        if transfer.verdict is Verdict.SEND:
            self.assertEqual(transfer.sent, sum(map(size_of, missing)))
        self.assertEqual((self.root / "f").read_bytes(), CONTENT)

    def again(self, path: Any) -> Transfer:
        pair = self.connect(seed=99)
        return pair.run(self.client(pair).send(path, "f"))

    def held(self, partial: Any) -> int:
        """How many chunks of the file are there, whole; which ones is in `had`, as bits."""
        data = partial.read_bytes() if partial.exists() else b""
        whole = [chunk_of(data, number) == chunk_of(CONTENT, number) for number in range(7)]
        self.had = sum(1 << number for number in range(7) if whole[number])
        return sum(whole)
