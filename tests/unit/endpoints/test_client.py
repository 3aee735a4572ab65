"""Client endpoints: connections, the sessions they share, and what goes wrong."""

from __future__ import annotations

from typing import Any

from twisted.internet import error as network
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface.verify import verifyObject

from jetstreamproto.address import JetStreamAddress
from jetstreamproto.errors import (
    HandshakeTimeout,
    NothingListens,
    ServiceNotFound,
    SessionCut,
    UnknownHost,
)
from jetstreamproto.session.settings import SessionSettings
from tests.streams import Notes
from tests.unit.endpoints.network import NotingFactory, PairedTestCase


class ConnectTests(PairedTestCase):
    def test_it_is_an_endpoint(self) -> None:
        self.assertTrue(verifyObject(IStreamClientEndpoint, self.endpoint()))

    def test_a_connection(self) -> None:
        factory = NotingFactory()
        connecting = self.endpoint().connect(factory)
        self.assertEqual(factory.numPorts, 1)
        self.assertEqual(factory.made, [])
        mine = self.result(connecting)
        self.assertEqual(factory.made, [mine])
        self.assertEqual(mine.events, ["made"])
        self.assertEqual(factory.addresses, [mine.transport.getPeer()])
        mine.transport.write(b"there")
        theirs = self.server.made[0]
        theirs.transport.write(b"back")
        self.run_until(lambda: mine.received and theirs.received)
        mine.transport.loseConnection()
        self.assertEqual(factory.numPorts, 1)
        self.run_until(lambda: mine.lost and theirs.lost)
        self.assertEqual(factory.numPorts, 0)

    def test_what_the_server_says_first_comes_after_the_connection(self) -> None:
        self.server.protocol = Greeter
        order: list[str] = []
        factory = NotingFactory()
        connecting = self.endpoint().connect(factory)
        connecting.addCallback(lambda protocol: order.extend([*protocol.events, "fired"]))
        self.run_until(lambda: bool(order))
        self.run_until(lambda: bool(factory.made[0].received))
        self.assertEqual(order, ["made", "fired"])

    def test_nothing_is_left_when_the_connection_is_made(self) -> None:
        self.connect(self.endpoint())
        self.assertEqual(
            [call for call in self.clock.getDelayedCalls() if "time_out" in repr(call)], []
        )

    def test_a_connection_that_is_let_go_at_once(self) -> None:
        for name in ("loseConnection", "abortConnection"):
            with self.subTest(name):

                class Brief(Notes):
                    def connectionMade(self) -> None:
                        super().connectionMade()
                        getattr(self.transport, name)()  # noqa: B023

                factory = NotingFactory(Brief)
                brief = self.connect(self.endpoint(), factory)
                self.assertIsInstance(brief, Brief)
                self.run_until(lambda brief=brief: brief.lost)
                self.assertEqual(factory.numPorts, 0)

    def test_factories_that_make_nothing_or_fail(self) -> None:
        class Nothing(NotingFactory):
            def buildProtocol(self, addr: Any) -> Any:
                return None

        class Failing(NotingFactory):
            def buildProtocol(self, addr: Any) -> Any:
                raise ZeroDivisionError("in the factory")

        for factory, expected in ((Nothing(), network.NoProtocol), (Failing(), ZeroDivisionError)):
            error = self.connect(self.endpoint(), factory)
            self.assertIsInstance(error, expected)
            self.assertEqual(factory.numPorts, 0)
        self.run_until(lambda: not self.pairs[0].client.channels)


class Greeter(Notes):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(b"220 hello")


