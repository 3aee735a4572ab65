"""Channels whose messages do not wait for each other."""

from __future__ import annotations

import gc
import random
import tracemalloc
from typing import Any

from jetstreamproto.errors import MessageTooLarge
from jetstreamproto.session.assembly import FRAGMENT_COST, MAX_GAPS, MESSAGE_COST
from jetstreamproto.session.codes import MIN_WINDOW, ResetCode
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.compression import compress
from jetstreamproto.wire.packet import Flag, Kind
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import HONEST, KIB, MIB, RawPeer, Recorder, cost, noise, windows
from tests.shuffling import ShufflingPair
from tests.unit.session.test_hostile_peer import HostileCase

MORE = Flag.MORE


class UnorderedCase(HostileCase):
    mode = Mode.UNORDERED
    deadline_ms = 0

    def opened(self, **options: Any) -> tuple[RawPeer, Recorder]:
        peer = self.peer(streams=True, **options)
        peer.open(1, mode=self.mode, deadline_ms=self.deadline_ms)
        return peer, self.service.made[-1]

    def check_reset(self, peer: RawPeer, code: int) -> None:
        """Only the channel is lost, and nothing of it is left."""
        peer.settle()
        (reset,) = peer.sent(Kind.RESET)
        self.assertEqual(reset.code, code, reset.payload)
        self.assertEqual(peer.session.channels, ())
        self.check_nothing_kept(peer)
        self.check_alive(peer)

    def check_nothing_kept(self, peer: RawPeer) -> None:
        intake = peer.session.intake
        self.assertEqual((intake._assembled, intake._held), (0, 0))
        self.assertEqual(intake.credit._received, intake.credit._consumed)


class OrderTests(UnorderedCase):
    def test_every_message_is_delivered_when_it_is_whole(self) -> None:
        peer, mine = self.opened()
        peer.data(1, 4, b"five")
        peer.data(1, 0, b"one")
        peer.data(1, 3, b"r", code=2)
        peer.data(1, 1, b"fo", MORE, code=0)
        self.assertEqual(mine.messages, [b"five", b"one"])
        peer.data(1, 2, b"u", MORE, code=1)
        self.assertEqual(mine.messages[2:], [b"four"])
        self.check_nothing_kept(peer)

    def test_the_end_waits_for_what_is_missing(self) -> None:
        peer, mine = self.opened()
        peer.data(1, 2, b"c")
        peer.control(Kind.END, 1, seq=3)
        peer.data(1, 0, b"a")
        self.assertNotIn("end", mine.events)
        peer.data(1, 1, b"b")
        self.assertEqual(mine.events, ["opened", "message", "message", "message", "end"])
        mine.channel.end()
        self.assertEqual(mine.events[-1], "closed")
        self.assertIsNone(mine.reason)

    def test_an_end_without_data(self) -> None:
        peer, mine = self.opened()
        peer.control(Kind.END, 1)
        self.assertEqual(mine.events, ["opened", "end"])

    def test_an_end_while_paused(self) -> None:
        peer, mine = self.opened()
        mine.channel.pauseProducing()
        peer.data(1, 1, b"b")
        peer.control(Kind.END, 1, seq=2)
        peer.data(1, 0, b"a")
        self.assertEqual(mine.events, ["opened"])
        mine.channel.resumeProducing()
        self.assertEqual(mine.messages, [b"b", b"a"])
        self.assertEqual(mine.events[-1], "end")
        self.check_nothing_kept(peer)

    def test_random_orders_of_random_fragments(self) -> None:
        for seed in range(60):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                peer, mine = self.opened()
                packets: list[tuple[int, bytes, int, int]] = []
                messages = []
                for _ in range(chance.randrange(1, 60)):
                    pieces = [
                        chance.randbytes(chance.choice((0, 1, 50)))
                        for _ in range(chance.choice((1, 1, 2, 3, 9)))
                    ]
                    messages.append(b"".join(pieces))
                    for index, piece in enumerate(pieces):
                        flags = MORE if index < len(pieces) - 1 else 0
                        packets.append((len(packets), piece, flags, index))
                chance.shuffle(packets)
                ended = chance.randrange(len(packets) + 1)
                for number, packet in enumerate(packets):
                    if number == ended:
                        peer.control(Kind.END, 1, seq=len(packets))
                    if chance.random() < 0.1:
                        mine.channel.pauseProducing()
                    if chance.random() < 0.2:
                        mine.channel.resumeProducing()
                    peer.data(1, *packet)
                if ended == len(packets):
                    peer.control(Kind.END, 1, seq=len(packets))
                mine.channel.resumeProducing()
                self.assertEqual(sorted(mine.messages), sorted(messages))
                self.assertEqual(mine.events[-1], "end")
                self.check_nothing_kept(peer)

    def test_compressed_fragments(self) -> None:
        peer, mine = self.opened()
        block = compress(bytes(64 * KIB))
        assert block is not None
        peer.data(1, 1, block, Flag.LZ4, code=1)
        peer.data(1, 0, block, MORE | Flag.LZ4)
        self.assertEqual(mine.messages, [bytes(128 * KIB)])

    def test_on_one_stream_it_is_the_same(self) -> None:
        peer = RawPeer({"record": self.service})
        peer.open(1, mode=Mode.UNORDERED)
        peer.data(1, 0, b"a", MORE)
        peer.data(1, 1, b"b", code=1)
        peer.control(Kind.END, 1, seq=2)
        self.assertEqual(self.service.made[0].messages, [b"ab"])
        self.assertEqual(self.service.made[0].events[-1], "end")


