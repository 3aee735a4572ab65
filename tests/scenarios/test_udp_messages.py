"""Messages with deadlines over a lossy path: repaired without a round trip, or given up in time."""

from __future__ import annotations

from dataclasses import replace

from jetstreamproto.session.protocol import Inbox
from jetstreamproto.testing import LinkOptions
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import Recorder, noise
from tests.scenarios.udp_pairs import UdpPair, UdpTestCase, settings

FAR = LinkOptions(delay=0.06, loss=0.05)
"""120 ms: what is lost cannot be sent again within 150 ms."""


class Timed(Recorder):
    """Notes when its messages come."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def message_received(self, message: bytes) -> None:
        super().message_received(message)
        self.at.append(self.channel.session.clock.seconds())


class TimedPair(UdpPair):
    def __init__(self, **options: object) -> None:
        self.timed: list[Timed] = []
        super().__init__({"timed": self._make}, **options)

    def _make(self) -> Timed:
        self.timed.append(Timed())
        return self.timed[-1]

    def say(
        self, mode: Mode, deadline: float | None, count: int, gap: float, size: int = 200
    ) -> tuple[Inbox, list[float]]:
        """Send messages, one after another; when each was sent."""
        inbox = self.open("timed", mode=mode, deadline=deadline)
        sent = []
        for number in range(count):
            inbox.channel.send(number.to_bytes(4, "big") + noise(size, number))
            sent.append(self.clock.seconds())
            self.advance(gap)
        return inbox, sent

    def late(self, sent: list[float], within: float) -> int:
        """How many messages came later than `within` seconds after they were sent."""
        got = self.timed[-1]
        return sum(
            at - sent[int.from_bytes(message[:4], "big")] > within
            for message, at in zip(got.messages, got.at, strict=True)
        )


class DeadlineTests(UdpTestCase):
    def test_unordered_messages_are_repaired(self) -> None:
        late_without = late_with = 0
        for seed in range(3):
            for fec in ("off", "adaptive"):
                with self.subTest(seed=seed, fec=fec):
                    pair = TimedPair(link=FAR, seed=seed, datagrams=settings(fec=fec))
                    inbox, sent = pair.say(Mode.UNORDERED, 0.15, 600, 0.01)
                    inbox.channel.end()
                    pair.run(inbox.channel.when_closed())
                    expected = [number.to_bytes(4, "big") for number in range(600)]
                    got = sorted(message[:4] for message in pair.timed[-1].messages)
                    self.assertEqual(got, expected)
                    late = pair.late(sent, 0.15)
                    client, server = pair.client_link.stats, pair.server_link.stats
                    if fec == "off":
                        late_without += late
                        self.assertEqual(server.fec_recovered, 0)
                    else:
                        late_with += late
                        self.assertGreater(server.fec_recovered, 10)
                        self.assertGreater(client.fec_repaired, 10)
                    self.assert_closes(pair)
        self.assertLess(5 * late_with, late_without)

    def test_messages_that_expire_are_repaired_too(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                pair = TimedPair(link=FAR, seed=seed)
                inbox, sent = pair.say(Mode.EXPIRING, 0.15, 600, 0.01)
                inbox.channel.end()
                pair.run(inbox.channel.when_closed())
                timed = pair.timed[-1]
                self.assertEqual(len(timed.messages) + timed.expired, 600)
                self.assertGreater(pair.server_link.stats.fec_recovered, 10)
                self.assertLess(timed.expired + pair.late(sent, 0.15), 20)
                self.assert_closes(pair)

    def test_ordered_messages_with_a_deadline(self) -> None:
        for seed in range(3):
            for size in (200, 5000):
                with self.subTest(seed=seed, size=size):
                    pair = TimedPair(link=FAR, seed=seed)
                    inbox, _ = pair.say(Mode.ORDERED, 0.15, 300, 0.01, size)
                    inbox.channel.end()
                    pair.run(inbox.channel.when_closed())
                    numbers = [int.from_bytes(m[:4], "big") for m in pair.timed[-1].messages]
                    self.assertEqual(numbers, list(range(300)))
                    self.assertGreater(pair.server_link.stats.fec_recovered, 5)
                    self.assert_closes(pair)

    def test_what_is_close_enough_needs_no_repairs(self) -> None:
        pair = TimedPair(link=LinkOptions(delay=0.001, loss=0.02), seed=1)
        inbox, sent = pair.say(Mode.UNORDERED, 0.5, 300, 0.01)
        inbox.channel.end()
        pair.run(inbox.channel.when_closed())
        self.assertEqual(pair.client_link.stats.repair_bytes, 0)
        self.assertEqual(pair.late(sent, 0.5), 0)


class OutageTests(UdpTestCase):
    def test_what_could_not_be_sent_in_time_is_given_up(self) -> None:
        for seed, mode in enumerate((Mode.EXPIRING, Mode.EXPIRING, Mode.UNORDERED)):
            with self.subTest(seed=seed, mode=mode.name):
                link = replace(FAR, loss=0.0, blackholes=((2.0, 6.0),))
                pair = TimedPair(link=link, seed=seed)
                inbox, _ = pair.say(mode, 0.2, 800, 0.01)
                timed = pair.timed[-1]
                inbox.channel.end()
                pair.run(inbox.channel.when_closed())
                self.assertEqual(len(timed.messages) + timed.expired, 800)
                if mode is Mode.EXPIRING:
                    self.assertTrue(300 < timed.expired < 480, timed.expired)
                    self.assertEqual(timed.channel.expired, timed.expired)
                else:
                    self.assertEqual(timed.expired, 0)
                self.assert_freed(pair)
                self.assert_closes(pair)

    def assert_freed(self, pair: UdpPair) -> None:
        pair.advance(1.0)
        for side in ("client", "server"):
            connection = pair.connection(side)
            outgoing, incoming = connection.sender.outgoing, connection.incoming
            self.assertEqual(set(outgoing.streams), {(0, -1)})
            self.assertEqual(
                (outgoing._messages, outgoing._skips, outgoing._timed), ({}, set(), [])
            )
            self.assertTrue(outgoing.idle)
            self.assertEqual((outgoing.unsent, connection.sender.log.in_flight), (0, 0))
            self.assertEqual((set(incoming._channels), incoming._cost), ({0}, 0))

    def test_a_long_deadline_does_not_keep_others_waiting(self) -> None:
        """Channels have deadlines of their own."""
        pair = TimedPair(link=replace(FAR, loss=0.0), seed=1)
        patient = pair.open("timed", mode=Mode.EXPIRING, deadline=30.0)
        hasty = pair.open("timed", mode=Mode.EXPIRING, deadline=0.1)
        pair.change_link(loss=1.0)
        for number in range(20):
            patient.channel.send(noise(100, number))
            hasty.channel.send(noise(100, number))
        pair.advance(1.0)
        pair.change_link(loss=0.0)
        pair.advance(3.0)
        slow, quick = pair.timed
        self.assertEqual((slow.expired, len(slow.messages)), (0, 20))
        self.assertEqual((quick.expired, len(quick.messages)), (20, 0))
        patient.channel.end()
        hasty.channel.end()
        pair.run(hasty.channel.when_closed())
        self.assert_freed(pair)
        self.assert_closes(pair)

    def test_skips_that_are_sent_and_acknowledged_twice(self) -> None:
        for seed in range(20):
            with self.subTest(seed=seed):
                link = LinkOptions(delay=0.05, jitter=0.05, loss=0.3, duplicate=0.1, reorder=0.1)
                pair = TimedPair(link=link, seed=seed)
                inbox, _ = pair.say(Mode.EXPIRING, 0.06, 150, 0.005)
                inbox.channel.end()
                pair.run(inbox.channel.when_closed())
                timed = pair.timed[-1]
                self.assertEqual(len(timed.messages) + timed.expired, 150)
                pair.change_link(loss=0.0)
                pair.advance(5.0)
                self.assert_freed(pair)
                self.assert_closes(pair)

    def test_skips_that_travel_with_symbols(self) -> None:
        """FEC restores data, and no skips: those must be sent again."""
        for seed in range(20):
            with self.subTest(seed=seed):
                options = settings(fec=("2+2", "10+2")[seed % 2], mtu=1200)
                pair = TimedPair(link=replace(FAR, loss=0.2), seed=seed, datagrams=options)
                inbox, _ = pair.say(Mode.EXPIRING, 0.15, 200, 0.003, 900)
                inbox.channel.end()
                pair.run(inbox.channel.when_closed())
                timed = pair.timed[-1]
                self.assertEqual(len(timed.messages) + timed.expired, 200)
                self.assert_closes(pair)
