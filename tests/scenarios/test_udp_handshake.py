"""Handshakes over UDP: through every kind of bad network, and with peers that are none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from jetstreamproto.errors import (
    HandshakeError,
    HandshakeTimeout,
    NothingListens,
    PeerSilent,
    Refused,
)
from jetstreamproto.security.datagrams import (
    INITIAL,
    RETRY,
    SEALED,
    InitialProtection,
    parse_initial,
)
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.simnet import Datagram
from jetstreamproto.transports.admission import AdmissionLimits
from tests.scenarios.udp_pairs import CLIENT, SERVER, STRANGER, UdpPair, UdpTestCase, outcome
from tests.tls_peers import older_servers

NEAR = LinkOptions(delay=0.02)


class BadNetworkTests(UdpTestCase):
    def connect(self, link: LinkOptions, count: int) -> None:
        for seed in range(count):
            with self.subTest(seed=seed):
                pair = UdpPair(link=link, seed=seed)
                self.assertEqual(pair.ask(b"hello"), b"hello")
                pair.client.abort()

    def test_loss(self) -> None:
        self.connect(replace(NEAR, loss=0.3), 50)

    def test_corruption(self) -> None:
        self.connect(replace(NEAR, corrupt=0.3), 50)

    def test_duplicates(self) -> None:
        self.connect(replace(NEAR, duplicate=0.8), 20)

    def test_reordering(self) -> None:
        self.connect(replace(NEAR, jitter=0.05, reorder=0.3), 20)

    def test_everything(self) -> None:
        link = replace(
            NEAR, jitter=0.03, loss=0.1, burst_loss=0.05, corrupt=0.1, duplicate=0.2, reorder=0.1
        )
        self.connect(link, 30)

    def test_a_round_trip_of_one_and_a_half_seconds(self) -> None:
        for seed in range(3):
            with self.subTest(seed=seed):
                pair = UdpPair(link=LinkOptions(delay=0.75, rate=10e6), seed=seed)
                data = Random(seed).randbytes(300_000)
                self.assertEqual(pair.transfer(data), data)
                for side in ("client", "server"):
                    self.assertEqual(pair.connection(side).sender.log.spurious, 0)
                    self.assertEqual(pair.connection(side).sender.log.packets_lost, 0)
                self.assert_closes(pair)

    def test_every_way_to_lose_some_of_the_first_seven_datagrams(self) -> None:
        for bitmap in range(128):
            with self.subTest(bitmap=bitmap):

                def tap(datagram: Datagram, lost: int = bitmap) -> bool:
                    return datagram.index >= 7 or not lost >> datagram.index & 1

                pair = UdpPair(link=NEAR, seed=bitmap, connect=False, tap=tap)
                pair.run(pair.client.when_connected())
                self.assertEqual(pair.ask(b"hello"), b"hello")
                self.assertLess(pair.clock.seconds(), 10.0)
                self.assertEqual(pair.close(), (None, None))

    def test_a_damaged_version_is_no_other_version(self) -> None:
        for bit in range(32):
            with self.subTest(bit=bit):

                def damage(datagram: Datagram, bit: int = bit) -> bool:
                    if datagram.index == 0:
                        content = bytearray(datagram.data)
                        content[1 + bit // 8] ^= 1 << bit % 8
                        datagram.data = bytes(content)
                    return True

                pair = UdpPair(link=NEAR, seed=bit, connect=False, tap=damage)
                pair.run(pair.client.when_connected())
                self.assertEqual(pair.ask(b"hello"), b"hello")

    def test_a_server_without_the_clients_first_group(self) -> None:
        for seed, link in enumerate((NEAR, replace(NEAR, loss=0.2, reorder=0.2, jitter=0.02))):
            with self.subTest(seed=seed), older_servers():
                pair = UdpPair(link=link, seed=seed)
                self.assertEqual(pair.ask(b"hello"), b"hello")
                self.assert_closes(pair)

    def test_batches_or_not(self) -> None:
        for batches in (False, True):
            pair = UdpPair(link=replace(NEAR, loss=0.1), seed=3, batches=batches)
            self.assertEqual(pair.ask(b"hello"), b"hello")
            self.assert_closes(pair)


class EndInTheHandshakeTests(UdpTestCase):
    def test_closed_at_every_moment(self) -> None:
        """Whenever one side gives up, nothing is left, and the other side is told."""
        for side in ("client", "server"):
            for step in range(12):
                for how in ("close", "abort"):
                    with self.subTest(side=side, step=step, how=how):
                        self.give_up(side, 0.01 * step, how)

    def give_up(self, side: str, after: float, how: str) -> None:
        pair = UdpPair(link=NEAR, seed=5, connect=False)
        outcome(pair.client.when_connected())
        pair.advance(after)
        if side == "server" and not hasattr(pair.server_factory, "last"):
            pair.run_until(lambda: hasattr(pair.server_factory, "last"))
        getattr(getattr(pair, side), how)()
        pair.run(pair.client.when_closed())
        if hasattr(pair.server_factory, "last"):
            pair.run(pair.server.when_closed())
        self.assertLess(pair.clock.seconds(), 5.0)
        self.assert_nothing_left(pair)

    def test_a_refusal_that_overtakes_the_last_message(self) -> None:
        """What still comes for a connection that was given up must not revive it."""
        pair = UdpPair(link=NEAR, seed=1, connect=False)
        outcome(pair.client.when_connected())
        kept: list[Datagram] = []

        def keep(datagram: Datagram) -> bool:
            done = pair.client_link.connection is not None and datagram.source[0] == CLIENT
            if done:
                kept.append(datagram)
            return not done

        pair.net.tap = keep
        pair.run_until(lambda: bool(kept))
        link = pair.server_link
        alert = InitialProtection(pair.client_link.local_id, client=True)
        plaintext = b"\x13\0\0\0\x04gone".ljust(1150, b"\0")
        datagram = alert.seal(link.local_id, pair.client_link.local_id, b"", plaintext)
        pair.deliver(datagram, kept[0].source)
        self.assertIsInstance(pair.server.close_reason, Refused)
        for late in kept:
            pair.deliver(late.data, late.source)
        pair.client.abort()
        self.assert_nothing_left(pair)

    def test_nobody_answers(self) -> None:
        pair = UdpPair(link=replace(NEAR, loss=1.0), connect=False)
        results = outcome(pair.client.when_connected())
        pair.advance(10.1)
        self.assertIs(results[0].type, HandshakeTimeout)
        self.assert_nothing_left(pair)

    def test_the_server_falls_silent(self) -> None:
        for first in range(1, 6):
            pair = UdpPair(link=NEAR, seed=first, connect=False)
            results = outcome(pair.client.when_connected())
            pair.net.tap = lambda datagram, first=first: (
                datagram.source[0] == CLIENT or datagram.number < first
            )
            pair.advance(60.0)
            if first < 4:
                self.assertTrue(issubclass(results[0].type, HandshakeError))
            self.assertIsInstance(pair.client.close_reason, HandshakeError | PeerSilent)
            self.assert_nothing_left(pair)

    def test_nothing_listens(self) -> None:
        pair = UdpPair(connect=False)
        pair.server_port.stopListening()
        results = outcome(pair.client.when_connected())
        pair.advance(1.0)
        self.assertIs(results[0].type, NothingListens)


class StrangerTests(UdpTestCase):
    """What a server does for an address that has not proved itself."""

    def setUp(self) -> None:
        self.pair = UdpPair(link=NEAR, seed=9)
        self.assertEqual(self.pair.close(), (None, None))
        self.pair.advance(11.0)
        self.sent: Counter[tuple[str, int]] = Counter()
        self.pair.net.host(STRANGER)
        self.answers: list[bytes] = []
        self.pair.net.tap = self.note

    def note(self, datagram: Datagram) -> bool:
        if datagram.source[0] == SERVER:
            self.sent[datagram.destination] += len(datagram.data)
            self.answers.append(datagram.data)
        return False

    def initial(self, client: int, server: int = 7, token: bytes = b"", size: int = 1200) -> bytes:
        overhead = 21 + 1 + len(token) + 4 + 16
        plaintext = b"\x11\0\0\0\0\0\x04abcd".ljust(max(0, size - overhead), b"\0")
        return InitialProtection(client, client=True).seal(server, client, token, plaintext)

    def knock(self, datagram: bytes, source: tuple[str, int] = (STRANGER, 4000)) -> list[bytes]:
        self.answers.clear()
        self.pair.deliver(datagram, source)
        return list(self.answers)

    def token(self, client: int, source: tuple[str, int] = (STRANGER, 4000)) -> tuple[int, bytes]:
        (retry,) = self.knock(self.initial(client), source)
        _, _, server_id, token = parse_initial(retry)
        return server_id, token

    def assert_nobody_admitted(self) -> None:
        self.assertEqual(self.pair.server_protocol.links, [])
        self.assertEqual(self.pair.server_factory._tickets, {})
        self.assertEqual(self.pair.clock.getDelayedCalls(), [])

    def test_at_most_three_times_what_came(self) -> None:
        generator = Random(4)
        received: Counter[tuple[str, int]] = Counter()
        for number in range(3000):
            source = (STRANGER, 1000 + number % 50)
            datagram = self.garbage(generator)
            received[source] += len(datagram)
            self.knock(datagram, source)
            self.assertLessEqual(self.sent[source], 3 * received[source], f"datagram {number}")
        self.assert_nobody_admitted()
        self.assertGreater(sum(self.sent.values()), 0)

    def garbage(self, generator: Random) -> bytes:
        client = generator.randrange(1, 1 << 64)
        kind = generator.randrange(7)
        if kind == 0:
            return generator.randbytes(generator.randrange(1500))
        if kind == 1:
            return self.initial(client, size=generator.choice((40, 300, 1199, 1200, 1400)))
        if kind == 2:
            return self.initial(client, token=generator.randbytes(generator.randrange(1, 256)))
        if kind == 3:
            version = generator.randbytes(4)
            return bytes((INITIAL,)) + version + generator.randbytes(1300)
        if kind == 4:
            return bytes((RETRY,)) + generator.randbytes(60)
        if kind == 5:
            return bytes((SEALED,)) + generator.randbytes(generator.randrange(100))
        return b""

    def test_a_token_serves_only_who_got_it_and_only_once(self) -> None:
        source = (STRANGER, 4000)
        server_id, token = self.token(77)
        for what, client, given, where in (
            ("another port", 77, token, (STRANGER, 4001)),
            ("another address", 77, token, ("198.51.100.8", 4000)),
            ("another client id", 78, token, source),
            ("forged", 77, token[:-1] + bytes((token[-1] ^ 1,)), source),
            ("cut", 77, token[:-1], source),
            ("none of ours", 77, bytes(len(token)), source),
        ):
            with self.subTest(what):
                self.assertEqual(self.knock(self.initial(client, server_id, given), where), [])
                self.assert_nobody_admitted()
        genuine = self.initial(77, server_id, token)
        self.assertTrue(self.knock(genuine, source))
        self.assertEqual(len(self.pair.server_protocol.links), 1)
        self.pair.advance(12.0)
        self.assert_nobody_admitted()
        self.assertEqual(self.knock(genuine, source), [], "redeemed twice")
        self.assert_nobody_admitted()

    def test_an_expired_token(self) -> None:
        server_id, token = self.token(77)
        self.pair.advance(31.0)
        self.assertEqual(self.knock(self.initial(77, server_id, token)), [])
        self.assert_nobody_admitted()

    def test_the_limits_of_half_open_sessions(self) -> None:
        self.pair.server_factory.admission.limits = AdmissionLimits(
            half_open=20, half_open_per_address=8
        )
        for number in range(5):
            self.pair.net.host(f"198.51.100.{number}")
        admitted = refused = 0
        for number in range(400):
            source = (f"198.51.100.{number % 5}", 2000 + number)
            server_id, token = self.token(1000 + number, source)
            answers = self.knock(self.initial(1000 + number, server_id, token), source)
            links = len(self.pair.server_protocol.links)
            refused += links == admitted
            if links == admitted:
                self.assertIn(b"too many", self.alert(1000 + number, answers[0]))
            admitted = links
        self.assertEqual((admitted, refused), (20, 380))
        self.pair.advance(12.0)
        self.assert_nobody_admitted()

    def alert(self, client: int, datagram: bytes) -> bytes:
        plaintext = InitialProtection(client, client=True).open(datagram)
        assert plaintext is not None
        return plaintext

    def test_another_version_is_told_so(self) -> None:
        datagram = bytearray(self.initial(77))
        datagram[4] = 9
        datagram[60] ^= 1  # with the version put right, it must not be one of ours
        (answer,) = self.knock(bytes(datagram))
        self.assertIn(b"speaks version 1 only", self.alert(77, answer))

    def test_a_full_server_turns_clients_away(self) -> None:
        limits = AdmissionLimits(sessions=1)
        pair = UdpPair(link=NEAR, server_options={"admission": limits})
        second = pair.client_protocol.connect(SERVER, 9000, pair.client_factory)
        with self.assertRaises(Refused) as caught:
            pair.run(second.when_connected())
        self.assertIn("too many connections", str(caught.exception))
        self.assertEqual(pair.ask(b"still there"), b"still there")

    def test_impatience_is_no_harm(self) -> None:
        """A client that gives up sooner than the server."""
        hasty = SessionSettings(handshake_timeout=0.05)
        pair = UdpPair(link=NEAR, client_settings=hasty, connect=False)
        results = outcome(pair.client.when_connected())
        pair.advance(1.0)
        self.assertIs(results[0].type, HandshakeTimeout)
        self.assert_nothing_left(pair, 12.0)