class SenderTests(UnorderedCase):
    def test_fragments_say_their_index_in_the_message(self) -> None:
        for mode, indices in ((Mode.UNORDERED, [0, 1, 2]), (Mode.ORDERED, [0, 0, 0])):
            peer = self.peer(streams=True)
            peer.open(1, mode=mode)
            mine = self.service.made[-1].channel
            for message in (noise(150_000), b"x", noise(150_000), b""):
                mine.send(message)
            mine.end()
            peer.settle()
            sent = peer.sent(Kind.DATA, 1)
            self.assertEqual([one.code for one in sent], [*indices, 0, *indices, 0])
            self.assertEqual([one.seq for one in sent], list(range(8)))
            self.assertEqual([one.flags & MORE for one in sent], [1, 1, 0, 0, 1, 1, 0, 0])
            self.assertEqual(peer.sent(Kind.END, 1)[0].seq, 8)

    def test_fragments_that_the_credit_cut(self) -> None:
        hello = HONEST._replace(channel_window=MIN_WINDOW)
        peer = self.peer(streams=True, hello=hello)
        peer.open(1, mode=Mode.UNORDERED)
        message = noise(300_000)
        self.service.made[-1].channel.send(message)
        limit = MIN_WINDOW
        while len(peer.sent(Kind.DATA)) < 100 and self.service.made[-1].channel.queued:
            peer.settle()
            limit += 10_000
            peer.control(Kind.CREDIT, 1, seq=limit)
        peer.settle()
        sent = peer.sent(Kind.DATA)
        self.assertEqual([one.code for one in sent], list(range(len(sent))))
        self.assertTrue(b"".join(one.payload for one in sent) == message)

    def test_a_message_of_more_fragments_than_can_be_numbered(self) -> None:
        hello = HONEST._replace(max_message=(1 << 32) - 1)
        peer = self.peer(streams=True, hello=hello, settings=SessionSettings(send_limit=1 << 30))
        peer.open(1, mode=Mode.UNORDERED)
        peer.open(3)
        unordered, ordered = (made.channel for made in self.service.made)
        with self.assertRaises(MessageTooLarge):
            unordered.send(bytes((64 * MIB) + 1))
        unordered.send(bytes(64 * MIB))
        ordered.send(bytes((64 * MIB) + 1))


