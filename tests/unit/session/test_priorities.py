"""Who sends next: urgency first, turns within one urgency, and nothing large delays the small."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.session.codes import MAX_FRAGMENT
from jetstreamproto.wire.packet import Flag, Kind
from tests.doubles import HONEST, KIB, MIB, RawPeer, Recorder, Registry, make_pair, noise


class OrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.service = Registry(lambda: Recorder(stay=True))
        self.peer = RawPeer({"record": self.service})

    def order(self) -> list[int]:
        """The channels of the DATA packets that were sent, in order."""
        return [packet.channel for packet in self.peer.sent(Kind.DATA)]

    def open(self, channel: int, urgency: int = 3) -> Recorder:
        self.peer.open(channel, urgency=urgency)
        made: Recorder = self.service.made[-1]
        return made

    def test_a_small_urgent_message_overtakes_all_that_waits(self) -> None:
        bulk, urgent = self.open(1, 7), self.open(3, 0)
        self.peer.block()
        for number in range(8):
            bulk.channel.send(noise(MIB, number))
        urgent.channel.send(b"now")
        self.peer.unblock()
        self.peer.settle()
        self.assertEqual(self.order()[0], 3)

    def test_a_small_message_waits_for_one_turn_of_a_channel_of_its_urgency(self) -> None:
        bulk, small = self.open(1), self.open(3)
        self.peer.block()
        bulk.channel.send(noise(8 * MIB))
        small.channel.send(b"small")
        self.peer.unblock()
        self.peer.settle()
        self.assertLessEqual(self.order().index(3), 1)

    def test_channels_of_one_urgency_take_turns(self) -> None:
        channels = [self.open(number) for number in (1, 3, 5)]
        self.peer.block()
        for one in channels:
            one.channel.send(noise(MIB))
        self.peer.unblock()
        self.peer.settle()
        self.assertEqual(self.order(), [1, 3, 5] * (MIB // MAX_FRAGMENT))

    def test_turns_are_fair_between_small_and_large_messages(self) -> None:
        large, small = self.open(1), self.open(3)
        self.peer.block()
        large.channel.send(noise(MIB))
        for number in range(1024):
            small.channel.send(noise(1024, number))
        self.peer.unblock()
        self.peer.settle()
        half = self.peer.sent(Kind.DATA)[: len(self.order()) // 2]
        sizes = {
            number: sum(len(packet.payload) for packet in half if packet.channel == number)
            for number in (1, 3)
        }
        self.assertLess(abs(sizes[1] - sizes[3]), 2 * MAX_FRAGMENT)

    def test_what_compresses_well_has_no_longer_turns(self) -> None:
        dull, other = self.open(1), self.open(3)
        self.peer.block()
        dull.channel.send(bytes(16 * MIB))
        other.channel.send(noise(MIB))
        self.peer.unblock()
        self.peer.settle()
        ahead = self.order().index(3)
        self.assertLessEqual(ahead * MAX_FRAGMENT, MIB, "16 MiB were compressed in one turn")

    def test_urgencies_are_served_in_order(self) -> None:
        channels = [self.open(2 * (7 - urgency) + 1, urgency) for urgency in range(8)]
        self.peer.block()
        for one in reversed(channels):
            one.channel.send(noise(200 * KIB))
        self.peer.unblock()
        self.peer.settle()
        order = self.order()
        self.assertEqual(order, sorted(order, reverse=True))

    def test_a_stuck_urgent_channel_does_not_hold_up_the_others(self) -> None:
        self.peer = RawPeer({"record": self.service}, hello=HONEST._replace(channel_window=200_000))
        stuck, other = self.open(1, 0), self.open(3, 7)
        stuck.channel.send(noise(MIB))
        self.peer.settle()
        for number in range(3):
            other.channel.send(noise(50_000, number))
        self.peer.settle()
        self.assertEqual(self.order().count(3), 3)

    def test_the_sessions_own_packets_go_first(self) -> None:
        bulk = self.open(1, 0)
        self.peer.block()
        bulk.channel.send(noise(MIB))
        self.peer.control(Kind.PING, seq=5)
        self.peer.unblock()
        kinds = [packet.kind for packet in self.peer.link.sent]
        self.assertLess(kinds.index(Kind.PONG), kinds.index(Kind.DATA))

    def test_fragments_say_where_a_message_ends(self) -> None:
        one = self.open(1)
        for size in (0, 1, MAX_FRAGMENT, MAX_FRAGMENT + 1, 2 * MAX_FRAGMENT):
            one.channel.send(noise(size))
        self.peer.settle()
        packets = self.peer.sent(Kind.DATA)
        self.assertEqual([packet.seq for packet in packets], list(range(len(packets))))
        self.assertEqual([packet.flags & Flag.MORE for packet in packets], [0, 0, 0, 1, 0, 1, 0])


class OvertakingTests(SynchronousTestCase):
    def test_over_a_blocked_connection_the_urgent_message_comes_first(self) -> None:
        service = Registry()
        pair = make_pair({"service": service}, latency=0.001)
        mine = [
            pair.run(pair.client.open("service", Recorder(), urgency=urgency)) for urgency in (7, 0)
        ]
        bulk, urgent = service.made
        pair.server_transport.pause()
        for number in range(16):
            bulk.channel.send(noise(MIB // 2, number))
        pair.advance(1)
        urgent.channel.send(b"now")
        before = bulk.channel.queued
        pair.advance(1)
        self.assertEqual(bulk.channel.queued, before)
        self.assertGreater(before, 15 * MIB // 2, "much was handed to a connection that is stuck")
        pair.server_transport.resume()
        pair.run_until(lambda: bool(mine[1].messages))
        self.assertLess(len(mine[0].messages), 2)
        pair.run_until(lambda: len(mine[0].messages) == 16)
