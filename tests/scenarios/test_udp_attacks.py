"""Attackers without keys: replays, forgeries, fragments and floods harm no session."""

from __future__ import annotations

import tracemalloc
from random import Random

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from jetstreamproto.security.datagrams import INITIAL, SEALED
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, SERVER, SERVER_PORT
from jetstreamproto.testing.simnet import Datagram
from tests.doubles import noise
from tests.scenarios.udp_pairs import STRANGER, UdpPair, UdpTestCase, recorded, settings

NEAR = LinkOptions(delay=0.01)
DATA = noise(300_000)


class ReplayTests(UdpTestCase):
    def test_every_datagram_comes_again_later(self) -> None:
        for seed, after in enumerate((0.0, 0.005, 0.05, 1.0)):
            with self.subTest(seed=seed):
                pair = UdpPair(link=NEAR, seed=seed, connect=False)

                def again(datagram: Datagram, pair: UdpPair = pair, after: float = after) -> bool:
                    side = "server" if datagram.source[0] == CLIENT else "client"
                    later = (datagram.data, datagram.source, side)
                    pair.clock.callLater(0.01 + after, pair.deliver, *later)
                    return True

                pair.net.tap = again
                pair.run(pair.client.when_connected())
                self.assertEqual(pair.transfer(DATA), DATA)
                self.assertEqual(pair.ask(DATA), DATA)
                for side in ("client", "server"):
                    self.assertEqual(pair.connection(side).forged, 0)
                self.assertEqual(pair.server_link.stats.rebindings, 0)
                pair.net.tap = None
                pair.advance(2.0)
                self.assert_closes(pair)

    def watched(self) -> tuple[UdpPair, list[Datagram]]:
        """A pair, and all that was sent until it was connected."""
        sent: list[Datagram] = []

        def tap(datagram: Datagram) -> bool:
            sent.append(datagram)
            return True

        return UdpPair(link=NEAR, seed=2, tap=tap), sent

    def test_a_whole_connection_played_again(self) -> None:
        """From the same address, another port and another host: nothing opens."""
        pair, sent = self.watched()
        with recorded(pair) as later:
            self.assertEqual(pair.ask(DATA), DATA)
            self.assertEqual(pair.close(), (None, None))
        sent += later
        pair.advance(11.0)
        made = len(pair.server_factory._tickets)
        pair.net.host(STRANGER)
        genuine = next(datagram.source for datagram in sent if datagram.source[0] == CLIENT)
        for source in (genuine, (CLIENT, 999), (STRANGER, 999)):
            for datagram in sent:
                if datagram.source[0] == CLIENT:
                    pair.deliver(datagram.data, source)
            self.assertEqual(pair.server_protocol.links, [])
            self.assertEqual(len(pair.server_factory._tickets), made)
        self.assert_nothing_left(pair, 1.0)

    def test_while_it_goes_on(self) -> None:
        pair, sent = self.watched()
        with recorded(pair) as later:
            self.assertEqual(pair.ask(DATA), DATA)
        sent += later
        for datagram in sent:
            side = "server" if datagram.source[0] == CLIENT else "client"
            pair.deliver(datagram.data, (STRANGER, 77), side)
        self.assertEqual(len(pair.server_protocol.links), 1)
        self.assertEqual(pair.ask(DATA), DATA)
        self.assertEqual(pair.server_link.stats.rebindings, 0)
        self.assert_closes(pair)


