"""connect's parts and ReconnectingClient, over connections in memory and in virtual time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from jetstreamproto.client import ReconnectingClient, _connect
from jetstreamproto.errors import SessionClosed, WrongFingerprint
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.session import Session
from jetstreamproto.session.state import SessionState
from jetstreamproto.testing.pair import MemoryTransport, SessionPair

STRANGER = Identity.create(datetime.now(UTC))


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Joins what connects to it with the server of a pair; `up` says whether there is one."""

    def __init__(self, pair: SessionPair) -> None:
        self.up = True
        self.attempts = 0
        self.transports: list[MemoryTransport] = []
        self._pair = pair

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        self.attempts += 1
        if not self.up:
            return fail(ConnectionRefusedError())
        here = MemoryTransport(self._pair, 50000 + self.attempts, 9000)
        there = MemoryTransport(self._pair, 9000, 50000 + self.attempts)
        client = factory.buildProtocol(here.getPeer())
        server = self._pair.server_factory.buildProtocol(there.getPeer())
        here.connect(client, there)  # type: ignore[arg-type]
        there.connect(server, here)
        server.makeConnection(there)
        client.makeConnection(here)  # type: ignore[union-attr]
        self.transports.append(here)
        return succeed(client)


class ClientCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = SessionPair({"echo": Echo}, latency=0.01, connect=False)
        self.endpoint = MemoryEndpoint(self.pair)
        identity = self.pair.server_factory.identity
        self.factory = JetStreamClientFactory(
            PinnedKeys([identity.fingerprint]), reactor=self.pair.clock
        )

    def servers(self) -> set[Session]:
        """The server's ends of the sessions that came through the endpoint."""
        return self.pair.server_factory.sessions - {self.pair.server}

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)


class ConnectTests(ClientCase):
    def test_a_session_comes_out(self) -> None:
        session = self.pair.run(Deferred.fromCoroutine(_connect(self.endpoint, self.factory)))
        self.assertIs(session.state, SessionState.OPEN)

    def test_a_refused_connection(self) -> None:
        self.endpoint.up = False
        connecting = Deferred.fromCoroutine(_connect(self.endpoint, self.factory))
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_a_server_that_is_not_trusted(self) -> None:
        factory = JetStreamClientFactory(
            PinnedKeys([STRANGER.fingerprint]), reactor=self.pair.clock
        )
        connecting = Deferred.fromCoroutine(_connect(self.endpoint, factory))
        self.assertRaises(WrongFingerprint, self.pair.run, connecting)

    def test_cancelling_drops_the_attempt(self) -> None:
        connecting = Deferred.fromCoroutine(_connect(self.endpoint, self.factory))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.advance(1)
        self.assertEqual(self.servers(), set())


