"""Channels whose messages may be given up when their time is over."""

from __future__ import annotations

import random
from typing import Any

from jetstreamproto.session.assembly import MESSAGE_COST
from jetstreamproto.session.codes import MAX_FRAGMENT, MIN_WINDOW, ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.packet import Flag, Kind
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import KIB, RawPeer, Recorder, cost, noise, windows
from tests.shuffling import ShufflingPair
from tests.unit.session.test_unordered import HostileTests as UnorderedHostileTests
from tests.unit.session.test_unordered import OrderTests as UnorderedOrderTests
from tests.unit.session.test_unordered import UnorderedCase

MORE = Flag.MORE


class ExpiringCase(UnorderedCase):
    mode = Mode.EXPIRING
    deadline_ms = 100


class AsUnorderedTests(ExpiringCase, UnorderedOrderTests):
    """What does not expire comes as on an unordered channel."""


class DroppedTests(ExpiringCase):
    def test_a_message_that_was_given_up_is_counted_and_its_credit_comes_back(self) -> None:
        peer, mine = self.opened()
        peer.dropped(1, 1, 5000)
        peer.data(1, 0, b"a")
        self.assertEqual((mine.channel.expired, mine.expired), (1, 1))
        self.assertEqual(mine.messages, [b"a"])
        self.assertEqual(peer.session.intake.credit._consumed, cost(5000) + cost(1))
        self.check_nothing_kept(peer)

    def test_fragments_of_a_message_go_with_any_one(self) -> None:
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)):
            for lost in range(3):
                with self.subTest(order=order, lost=lost):
                    peer, mine = self.opened()
                    for index in order:
                        if index == lost:
                            peer.dropped(1, 7 + index, 10)
                        else:
                            peer.data(1, 7 + index, b"x", 0 if index == 2 else MORE, index)
                    self.assertEqual(mine.channel.expired, 1)
                    self.assertEqual(mine.messages, [])
                    self.assertEqual(peer.session.intake._assembled, MESSAGE_COST)
                    for seq in range(7):
                        peer.data(1, seq, b"y")
                    peer.control(Kind.END, 1, seq=10)
                    self.assertEqual(len(mine.messages), 7)
                    self.assertEqual(mine.events[-1], "end")
                    mine.channel.end()
                    self.check_nothing_kept(peer)
                    self.assertIsNone(mine.reason)

    def test_two_fragments_of_one_message_count_once_where_that_is_known(self) -> None:
        peer, mine = self.opened()
        peer.data(1, 3, b"d", 0, 3)
        for seq in (0, 1, 2):
            peer.dropped(1, seq, 10)
        self.assertEqual(mine.channel.expired, 1)

    def test_the_end_waits_for_what_was_given_up_too(self) -> None:
        peer, mine = self.opened()
        peer.control(Kind.END, 1, seq=2)
        peer.data(1, 0, b"a")
        self.assertNotIn("end", mine.events)
        peer.dropped(1, 1, 0)
        self.assertEqual(mine.events, ["opened", "message", "expired", "end"])

    def test_while_paused(self) -> None:
        peer, mine = self.opened(settings=windows(MIN_WINDOW, 2 * MIN_WINDOW))
        mine.channel.pauseProducing()
        peer.data(1, 0, b"a")
        peer.dropped(1, 1, MAX_FRAGMENT)
        self.assertEqual(mine.events, ["opened"])
        mine.channel.resumeProducing()
        self.assertEqual(mine.events, ["opened", "message", "expired"])
        self.check_nothing_kept(peer)

    def test_protocols_need_not_care(self) -> None:
        peer = RawPeer({"plain": ChannelProtocol}, streams=True)
        peer.open(1, "plain", mode=Mode.EXPIRING)
        peer.dropped(1, 0, 10)
        self.assertEqual(peer.session.channels[0].expired, 1)

    def test_a_failing_application_loses_its_channel(self) -> None:
        class Failing(Recorder):
            def messages_expired(self, count: int) -> None:
                raise ValueError("too late")

        peer = RawPeer({"failing": Failing}, streams=True)
        peer.open(1, "failing", mode=Mode.EXPIRING)
        peer.dropped(1, 0, 10)
        self.flushLoggedErrors(ValueError)
        self.check_reset(peer, ResetCode.INTERNAL_ERROR)

    def test_on_one_stream_it_may_be_said_as_well(self) -> None:
        peer = RawPeer({"record": self.service})
        peer.open(1, mode=Mode.EXPIRING, deadline_ms=5)
        peer.dropped(1, 0, 10)
        self.assertEqual(self.service.made[0].expired, 1)