class SharingTests(PairedTestCase):
    def test_equal_endpoints_share_a_session(self) -> None:
        connecting = [self.endpoint().connect(NotingFactory()) for _ in range(20)]
        for one in connecting:
            self.result(one)
        self.assertEqual(len(self.pairs), 1)
        self.connect(self.endpoint())
        self.assertEqual(len(self.pairs), 1)
        self.assertEqual(len(self.pairs[0].client.channels), 21)

    def test_endpoints_with_other_targets_do_not(self) -> None:
        pin = "sha256:" + "A" * 43
        for options in ({}, {"port": 9001}, {"transport": "udp"}, {"pins": (pin,)}):
            self.connect(self.endpoint(**options))
        self.assertEqual(len(self.pairs), 4)

    def test_a_session_is_closed_some_seconds_after_its_last_connection(self) -> None:
        first, second = (self.connect(self.endpoint()) for _ in range(2))
        session = self.pairs[0].client
        first.transport.loseConnection()
        self.pairs[0].advance(20)
        self.assertTrue(session.accepts_channels)
        second.transport.loseConnection()
        self.pairs[0].advance(4)
        self.assertTrue(session.accepts_channels)
        third = self.connect(self.endpoint())
        self.assertEqual(len(self.pairs), 1)
        self.pairs[0].advance(20)
        self.assertFalse(third.lost)
        third.transport.abortConnection()
        self.pairs[0].advance(6)
        self.assertFalse(session.accepts_channels)
        self.assertIsNone(session.close_reason)
        self.connect(self.endpoint())
        self.assertEqual(len(self.pairs), 2)

    def test_a_lost_session_fails_its_connections_and_the_next_one_opens_another(self) -> None:
        protocols = [self.connect(self.endpoint()) for _ in range(3)]
        self.pairs[0].cut()
        for protocol in protocols:
            self.assertIs(protocol.reason.type, network.ConnectionLost)
            self.assertIsInstance(protocol.reason.value.__cause__, SessionCut)
        self.assertIsInstance(self.connect(self.endpoint()), Notes)
        self.assertEqual(len(self.pairs), 2)

    def test_a_session_that_drains_takes_no_new_connections(self) -> None:
        first = self.connect(self.endpoint())
        self.pairs[0].server.drain()
        self.pairs[0].advance(1)
        self.assertFalse(first.lost)
        self.connect(self.endpoint())
        self.assertEqual(len(self.pairs), 2)

    def test_a_session_whose_end_was_not_seen_yet_is_replaced(self) -> None:
        first = self.connect(self.endpoint())
        pair = self.pairs[0]
        pair.server.drain()  # which the client hears of in 10 ms
        second = self.connect(self.endpoint())
        self.assertIsInstance(second, Notes)
        self.assertEqual(len(self.pairs), 2)
        connecting = self.endpoint().connect(NotingFactory())
        self.pairs[1].cut()
        self.assertIsInstance(self.result(connecting), Notes)
        self.assertEqual(len(self.pairs), 3)
        self.assertFalse(first.lost)

    def test_a_session_that_does_not_answer_is_not_used_again(self) -> None:
        first = self.connect(self.endpoint())
        self.pairs[0].client_transport.pause()
        self.assertIsInstance(self.connect(self.endpoint()), network.TimeoutError)
        self.assertIsInstance(self.connect(self.endpoint()), Notes)
        self.assertEqual(len(self.pairs), 2)
        self.assertFalse(first.lost)

    def test_the_pool_can_be_closed(self) -> None:
        idle = self.connect(self.endpoint(port=1))
        idle.transport.loseConnection()
        self.run_until(lambda: not self.pairs[0].client.channels)
        busy = self.connect(self.endpoint(port=2))
        gone: list[object] = []
        self.pool.close_idle().addCallback(gone.append)
        self.run_until(lambda: bool(gone))
        self.assertFalse(busy.lost)
        self.assertTrue(self.pairs[1].client.accepts_channels)
        self.pool.close().addCallback(gone.append)
        busy.transport.write(b"the last words")
        busy.transport.loseConnection()
        self.run_until(lambda: len(gone) == 2)
        self.assertEqual(self.server.made[1].received, b"the last words")
        self.assertEqual(
            [pair.client.close_reason for pair in self.pairs], [None, None], "not ended properly"
        )


