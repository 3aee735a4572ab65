"""Bulk over UDP: whatever the network does, everything arrives, and nearly as fast as it could."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from random import Random

from jetstreamproto.errors import PeerSilent
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.linkmodel import Outages
from tests.doubles import KIB, MIB, noise
from tests.scenarios.udp_pairs import WAN, UdpPair, UdpTestCase, recorded, settings

BULK = noise(2 * MIB)
CONTROLS = ("bbr", "cubic", "newreno")
CODES = ("off", "10+2", "adaptive")


class TwoMegabytesTests(UdpTestCase):
    """For every congestion control and every FEC mode."""

    def send(self, link: LinkOptions, bbr_within: float, within: float = 60.0) -> None:
        for seed, congestion in enumerate(CONTROLS):
            for fec in CODES:
                with self.subTest(seed=seed, congestion=congestion, fec=fec):
                    pair = UdpPair(
                        link=link, seed=seed, datagrams=settings(congestion=congestion, fec=fec)
                    )
                    began = pair.clock.seconds()
                    self.assertEqual(pair.transfer(BULK), BULK)
                    taken = pair.clock.seconds() - began
                    self.assertLess(taken, bbr_within if congestion == "bbr" else within)
                    self.assert_closes(pair)

    def test_a_perfect_path(self) -> None:
        self.send(WAN, 1.0, 2.0)

    def test_two_percent_of_loss(self) -> None:
        self.send(replace(WAN, loss=0.02), 3.0)

    def test_ten_percent_of_loss(self) -> None:
        self.send(replace(WAN, loss=0.1), 6.0, 120.0)

    def test_corruption(self) -> None:
        self.send(replace(WAN, corrupt=0.02), 3.0)

    def test_losses_in_bursts(self) -> None:
        self.send(replace(WAN, burst_loss=0.02, burst_length=8.0), 4.0)

    def test_reordering(self) -> None:
        self.send(replace(WAN, jitter=0.004, reorder=0.02), 3.0)


class OutageTests(UdpTestCase):
    def test_more_dark_than_light(self) -> None:
        """Five seconds of nothing, two seconds of path, and again."""
        for seed in range(3):
            with self.subTest(seed=seed):
                outages = Outages(every=7.0, length=5.0, first=0.5)
                link = LinkOptions(delay=0.025, rate=2e6, blackholes=outages)
                pair = UdpPair(link=link, seed=seed)
                self.assertEqual(pair.transfer(BULK), BULK)
                self.assertGreater(pair.clock.seconds(), 14.0)
                self.assertLess(pair.clock.seconds(), 120.0)
                self.assertEqual(pair.close(), (None, None))

    def test_the_path_is_gone_for_good(self) -> None:
        pair = UdpPair(link=WAN, seed=1)
        inbox = pair.start_transfer(BULK)
        pair.advance(0.1)
        pair.change_link(loss=1.0)
        gone_at = pair.clock.seconds()
        inbox.channel.when_closed().addErrback(lambda failure: None)
        for reason in pair.closed():
            self.assertIsInstance(reason, PeerSilent)
        self.assertLess(abs(pair.clock.seconds() - gone_at - 45.0), 1.0)
        self.assert_nothing_left(pair)

    def test_an_idle_session_notices_too(self) -> None:
        pair = UdpPair(link=WAN, seed=1)
        pair.advance(1000.0)
        self.assertIsNone(pair.client.close_reason)
        self.assertIsNone(pair.server.close_reason)
        pair.change_link(loss=1.0)
        gone_at = pair.clock.seconds()
        for reason in pair.closed():
            self.assertIsInstance(reason, PeerSilent)
        self.assertLess(pair.clock.seconds() - gone_at, 61.0)
        self.assert_nothing_left(pair)

    def test_shorter_timeouts(self) -> None:
        quick = settings(heartbeat=1.0, idle_timeout=3.0)
        pair = UdpPair(link=WAN, seed=1, datagrams=quick)
        pair.advance(100.0)
        self.assertIsNone(pair.client.close_reason)
        pair.change_link(loss=1.0)
        gone_at = pair.clock.seconds()
        for reason in pair.closed():
            self.assertIsInstance(reason, PeerSilent)
        self.assertLess(pair.clock.seconds() - gone_at, 4.1)


class KeyUpdateTests(UdpTestCase):
    def test_both_directions_with_loss_and_reordering(self) -> None:
        link = LinkOptions(delay=0.01, loss=0.05, jitter=0.005, reorder=0.05, duplicate=0.05)
        for seed, packets in enumerate((16, 17, 32, 64)):
            with self.subTest(seed=seed, packets=packets):
                pair = UdpPair(link=link, seed=seed, datagrams=settings(key_packets=packets))
                inbox = pair.open("echo")
                for number in range(100):
                    message = noise(5000, number)
                    inbox.channel.send(message)
                    self.assertEqual(pair.run(inbox.get()), message)
                for side in ("client", "server"):
                    self.assertGreater(pair.connection(side)._sealer.epoch, 1)
                    self.assertGreater(pair.connection(side)._opener.epoch, 1)
                self.assert_closes(pair)

    def test_one_side_only_acknowledges(self) -> None:
        options = settings(key_packets=64, mtu=1200)
        pair = UdpPair(link=replace(WAN, loss=0.01), seed=2, datagrams=options)
        data = noise(6 * MIB)
        self.assertEqual(pair.transfer(data), data)
        self.assertGreater(pair.connection("client")._sealer.epoch, 5)
        self.assertGreater(pair.connection("server")._sealer.epoch, 1)
        self.assertEqual(
            pair.connection("client")._opener.epoch, pair.connection("server")._sealer.epoch
        )
        self.assert_closes(pair)

    def test_sides_may_differ(self) -> None:
        pair = UdpPair(
            link=replace(WAN, loss=0.02),
            seed=4,
            datagrams=settings(key_packets=16),
            client_datagrams=settings(key_packets=1 << 22),
        )
        self.assertEqual(pair.ask(BULK), BULK)
        self.assertEqual(pair.connection("client")._sealer.epoch, 0)
        self.assertGreater(pair.connection("server")._sealer.epoch, 3)
        self.assert_closes(pair)


class SettingsTests(UdpTestCase):
    def test_the_largest_message(self) -> None:
        message = noise(16 * MIB)
        pair = UdpPair(link=replace(WAN, rate=None, loss=0.05), seed=1, batches=False)
        inbox = pair.open("sink")
        inbox.channel.send(message)
        inbox.channel.end()
        pair.run(inbox.channel.when_closed())
        self.assertEqual(sha256(pair.received).digest(), sha256(message).digest())
        self.assert_closes(pair)

    def test_small_windows(self) -> None:
        for seed, options in enumerate(
            (
                settings(send_window=256 * KIB),
                settings(receive_window=256 * KIB),
                settings(send_window=256 * KIB, receive_window=256 * KIB, mtu=1200),
            )
        ):
            with self.subTest(seed=seed):
                link = replace(WAN, loss=0.02)
                pair = UdpPair(link=link, seed=seed, datagrams=options)
                inbox = pair.start_transfer(BULK)
                peak = 0
                while inbox.channel.state.value != "closed":
                    pair.advance(0.01)
                    peak = max(peak, pair.connection("client").sender.log.in_flight)
                self.assertEqual(pair.received, BULK)
                self.assertLess(peak, options.send_window + 70_000)
                self.assert_closes(pair)

    def test_a_slow_reader(self) -> None:
        options = settings(receive_window=256 * KIB)
        session = SessionSettings(compression=None, max_channel_window=1 << 20)
        pair = UdpPair(link=WAN, seed=3, datagrams=options, settings=session)
        slow = pair.open("sink")
        pair.sinks.made[-1].channel.pauseProducing()
        for start in range(0, len(BULK), 50_000):
            slow.channel.send(BULK[start : start + 50_000])
        slow.channel.end()
        pair.advance(5.0)
        self.assertEqual(pair.received, b"")
        self.assertEqual(pair.ask(b"quick"), b"quick")
        reader = pair.sinks.made[-1]
        for _ in range(40):
            reader.channel.resumeProducing()
            pair.advance(0.02)
            reader.channel.pauseProducing()
            pair.advance(0.2)
        reader.channel.resumeProducing()
        pair.run(slow.channel.when_closed())
        self.assertEqual(pair.received, BULK)
        self.assert_closes(pair)

    def test_a_fixed_size(self) -> None:
        pair = UdpPair(link=WAN, seed=1, datagrams=settings(mtu=1200))
        with recorded(pair) as sent:
            self.assertEqual(pair.transfer(BULK), BULK)
        self.assertEqual(max(len(datagram.data) for datagram in sent), 1200)

    def test_bursts_or_not(self) -> None:
        for batches in (False, True):
            for gso in (False, True):
                with self.subTest(batches=batches, gso=gso):
                    options = settings(gso=gso)
                    link = replace(WAN, loss=0.01)
                    pair = UdpPair(link=link, seed=6, batches=batches, datagrams=options)
                    self.assertEqual(pair.ask(BULK), BULK)
                    self.assert_closes(pair)

    def test_many_channels_at_once(self) -> None:
        pair = UdpPair(link=replace(WAN, loss=0.05), seed=8)
        inboxes: list[Inbox] = []
        for number in range(60):
            inbox = pair.open("echo", urgency=number % 8)
            inbox.channel.send(noise(30_000, number))
            inbox.channel.end()
            inboxes.append(inbox)
        for number, inbox in enumerate(inboxes):
            self.assertEqual(pair.run(inbox.get()), noise(30_000, number))
        self.assert_closes(pair)


class SeedTests(UdpTestCase):
    def trace(self, seed: int) -> list[tuple[float, int]]:
        """When datagrams were sent and how long they were, from the end of the handshake on.

        Not during it: TLS draws keys of its own, and its signatures differ in length by a byte or
        two. For the same reason the link has no rate, and contents are not compared.
        """
        pair = UdpPair(link=LinkOptions(delay=0.025, loss=0.05, jitter=0.003), seed=seed)
        began = pair.clock.seconds()
        with recorded(pair) as sent:
            self.assertEqual(pair.transfer(BULK[:300_000]), BULK[:300_000])
        return [(round(datagram.time - began, 9), len(datagram.data)) for datagram in sent]

    def test_the_seed_decides_everything(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                self.assertEqual(self.trace(seed), self.trace(seed))
        self.assertNotEqual(self.trace(1), self.trace(2))

    def test_echoes_in_any_order(self) -> None:
        generator = Random(1)
        pair = UdpPair(link=replace(WAN, loss=0.03, reorder=0.1), seed=1)
        for number in range(50):
            message = noise(generator.choice((0, 1, 1000, 1471, 1472, 50_000)), number)
            self.assertEqual(pair.ask(message), message)
        self.assert_closes(pair)