class HostileTests(ExpiringCase):
    def test_sizes_that_cannot_be(self) -> None:
        for payload in (b"", b"\0\0\0", bytes(5), (MAX_FRAGMENT + 1).to_bytes(4, "little")):
            for channel in (1, 3):
                peer, _ = self.opened()
                peer.open(3)
                self.service.made[-1].channel.reset()
                peer.data(channel, 0, payload, Flag.DROPPED)
                self.check_violated(peer, "size")

    def test_more_than_the_credit(self) -> None:
        for windowed in (windows(MIN_WINDOW, 4 * MIN_WINDOW), windows(4 * MIN_WINDOW, MIN_WINDOW)):
            peer, mine = self.opened(settings=windowed)
            mine.channel.pauseProducing()
            for seq in range(2 if windowed.channel_window == MIN_WINDOW else 8):
                if peer.link.open:
                    peer.dropped(1, seq, MAX_FRAGMENT)
            peer.dropped(1, 9, 0)
            self.check_violated(peer, "credit")

    def test_twice_and_after_the_end(self) -> None:
        peer, mine = self.opened()
        peer.dropped(1, 0, 10)
        peer.dropped(1, 0, 10)
        self.check_reset(peer, ResetCode.PROTOCOL_ERROR)
        peer, mine = self.opened()
        peer.control(Kind.END, 1, seq=1)
        peer.dropped(1, 1, 10)
        self.check_violated(peer)
        self.assertEqual(mine.messages, [])

    def test_on_a_channel_that_never_was(self) -> None:
        peer, _ = self.opened()
        peer.dropped(3, 0, 10)
        self.check_violated(peer, "3")

    def test_lost_messages_are_forgotten_in_time(self) -> None:
        settings = SessionSettings(max_message=KIB, max_assembly=100 * KIB)
        peer, mine = self.opened(settings=settings)
        for number in range(2000):
            peer.data(1, 3 * number, b"x", MORE)
            peer.dropped(1, 3 * number + 1, 10)
            peer.data(1, 3 * number + 2, b"x", 0, 2)
        self.assertEqual(mine.channel.expired, 2000)
        self.assertTrue(peer.session.channels)
        self.assertLess(peer.session.intake._assembled, 70 * MESSAGE_COST)
        mine.channel.reset()
        self.check_nothing_kept(peer)


class HostileAsUnorderedTests(ExpiringCase, UnorderedHostileTests):
    """Bounds hold as on an unordered channel."""

    def test_combinations_that_cannot_be(self) -> None:
        """Some could be, where packets may have been given up: memory is what matters."""
        for packets in (
            ((0, 0, 1),),
            ((5, MORE, 0), (5, MORE, 0)),
            ((5, 0, 0), (5, 0, 0)),
            ((5, 0, 2), (4, 0, 1)),
            ((5, MORE, 1), (4, 0, 0)),
            ((5, 0, 1), (6, 0, 2)),
        ):
            with self.subTest(packets=packets):
                peer, _ = self.opened()
                for seq, flags, code in packets:
                    peer.data(1, seq, b"x", flags, code)
                self.check_reset(peer, ResetCode.PROTOCOL_ERROR)


class RandomTests(ExpiringCase):
    def test_random_losses_in_random_orders(self) -> None:
        for seed in range(100):
            with self.subTest(seed=seed):
                self.play(random.Random(seed))

    def play(self, chance: random.Random) -> None:
        peer, mine = self.opened()
        share = chance.choice((0.0, 0.1, 0.5, 0.9))
        packets: list[Any] = []
        whole, lost, given_up = [], 0, 0
        for number in range(chance.randrange(1, 80)):
            count = chance.choice((1, 1, 2, 3, 9))
            start = len(packets)
            pieces = [b"%d-%d." % (number, index) for index in range(count)]
            for index, piece in enumerate(pieces):
                if chance.random() < share:
                    packets.append((start + index,))
                else:
                    flags = MORE if index < count - 1 else 0
                    packets.append((start + index, piece, flags, index))
            drops = sum(len(packet) == 1 for packet in packets[start:])
            if drops:
                lost += 1
                given_up += drops
            else:
                whole.append(b"".join(pieces))
        if chance.random() < 0.8:
            chance.shuffle(packets)
        for packet in packets:
            if len(packet) == 1:
                peer.dropped(1, *packet, 3)
            else:
                peer.data(1, *packet)
        self.assertFalse(mine.channel.delivery.unfinished)
        peer.control(Kind.END, 1, seq=len(packets))
        self.assertEqual(sorted(mine.messages), sorted(whole))
        self.assertGreaterEqual(mine.channel.expired, lost)
        self.assertLessEqual(mine.channel.expired, given_up)
        self.assertEqual(mine.events[-1], "end")
        mine.channel.end()
        self.check_nothing_kept(peer)

    def test_over_links_that_shuffle(self) -> None:
        for seed in range(30):
            with self.subTest(seed=seed):
                chance = random.Random(seed)
                pair = ShufflingPair({"record": self.service}, seed=seed, expiring=0.3)
                mine = Recorder(stay=True)
                pair.run(pair.client.open("record", mine, mode=Mode.EXPIRING, deadline=1.0))
                theirs = self.service.made[-1]
                sent = [noise(chance.choice((10, 100, 200_000)), n) for n in range(50)]
                for message in sent:
                    mine.channel.send(message)
                mine.channel.end()
                pair.run_until(lambda theirs=theirs: "end" in theirs.events)
                self.assertLessEqual(set(theirs.messages), set(sent))
                self.assertGreaterEqual(theirs.expired, len(sent) - len(theirs.messages))
                theirs.channel.end()
                pair.advance(1)
                credit = pair.server.intake.credit
                self.assertEqual(credit._received, credit._consumed)
                self.assertEqual(pair.server.intake._assembled, 0)