class ReconnectingTests(ClientCase):
    def start(self, prepare: Any = None) -> ReconnectingClient:
        client = ReconnectingClient(
            self.endpoint,
            self.factory,
            prepare,
            retry_policy=lambda failures: 2.0**failures,
            clock=self.pair.clock,
        )
        client.startService()
        self.addCleanup(self.stop, client)
        return client

    def stop(self, client: ReconnectingClient) -> None:
        if client.running:
            self.pair.run(client.stopService())

    def test_it_connects_and_keeps_the_session(self) -> None:
        client = self.start()
        session = self.pair.run(client.when_connected())
        self.assertIs(self.pair.run(client.when_connected()), session)
        inbox = self.pair.run(session.open("echo"))
        inbox.channel.send(b"hello")
        self.assertEqual(self.pair.run(inbox.get()), b"hello")

    def test_sessions_may_be_made_by_a_function(self) -> None:
        client = ReconnectingClient(
            lambda: Deferred.fromCoroutine(_connect(self.endpoint, self.factory)),
            retry_policy=lambda failures: 2.0**failures,
            clock=self.pair.clock,
        )
        client.startService()
        self.addCleanup(self.stop, client)
        first = self.pair.run(client.when_connected())
        self.endpoint.transports[-1].lose(ConnectionLost())
        self.assertIsNot(self.pair.run(client.when_connected()), first)

    def test_asking_for_the_next_session_while_the_old_one_breaks(self) -> None:
        """Callbacks hear of the end before the service does."""
        client = self.start()
        first = self.pair.run(client.when_connected())
        inbox = self.pair.run(first.open("echo"))
        following = inbox.get().addErrback(lambda _: client.when_connected())
        self.endpoint.transports[-1].lose(ConnectionLost())
        self.assertNoResult(following)
        second: Any = self.pair.run(following)
        self.assertIsNot(second, first)
        self.assertTrue(second.accepts_channels)

    def test_who_waited_may_call_the_service_at_once(self) -> None:
        client = self.start()
        found: list[Any] = []
        waiting = client.when_connected()
        waiting.addCallback(lambda session: client.when_connected())
        waiting.addCallback(found.append)
        waiting.addCallback(lambda _: client.stopService())
        waiting.addErrback(found.append)
        self.advance(10)
        self.assertEqual([type(one) for one in found], [Session])
        self.assertIs(found[0].state, SessionState.CLOSED)

    def test_who_is_told_of_a_failure_may_call_the_service_at_once(self) -> None:
        self.endpoint.up = False
        client = self.start()
        found: list[Any] = []
        waiting = client.when_connected(fail_after=2)
        waiting.addErrback(lambda failure: found.append(failure.type) or client.stopService())
        waiting.addErrback(found.append)
        self.advance(60)
        self.assertEqual(found, [ConnectionRefusedError])

    def test_it_connects_again_after_a_cut(self) -> None:
        client = self.start()
        first = self.pair.run(client.when_connected())
        self.endpoint.transports[-1].lose(ConnectionLost())
        second = self.pair.run(client.when_connected())
        self.assertIsNot(second, first)
        self.assertIs(second.state, SessionState.OPEN)

    def test_it_waits_longer_after_each_failure(self) -> None:
        self.endpoint.up = False
        client = self.start()
        self.assertEqual(self.endpoint.attempts, 1)
        for wait, attempts in ((1.9, 1), (0.2, 2), (3.8, 2), (0.4, 3)):
            self.advance(wait)
            self.assertEqual(self.endpoint.attempts, attempts)
        self.endpoint.up = True
        self.assertIs(self.pair.run(client.when_connected()).state, SessionState.OPEN)

    def test_when_connected_can_give_up(self) -> None:
        self.endpoint.up = False
        client = self.start()
        waiting = client.when_connected(fail_after=2)
        self.assertNoResult(waiting)
        self.advance(10)
        self.failureResultOf(waiting, ConnectionRefusedError)

    def test_a_draining_server_is_left_and_found_again(self) -> None:
        client = self.start()
        first = self.pair.run(client.when_connected())
        inbox = self.pair.run(first.open("echo"))
        server = next(iter(self.servers()))
        server.drain("maintenance")
        self.advance(0.1)
        waiting = client.when_connected()
        self.assertNoResult(waiting)
        inbox.channel.end()
        second = self.pair.run(waiting)
        self.assertIsNot(second, first)
        self.assertIsNone(first.close_reason)

    def test_every_session_is_prepared_before_it_is_handed_out(self) -> None:
        prepared: list[Session] = []

        def prepare(session: Session) -> Deferred[object]:
            opening: Deferred[object] = session.open("echo")
            return opening.addCallback(lambda _: prepared.append(session))

        client = self.start(prepare)
        first = self.pair.run(client.when_connected())
        self.endpoint.transports[-1].lose(ConnectionLost())
        second = self.pair.run(client.when_connected())
        self.assertEqual(prepared, [first, second])

    def test_a_preparation_that_fails_is_tried_again(self) -> None:
        tried = []

        def prepare(session: Session) -> None:
            tried.append(session)
            if len(tried) < 3:
                raise LookupError("not yet")

        client = self.start(prepare)
        session = self.pair.run(client.when_connected())
        self.assertEqual(len(tried), 3)
        self.assertIs(session, tried[-1])
        self.assertIs(tried[0].state, SessionState.CLOSED)

    def test_stopping_ends_the_session_properly(self) -> None:
        client = self.start()
        session = self.pair.run(client.when_connected())
        self.pair.run_until(self.servers)
        (server,) = self.servers()
        self.pair.run(client.stopService())
        self.advance(1)
        self.assertIsNone(session.close_reason)
        self.assertIsNone(server.close_reason)
        self.assertEqual(self.endpoint.attempts, 1)

    def test_stopping_fails_those_who_wait(self) -> None:
        self.endpoint.up = False
        client = self.start()
        waiting = client.when_connected()
        self.pair.run(client.stopService())
        self.failureResultOf(waiting, CancelledError, SessionClosed)