class ForgeryTests(UdpTestCase):
    def test_every_length_of_a_genuine_datagram(self) -> None:
        for batches in (False, True):
            pair = UdpPair(link=NEAR, seed=3, batches=batches)
            with recorded(pair) as sent:
                self.assertEqual(pair.ask(DATA[:5000]), DATA[:5000])
            source = next(d.source for d in sent if d.source[0] == CLIENT)
            genuine = [d.data for d in sent if d.source[0] == CLIENT]
            known = pair.connection("server").packets_received
            for datagram in (max(genuine, key=len), genuine[-1]):
                for length in range(len(datagram)):
                    pair.deliver(datagram[:length], source)
                    pair.deliver(datagram[:length], (STRANGER, 5))
            self.assertEqual(pair.connection("server").packets_received, known)
            self.assertEqual(pair.ask(DATA), DATA)
            self.assert_closes(pair)

    def test_cut_ones_that_never_came_whole(self) -> None:
        """Their numbers are new, so that they are opened, and do not open."""
        pair = UdpPair(link=NEAR, seed=3)
        inbox = pair.open("echo")
        held: list[Datagram] = []

        def hold(datagram: Datagram) -> bool:
            held.append(datagram)
            return False

        pair.advance(1.0)
        pair.net.tap = hold
        inbox.channel.send(b"held back")
        pair.advance(0)
        (datagram,) = held
        pair.net.tap = None
        server = pair.connection("server")
        before, forged = server.packets_received, server.forged
        for length in range(len(datagram.data)):
            pair.deliver(datagram.data[:length], datagram.source)
        self.assertEqual(server.packets_received, before)
        self.assertEqual(server.forged - forged, len(datagram.data) - 29)
        for position in range(len(datagram.data)):
            damaged = bytearray(datagram.data)
            damaged[position] ^= 1 << position % 8
            pair.deliver(bytes(damaged), datagram.source)
        self.assertEqual(server.packets_received, before)
        self.assertEqual(pair.run(inbox.get()), b"held back")
        self.assert_closes(pair)

    def test_the_limit_of_forgeries(self) -> None:
        pair = UdpPair(link=NEAR, seed=3, datagrams=settings(max_forged=100))
        link = pair.server_link
        generator = Random(1)
        head = bytes((SEALED,)) + link.local_id.to_bytes(8, "big")
        for number in range(101):
            self.assertIsNone(pair.server.close_reason)
            datagram = head + (1000 + number).to_bytes(4, "big") + generator.randbytes(40)
            pair.deliver(datagram, (STRANGER, 5))
        self.assertIn("too many forged packets", str(pair.server.close_reason))
        pair.run(pair.client.when_closed())
        self.assertIn("too many forged packets", str(pair.client.close_reason))
        self.assert_nothing_left(pair)


class FloodTests(UdpTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        events = self.events

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def flood(self, count: int, pair: UdpPair, seed: int) -> None:
        generator = Random(seed)
        client = pair.client_link
        ids = [client.local_id, pair.server_link.local_id]
        for number in range(count):
            kind = generator.randrange(8)
            known = generator.choice(ids).to_bytes(8, "big")
            tail = generator.randbytes(generator.choice((0, 3, 20, 60, 1300)))
            if kind == 0:
                datagram = b""
            elif kind == 1:
                datagram = tail
            elif kind == 2:
                datagram = (
                    bytes((SEALED | generator.randrange(16),)) + generator.randbytes(8) + tail
                )
            elif kind == 3:
                datagram = bytes((SEALED | generator.randrange(16),)) + known + tail
            elif kind == 4:
                datagram = bytes((INITIAL, 0, 0, 0, 1)) + generator.randbytes(16) + tail
            elif kind == 5:
                datagram = bytes((INITIAL, 0, 0, 0, 1)) + known + known + tail
            elif kind == 6:
                datagram = bytes((2, 0, 0, 0, 1)) + known + known + tail
            else:
                datagram = bytes((generator.randrange(256),)) + known
            side = "server" if number % 3 else "client"
            pair.deliver(datagram, (STRANGER, generator.randrange(1, 65536)), side)

    def test_sessions_go_on_and_nothing_grows(self) -> None:
        for batches in (False, True):
            pair = UdpPair(link=NEAR, seed=5, batches=batches)
            pair.net.host(STRANGER)
            self.assertEqual(pair.ask(DATA), DATA)
            self.flood(1000, pair, 1)
            pair.advance(1.0)
            del self.events[:]
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                self.flood(6000, pair, 2)
                pair.advance(1.0)
                grown = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            self.assertLess(grown, 300_000)
            self.assertEqual(len(pair.server_protocol.links), 1)
            self.assertEqual(self.events, [], "a line for each datagram would be a flood, too")
            self.assertGreater(pair.server_protocol.strange, 1000)
            self.assertEqual(pair.ask(DATA), DATA)
            self.assert_closes(pair)

    def test_during_the_handshake(self) -> None:
        pair = UdpPair(link=NEAR, seed=6, connect=False)
        pair.net.host(STRANGER)
        generator = Random(7)
        for _ in range(20):
            for link in pair.client_protocol.links:
                for kind in (INITIAL, SEALED, 2):
                    head = bytes((kind, 0, 0, 0, 1)) if kind != SEALED else bytes((kind,))
                    known = link.local_id.to_bytes(8, "big")
                    datagram = head + known + generator.randbytes(generator.randrange(1300))
                    pair.deliver(datagram, (SERVER, SERVER_PORT), "client")
            pair.advance(0.005)
        pair.run(pair.client.when_connected())
        self.assertEqual(pair.ask(DATA), DATA)
        self.assert_closes(pair)
