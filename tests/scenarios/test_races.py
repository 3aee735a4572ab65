"""The choice of a transport: who wins which race, what is said of it, and that nothing is left."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeTimeout,
    NothingListens,
    PeerSilent,
    Refused,
    WrongFingerprint,
)
from jetstreamproto.opening.destination import SILENCE, shared_memory
from jetstreamproto.opening.model import LIFETIME
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions
from jetstreamproto.transports.admission import Admission, AdmissionLimits
from tests.scenarios.race_network import CLIENT, NAME, SERVER, RaceCase

NEARBY, AWAY, FAR = 0.001, 0.02, 0.2
ELSEWHERE = "sha256:LGSw9rHTjRX3IVpHRLkc7xXRDVTI67hEWFzGVNS_QPk"


class WinnerCase(RaceCase):
    def winner(self, *arguments: Any, bulk: bool = False, **options: Any) -> tuple[str, str | None]:
        """What the first session is over, and why it is not over another."""
        broken = {name: options.pop(name) for name in ("tcp", "filtered") if name in options}
        with self.network(*arguments, **options) as network:
            network.tcp = broken.get("tcp", "up")
            if broken.get("filtered"):
                network.filter_udp()
            session = network.connect(bulk=bulk)
            self.assert_ends(network, session)
            return session.transport, session.fallback


class WinnerTests(WinnerCase):
    def test_tcp_where_the_server_is_near(self) -> None:
        with self.network(NEARBY) as network:
            session = network.connect()
            self.assertEqual((session.transport, session.fallback), ("tcp", None))
            self.assertEqual(network.first_sent, {})  # nothing was sent over UDP
            self.assert_ends(network, session)

    def test_quic_where_it_is_not(self) -> None:
        for latency in (AWAY, FAR):
            with self.subTest(latency):
                self.assertEqual(self.winner(latency), ("quic", None))

    def test_the_connection_that_showed_it_is_dropped_at_once(self) -> None:
        with self.network(FAR) as network:
            opening = network.open()
            network.advance(0.05)
            self.assertEqual(network.reactor.connecting, [])
            self.assertEqual(network.server._tickets, {})
            self.assert_ends(network, network.run(opening))

    def test_tcp_where_udp_is_blocked(self) -> None:
        transport, fallback = self.winner(AWAY, filtered=True)
        self.assertEqual(transport, "tcp")
        self.assertRegex(fallback or "", r"^quic did not answer within 0\.\d+ s$")

    def test_tcp_at_once_where_nothing_listens_on_udp(self) -> None:
        with self.network(AWAY, udp=False, quic=False) as network:
            session = network.connect()
            self.assertEqual(session.fallback, "quic: nothing listens there")
            self.assertLess(network.clock.seconds(), 0.01 + 14 * AWAY)
            self.assert_ends(network, session)

    def test_tcp_where_there_is_no_quic(self) -> None:
        self.assertEqual(self.winner(AWAY, quic=False)[0], "tcp")

    def test_quic_where_tcp_is_refused(self) -> None:
        for latency in (NEARBY, AWAY):
            with self.subTest(latency):
                transport, fallback = self.winner(latency, tcp="refused")
                self.assertEqual(transport, "quic")
                near = "tcp: nothing listens there" if latency == NEARBY else None
                self.assertEqual(fallback, near)

    def test_quic_where_tcp_is_silent(self) -> None:
        for latency in (NEARBY, FAR):
            with self.subTest(latency):
                self.assertEqual(self.winner(latency, tcp="silent"), ("quic", None))

    def test_udp_where_there_is_nothing_else(self) -> None:
        for latency in (NEARBY, FAR):
            for tcp in ("refused", "silent"):
                with self.subTest(latency, tcp=tcp):
                    transport, fallback = self.winner(latency, quic=False, tcp=tcp)
                    self.assertEqual(transport, "udp")
                    self.assertRegex(fallback or "", "^(tcp|quic)")

    def test_tcp_when_it_is_faster(self) -> None:
        with self.network(AWAY) as network:
            network.net.join(CLIENT, SERVER, LinkOptions(delay=0.4))  # UDP takes a detour
            session = network.connect()
            self.assertEqual(session.transport, "tcp")
            self.assert_ends(network, session)

    def test_quic_on_a_path_that_loses(self) -> None:
        for seed in range(5):
            with self.network(AWAY, seed=seed) as network:
                network.net.join(CLIENT, SERVER, LinkOptions(delay=AWAY, loss=0.1))
                session = network.connect()
                self.assertIn(session.transport, ("quic", "tcp"))
                self.assert_ends(network, session)


class BulkTests(WinnerCase):
    """The same for what moves much data."""

    def test_udp_near_and_far(self) -> None:
        for latency in (NEARBY, AWAY, FAR):
            with self.subTest(latency):
                self.assertEqual(self.winner(latency, bulk=True), ("udp", None))

    def test_tcp_where_udp_is_blocked(self) -> None:
        for options in ({"filtered": True}, {"udp": False}):
            with self.subTest(**options):
                transport, fallback = self.winner(AWAY, bulk=True, **options)
                self.assertEqual(transport, "tcp")
                self.assertRegex(fallback or "", r"^udp did not answer within 1\.\d+ s$")

    def test_tcp_at_once_where_nothing_listens_on_udp(self) -> None:
        found = self.winner(AWAY, udp=False, quic=False, bulk=True)
        self.assertEqual(found, ("tcp", "udp: nothing listens there"))

    def test_quic_where_there_is_nothing_else(self) -> None:
        transport, fallback = self.winner(AWAY, udp=False, tcp="refused", bulk=True)
        self.assertEqual(transport, "quic")
        self.assertIn("udp did not answer within 1.", fallback or "")
        self.assertIn("tcp: nothing listens there", fallback or "")


class FixedTests(RaceCase):
    def test_a_transport_that_was_asked_for_is_all_that_is_tried(self) -> None:
        for transport in ("tcp", "udp", "quic"):
            with self.subTest(transport), self.network(AWAY) as network:
                session = network.connect(transport=transport)
                self.assertEqual((session.transport, session.fallback), (transport, None))
                self.assertLessEqual(set(network.first_sent), {transport})
                self.assert_ends(network, session)

    def test_it_has_all_the_time(self) -> None:
        for transport, kind in (
            ("tcp", TimeoutError),
            ("udp", HandshakeTimeout),
            ("quic", HandshakeTimeout),
        ):
            with self.subTest(transport), self.network(AWAY) as network:
                network.filter_udp()
                network.tcp = "silent"
                opening = network.open(transport=transport, timeout=7)
                with self.assertRaises(kind):
                    network.run(opening)
                self.assertAlmostEqual(network.clock.seconds(), 7, delta=0.01)
                self.assert_nothing_left(network)

    def test_addresses_are_tried_one_beside_the_other(self) -> None:
        for transport in ("tcp", "udp", "quic", "auto"):
            with self.subTest(transport), self.network(AWAY) as network:
                network.reactor.names[NAME] = ["10.0.0.66", SERVER]  # nobody is at the first
                session = network.connect(transport=transport)
                self.assertLess(network.clock.seconds(), 0.6)
                self.assert_ends(network, session)


class FailureTests(RaceCase):
    def failure(self, network: Any, kind: type[Exception], wait: float = 12, **options: Any) -> str:
        with self.assertRaises(kind) as caught:
            network.run(network.open(**options))
        if wait:
            self.assert_nothing_left(network, wait)
        return str(caught.exception)

    def test_all_refused(self) -> None:
        for bulk in (False, True):
            with self.network(NEARBY, udp=False, quic=False) as network:
                network.tcp = "refused"
                self.failure(network, ConnectionRefusedError, bulk=bulk)
                self.assertLess(network.clock.seconds(), 13)

    def test_a_refusal_tells_more_than_silence(self) -> None:
        with self.network(NEARBY, udp=False, quic=False) as network:
            network.tcp = "refused"
            network.filter_udp()
            self.failure(network, ConnectionRefusedError)

    def test_all_silent(self) -> None:
        for bulk in (False, True):
            with self.network(AWAY) as network:
                network.tcp = "silent"
                network.filter_udp()
                self.failure(network, TimeoutError, timeout=8, bulk=bulk)
                self.assertLess(network.clock.seconds(), 8 + 12.1)

    def test_silence_of_tcp_tells_more_than_a_refusal_over_udp(self) -> None:
        with self.network(AWAY, udp=False, quic=False) as network:
            network.tcp = "silent"
            self.failure(network, TimeoutError)

    def test_a_server_that_accepts_and_says_nothing(self) -> None:
        for latency in (NEARBY, AWAY):
            with self.network(latency) as network:
                network.filter_udp()
                network.join = self.mute(network)  # type: ignore[method-assign]
                message = self.failure(network, HandshakeTimeout, timeout=5)
                self.assertIn(f"{NAME}:9000 accepts connections, but no session", message)

    @staticmethod
    def mute(network: Any) -> Any:
        join = network.join

        def silent(factory: Any, address: str) -> None:
            join(factory, address)
            for wire in network.wires:
                wire.silent = True

        return silent

    def test_a_name_without_address(self) -> None:
        with self.network() as network:
            self.failure(network, DNSLookupError, host="nowhere.example")

    def test_a_name_that_is_never_resolved(self) -> None:
        with self.network() as network:
            network.reactor.resolves = False
            self.failure(network, HandshakeTimeout, timeout=2)

    def test_a_server_that_is_not_trusted_gets_no_second_chance(self) -> None:
        cases = ((NEARBY, False, "tcp"), (AWAY, False, "quic"), (AWAY, True, "udp"))
        for latency, bulk, tried in cases:
            with self.subTest(tried), self.network(latency) as network:
                with self.assertRaises(WrongFingerprint):
                    network.run(network.open(network.factory(ELSEWHERE), bulk=bulk))
                self.assertEqual(set(network.first_sent), {tried} - {"tcp"})
                self.assertEqual(bool(network.wires), tried == "tcp")
                self.assert_nothing_left(network)

    def test_nor_does_a_full_server(self) -> None:
        with self.network(AWAY) as network:
            network.server.admission = Admission(AdmissionLimits(sessions=1))
            first = network.connect(transport="udp")
            self.assertIn("too many", self.failure(network, Refused, wait=0))
            self.assertEqual(network.wires, [])
            self.assert_ends(network, first)


class CancelTests(RaceCase):
    def test_at_any_time(self) -> None:
        for latency in (NEARBY, FAR):
            for bulk in (False, True):
                for after in (0, 0.001, 0.005, 0.012, 0.1, 0.26, 0.41, 0.5, 0.7, 0.9, 1.1, 1.3):
                    self.cancelled(latency, bulk, after)

    def cancelled(self, latency: float, bulk: bool, after: float) -> None:
        with self.network(latency) as network:
            opening = network.open(bulk=bulk)
            network.advance(after)
            if opening.called:
                self.assert_ends(network, network.run(opening))
                return
            opening.cancel()
            self.failureResultOf(opening, CancelledError)
            self.assertEqual(network.reactor.connecting, [])
            network.advance(0)
            self.assertEqual(network.reactor.host.ports, {})  # at once: there is nobody to answer
            network.advance(2 * latency)
            self.assertEqual(network.server.sessions, set())
            self.assert_nothing_left(network)

    def test_while_nobody_answers(self) -> None:
        with self.network(FAR) as network:
            network.tcp = "silent"
            network.filter_udp()
            opening = network.open()
            network.advance(2)
            self.assertEqual(len(network.reactor.connecting), 1)
            opening.cancel()
            self.failureResultOf(opening, CancelledError)
            self.assert_nothing_left(network, 0.001)

    def test_the_loser_is_dropped(self) -> None:
        with self.network(AWAY) as network:
            network.net.join(CLIENT, SERVER, LinkOptions(delay=0.13))  # QUIC takes longer
            session = network.connect()
            network.advance(1)
            self.assertEqual(len(network.server.sessions), 1)
            self.assertEqual(len(network.server._tickets), 1)
            self.assert_ends(network, session)


class MemoryTests(RaceCase):
    def test_what_did_not_serve_is_left_out_for_a_while(self) -> None:
        for bulk, name in ((False, "quic"), (True, "udp")):
            with self.subTest(name), self.network(AWAY) as network:
                network.filter_udp()
                network.run(network.connect(bulk=bulk).close())
                network.udp_filtered = network.quic_filtered = False
                network.advance(40)
                network.first_sent.clear()
                again = network.connect(bulk=bulk)
                self.assertEqual((again.transport, network.first_sent), ("tcp", {}))
                self.assertRegex(
                    again.fallback or "", rf"^{name} did not answer within [0-9.]+ s, 4\d s ago$"
                )
                network.run(again.close())
                network.advance(LIFETIME)
                last = network.connect(bulk=bulk)
                self.assertEqual((last.transport, last.fallback), (name, None))
                self.assert_ends(network, last)

    def test_the_choice_is_remembered(self) -> None:
        with self.network(FAR) as network:
            first = network.connect()
            network.run(first.close())
            begun = network.clock.seconds()
            network.first_sent.clear()
            second = network.connect()
            self.assertEqual((second.transport, network.first_sent["quic"]), ("quic", begun))
            self.assert_ends(network, second)

    def test_a_refusal_of_all_is_not_remembered(self) -> None:
        with self.network(AWAY) as network:
            network.crash()
            with self.assertRaises((ConnectionRefusedError, NothingListens)):
                network.run(network.open())
            self.assertEqual(len(shared_memory(network.reactor)), 0)
            network.restart()
            session = network.connect()
            self.assertEqual((session.transport, session.fallback), ("quic", None))
            self.assert_ends(network, session)

    def test_udp_that_is_filtered_in_the_middle(self) -> None:
        for bulk, name in ((False, "quic"), (True, "udp")):
            with self.subTest(name), self.network(AWAY) as network:
                first = network.connect(bulk=bulk)
                self.assertEqual(first.transport, name)
                network.filter_udp()
                network.run(first.when_closed())
                self.assertIsInstance(first.close_reason, PeerSilent)
                second = network.connect(bulk=bulk)
                self.assertEqual(second.transport, "tcp")
                self.assertRegex(second.fallback or "", rf"^{name} fell silent, \d+ s ago$")
                self.assert_ends(network, second)

    def test_tcp_is_asked_about_a_peer_that_answers_nothing(self) -> None:
        """Long before the idle timeout, which is 45 s here."""
        for bulk, name, at_rest in (
            (False, "quic", False),
            (True, "udp", False),
            (False, "quic", True),
            (True, "udp", True),
        ):
            with (
                self.subTest(name, at_rest=at_rest),
                self.network(AWAY, settings=SessionSettings()) as network,
            ):
                first = network.connect(bulk=bulk)
                inbox = network.run(first.open("echo", Inbox()))
                network.advance(30)  # at rest for longer than the silence: nothing is asked
                self.assertEqual(len(network.wires), 0)
                network.filter_udp()
                at = network.clock.seconds()
                if not at_rest:
                    inbox.channel.send(bytes(100_000))
                network.run(first.when_closed())
                self.assertIsInstance(first.close_reason, PeerSilent)
                self.assertIn("can be reached over tcp", str(first.close_reason))
                longest = 15 + SILENCE * 4 / 3 + 1 if at_rest else SILENCE * 4 / 3 + 1
                self.assertTrue(10 < network.clock.seconds() - at < longest)
                network.advance(46)  # until the server has noticed, too
                second = network.connect(bulk=bulk)
                self.assertEqual(second.transport, "tcp")
                self.assert_ends(network, second)

    def test_an_outage_is_waited_for(self) -> None:
        """Where TCP does not answer either, or refuses: that says nothing of datagrams."""
        for bulk in (False, True):
            for tcp in ("silent", "refused"):
                with (
                    self.subTest(bulk=bulk, tcp=tcp),
                    self.network(AWAY, settings=SessionSettings()) as network,
                ):
                    session = network.connect(bulk=bulk)
                    asked = network.run(session.open("echo", Inbox()))
                    network.filter_udp()
                    network.tcp = tcp
                    asked.channel.send(b"hello")
                    network.advance(38)
                    self.assertIsNone(session.close_reason)
                    network.udp_filtered = network.quic_filtered = False
                    self.assertEqual(network.run(asked.get()), b"hello")
                    asked.channel.end()
                    self.assert_ends(network, session)

    def test_datagrams_that_come_back_while_tcp_is_asked(self) -> None:
        with self.network(AWAY, settings=SessionSettings()) as network:
            session = network.connect(bulk=True)
            asked = network.run(session.open("echo", Inbox()))
            network.filter_udp()
            network.latency = 3.0  # of TCP
            asked.channel.send(b"hello")
            network.run_until(lambda: bool(network.reactor.connecting))
            network.udp_filtered = False
            self.assertEqual(network.run(asked.get()), b"hello")
            network.latency = AWAY
            asked.channel.end()
            network.advance(60)
            self.assert_ends(network, session)

    def test_who_did_not_choose_auto_waits(self) -> None:
        for options in ({"transport": "udp"}, {"transport": "quic"}, {"silence": None}):
            with (
                self.subTest(**options),
                self.network(AWAY, settings=SessionSettings()) as network,
            ):
                session = network.connect(**options)
                network.filter_udp()
                at = network.clock.seconds()
                session.ping().addErrback(lambda _: None)
                network.run(session.when_closed())
                self.assertGreater(network.clock.seconds() - at, 44)
                self.assert_nothing_left(network)

    def test_no_silence_at_all(self) -> None:
        with self.network(AWAY) as network:
            for silence in (0, -1.0):
                with self.assertRaisesRegex(ConfigurationError, "silence must be positive"):
                    network.destination(silence=silence)

    def test_outages_that_come_again_and_again(self) -> None:
        """A minute of five seconds without and two with; on a path of 1.5 s it is turned round."""
        for latency, bulk, gone, there in (
            (AWAY, False, 5, 2),
            (AWAY, True, 5, 2),
            (0.75, False, 2, 5),
            (0.75, True, 2, 5),
        ):
            with (
                self.subTest(latency=latency, bulk=bulk),
                self.network(latency, settings=SessionSettings()) as network,
            ):
                session = network.connect(bulk=bulk, transport="auto")
                asked = network.run(session.open("echo", Inbox()))
                for _ in range(9):
                    asked.channel.send(bytes(20_000))
                    network.udp_filtered = network.quic_filtered = True
                    network.advance(gone)
                    network.udp_filtered = network.quic_filtered = False
                    network.advance(there)
                    self.assertIsNone(session.close_reason)
                for _ in range(9):
                    self.assertEqual(len(network.run(asked.get())), 20_000)
                asked.channel.end()
                self.assert_ends(network, session)

    def test_a_crashed_server_that_is_back(self) -> None:
        for bulk, name in ((False, "quic"), (True, "udp")):
            with self.subTest(name), self.network(AWAY) as network:
                first = network.connect(bulk=bulk)
                network.crash()
                network.advance(1)
                network.restart()
                network.run(first.when_closed())
                second = network.connect(bulk=bulk)
                self.assert_ends(network, second)