class FailureTests(PairedTestCase):
    def test_errors_are_twisteds_and_say_what_ours_say(self) -> None:
        for ours, expected in (
            (NothingListens("nothing there"), network.ConnectionRefusedError),
            (HandshakeTimeout("too slow"), network.TimeoutError),
            (UnknownHost("server.example", "sha256:x"), network.ConnectError),
            (SessionCut("cut"), network.ConnectError),
        ):
            with self.subTest(expected.__name__):
                self.failure = ours
                factory = NotingFactory()
                error = self.connect(self.endpoint(), factory)
                self.assertIs(type(error), expected)
                self.assertIs(error.__cause__, ours)
                self.assertIn(str(ours), str(error))
                self.assertEqual(factory.numPorts, 0)

    def test_twisteds_errors_stay_what_they_are(self) -> None:
        for error in (network.DNSLookupError("no such name"), network.ConnectionRefusedError()):
            self.failure = error
            self.assertIs(self.connect(self.endpoint()), error)

    def test_a_failed_session_is_not_kept(self) -> None:
        self.failure = NothingListens("nothing there")
        self.connect(self.endpoint())
        self.failure = None
        self.assertIsInstance(self.connect(self.endpoint()), Notes)

    def test_a_service_that_is_not_there(self) -> None:
        error = self.connect(self.endpoint("none"))
        self.assertIs(type(error), network.ConnectionRefusedError)
        self.assertIsInstance(error.__cause__, ServiceNotFound)
        self.assertIn("none", str(error))
        self.assertIsInstance(self.connect(self.endpoint()), Notes)
        self.assertEqual(len(self.pairs), 1)

    def test_too_many_connections_in_one_session(self) -> None:
        self.options["settings"] = SessionSettings(max_channels=1)
        self.connect(self.endpoint())
        error = self.connect(self.endpoint())
        self.assertIs(type(error), network.ConnectError)
        self.assertIn("too many", str(error))

    def test_timeout(self) -> None:
        self.latency = 1000.0
        factory = NotingFactory()
        started = self.clock.seconds()
        error = self.connect(self.endpoint(timeout=2.5), factory)
        self.assertIs(type(error), network.TimeoutError)
        self.assertIn("2.5 s", str(error))
        self.assertEqual(self.clock.seconds() - started, 2.5)
        self.assertEqual(factory.numPorts, 0)


class CancelTests(PairedTestCase):
    def check_cancelled(self, connecting: Any) -> None:
        error = self.failureResultOf(connecting).value
        self.assertIsInstance(error, network.ConnectingCancelledError)
        self.assertEqual(error.address, JetStreamAddress("server.example", 9000, "auto", "stream"))

    def test_while_the_session_is_opened(self) -> None:
        factory = NotingFactory()
        connecting = self.endpoint().connect(factory)
        connecting.cancel()
        self.check_cancelled(connecting)
        self.assertEqual((factory.numPorts, factory.made), (0, []))
        self.assertIsInstance(self.connect(self.endpoint()), Notes)
        self.assertEqual(len(self.pairs), 2)

    def test_one_of_two_who_wait_for_a_session(self) -> None:
        first, second = (self.endpoint().connect(NotingFactory()) for _ in range(2))
        first.cancel()
        self.check_cancelled(first)
        self.assertIsInstance(self.result(second), Notes)
        self.assertEqual(len(self.pairs), 1)

    def test_while_the_channel_is_opened(self) -> None:
        self.connect(self.endpoint())
        factory = NotingFactory()
        connecting = self.endpoint().connect(factory)
        self.clock.advance(0.001)
        connecting.cancel()
        self.check_cancelled(connecting)
        self.pairs[0].advance(1)
        self.assertEqual(factory.made, [])
        self.assertEqual(len(self.pairs[0].client.channels), 1)
        self.assertEqual(len(self.pairs[0].server.channels), 1)