class HostileTests(UnorderedCase):
    def test_combinations_that_cannot_be(self) -> None:
        for packets in (
            ((0, 0, 1),),  # fragment 1 of a message that began before the first packet
            ((5, 0, 6),),
            ((5, MORE, 0), (5, MORE, 0)),  # twice
            ((5, 0, 0), (5, 0, 0)),
            ((5, 0, 0), (5, MORE, 0)),
            ((5, 0, 2), (4, 0, 1)),  # two ends
            ((5, 0, 1), (5, MORE, 1)),  # an end that goes on
            ((5, MORE, 1), (4, 0, 0)),  # an end before another fragment
            ((5, 0, 1), (6, MORE, 2)),  # goes on after its end
            ((5, 0, 1), (6, 0, 2)),
            ((5, 0, 0), (4, MORE, 0)),  # would go on in another message
            ((5, 0, 0), (6, 0, 2)),  # spans another message
        ):
            with self.subTest(packets=packets):
                peer, mine = self.opened()
                for seq, flags, code in packets:
                    peer.data(1, seq, b"x", flags, code)
                self.check_reset(peer, ResetCode.PROTOCOL_ERROR)
                self.assertLessEqual(len(mine.messages), 1)

    def test_a_packet_that_came_twice_while_paused(self) -> None:
        peer, mine = self.opened()
        mine.channel.pauseProducing()
        peer.data(1, 0, b"x")
        peer.data(1, 0, b"x")
        peer.control(Kind.END, 1, seq=2)
        mine.channel.resumeProducing()
        self.assertEqual(mine.messages, [b"x"])
        self.check_reset(peer, ResetCode.PROTOCOL_ERROR)

    def test_an_end_within_a_message(self) -> None:
        for packets, count in (
            (((0, MORE, 0),), 1),
            (((1, 0, 1), (0, 0, 0)), 2),
        ):
            peer, _ = self.opened()
            for seq, flags, code in packets:
                peer.data(1, seq, b"x", flags, code)
            peer.control(Kind.END, 1, seq=count)
            peer.settle()
            self.assertIn(
                peer.sent(Kind.RESET)[0].code, (ResetCode.BAD_MESSAGE, ResetCode.PROTOCOL_ERROR)
            )

    def test_ends_that_contradict_the_packets(self) -> None:
        for seqs, count in (((3,), 3), ((3,), 0), ((0, 0), 1)):
            with self.subTest(seqs=seqs, count=count):
                peer, mine = self.opened()
                mine.channel.pauseProducing()
                for seq in seqs:
                    peer.data(1, seq)
                peer.control(Kind.END, 1, seq=count)
                self.check_violated(peer)

    def test_data_and_ends_after_the_end(self) -> None:
        for paused in (False, True):
            for kind, seq in ((Kind.DATA, 2), (Kind.DATA, 2**64 - 1), (Kind.END, 2)):
                peer, mine = self.opened()
                if paused:
                    mine.channel.pauseProducing()
                peer.data(1, 1)
                peer.control(Kind.END, 1, seq=2)
                peer.control(kind, 1, seq=seq)
                self.check_violated(peer)
            peer, mine = self.opened()
            if paused:
                mine.channel.pauseProducing()
            peer.data(1, 0)
            peer.control(Kind.END, 1, seq=1)
            peer.data(1, 0)
            self.check_violated(peer)

    def test_what_cannot_be_given_up(self) -> None:
        for mode in (Mode.ORDERED, Mode.UNORDERED):
            peer = self.peer(streams=True)
            peer.open(1, mode=mode)
            peer.dropped(1, 0, 10)
            self.check_violated(peer, "given up")

    def test_more_than_the_credit(self) -> None:
        peer, mine = self.opened(settings=windows(MIN_WINDOW, 4 * MIN_WINDOW))
        mine.channel.pauseProducing()
        for seq in range(10, 12):
            peer.data(1, seq, bytes(64 * KIB))
        self.assertTrue(peer.link.open)
        peer.data(1, 5)
        self.check_violated(peer, "credit")

    def test_messages_that_are_too_large(self) -> None:
        settings = SessionSettings(max_message=100_000)
        for order in ((0, 1), (1, 0)):
            peer, _ = self.opened(settings=settings)
            for index in order:
                peer.data(1, index, bytes(60_000), 0 if index else MORE, index)
            self.check_reset(peer, ResetCode.MESSAGE_TOO_LARGE)
        peer, _ = self.opened(settings=SessionSettings(max_message=1000))
        peer.data(1, 0, bytes(1001))
        self.check_reset(peer, ResetCode.MESSAGE_TOO_LARGE)

    def test_bad_blocks(self) -> None:
        for settings in (SessionSettings(), SessionSettings(compression=None)):
            peer, _ = self.opened(settings=settings)
            peer.data(1, 7, b"\xff" * 10, Flag.LZ4)
            self.check_reset(peer, ResetCode.BAD_MESSAGE)

    def test_unfinished_messages_are_bounded(self) -> None:
        settings = SessionSettings(max_message=MIB, max_assembly=MIB)
        for size in (0, 1000):
            peer, _ = self.opened(settings=settings)
            most = MIB // (MESSAGE_COST + FRAGMENT_COST + size)
            for number in range(most):
                peer.data(1, 2 * number, bytes(size), MORE)
                if not peer.session.channels:
                    break
            self.assertGreater(number, most // 2)
            for number in range(most, 2 * most):
                peer.data(1, 2 * number, bytes(size), MORE)
            self.check_reset(peer, ResetCode.LIMIT_EXCEEDED)

    def test_missing_packets_are_bounded(self) -> None:
        peer, _ = self.opened()
        for number in range(MAX_GAPS + 1):
            peer.data(1, 2 * number)
        self.assertTrue(peer.session.channels)
        peer.data(1, 2**64 - 1)
        self.check_reset(peer, ResetCode.LIMIT_EXCEEDED)

    def test_what_a_hostile_peer_makes_us_keep(self) -> None:
        settings = SessionSettings(max_message=MIB, max_assembly=MIB, max_channels=2000)
        peer = self.peer(streams=True, settings=settings)
        tracemalloc.start()
        try:
            for number in range(1, 41, 2):
                peer.open(number, mode=self.mode, deadline_ms=self.deadline_ms)
            before = tracemalloc.get_traced_memory()[0]
            for seq in range(2, 20_000, 3):
                for number in range(1, 41, 2):
                    if seq % 2:
                        peer.data(number, seq)
                    else:
                        peer.data(number, seq, b"", MORE, code=1)
            peer.link.sent.clear()
            gc.collect()  # what nobody keeps does not count
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.assertLess(grown, 2.5 * MIB)
        self.assertTrue(peer.link.open)


class ShufflingTests(UnorderedCase):
    def test_reset_in_the_midst_of_it_leaves_the_credit_whole(self) -> None:
        for seed in range(20):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                pair = ShufflingPair({"record": Recorder}, seed=seed)
                for _ in range(10):
                    mine = Recorder(stay=True)
                    pair.run(pair.client.open("record", mine, mode=Mode.UNORDERED))
                    for number in range(30):
                        mine.channel.send(noise(chance.choice((0, 100, 70_000)), number))
                    pair.advance(chance.random() * 0.03)
                    chance.choice((mine.channel, *(one for one in pair.server.channels))).reset()
                    pair.advance(1)
                credit = pair.server.intake.credit
                self.assertEqual(credit._received, credit._consumed)
                self.assertEqual(pair.server.intake._assembled, 0)
                used = pair.client.outbox.credit.limit - pair.client.outbox.credit.available
                self.assertEqual(used, credit._received)

    def test_the_cost_of_a_fragment_is_its_own(self) -> None:
        peer, _ = self.opened()
        peer.data(1, 3, b"abc", MORE, 1)
        self.assertEqual(peer.session.intake.credit._consumed, cost(3))
