"""Sessions that the application ends from inside a call to it, on both kinds of transport."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import TestCase

from twisted.internet.error import ConnectionLost

from jetstreamproto.errors import JetStreamError, SessionCut
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session, SessionState
from tests.kernel import StockPair
from tests.scenarios.test_tcp_sessions import SERVER, session_pair


class ReentrancyTests(TestCase):
    """The application ends the session from inside a call of it."""

    ACTIONS: tuple[str, ...] = (
        "close",
        "abort",
        "drain",
        "link.abort",
        "link.close",
        "link.fail",
        "loseConnection",
        "abortConnection",
        "lose",
    )

    def make(self, **options: Any) -> Any:
        return session_pair(connect=False, **options)

    def break_off(self, pair: Any) -> None:
        pair.client_transport.lose(ConnectionLost())
        pair.server_transport.lose(ConnectionLost())

    def act(self, pair: Any, side: str, name: str) -> None:
        session: Session = getattr(pair, side)
        transport = getattr(pair, f"{side}_transport")
        if name == "link.fail":
            session.link.fail(SessionCut("by the application"))
        elif name.startswith("link."):
            getattr(session.link, name[5:])()
        elif name.endswith("Connection"):
            getattr(transport, name)()
        elif name == "lose":
            transport.lose(ConnectionLost())
        else:
            getattr(session, name)()

    @contextmanager
    def ended(self, **options: Any) -> Iterator[Any]:
        """A pair that is to end soon, whatever happens inside."""
        pair = self.make(**options)
        yield pair
        pair.advance(5)
        pair.client.abort()
        pair.server.abort()
        pair.advance(5)
        self.break_off(pair)
        pair.advance(5)
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        self.assertIs(pair.client.state, SessionState.CLOSED)
        self.assertIs(pair.server.state, SessionState.CLOSED)
        self.assertFalse(pair.server_factory.sessions or pair.client_factory.sessions)
        self.assertEqual(pair.server_factory._tickets, {})

    def ignore(self, _: object) -> None:
        """Failures are expected here."""

    def test_in_session_made_and_when_connected(self) -> None:
        for side in ("client", "server"):
            for name in self.ACTIONS:
                with self.subTest(side, action=name), self.ended() as pair:
                    factory = getattr(pair, f"{side}_factory")
                    made = factory.session_made

                    def act(
                        session: Session,
                        made: Any = made,
                        pair: Any = pair,
                        side: str = side,
                        name: str = name,
                    ) -> None:
                        made(session)
                        self.act(pair, side, name)

                    factory.session_made = act
                    for session in (pair.client, pair.server):
                        session.when_connected().addCallbacks(
                            lambda _, pair=pair, side=side, name=name: self.act(pair, side, name),
                            self.ignore,
                        ).addErrback(self.ignore)

    def test_in_calls_of_a_channel(self) -> None:
        for method in ("channel_opened", "message_received", "end_received", "channel_closed"):
            for side in ("client", "server"):
                for name in (*self.ACTIONS, "reset", "end"):
                    with self.subTest(method, side=side, action=name):
                        self.try_channel(method, side, name)

    def try_channel(self, method: str, side: str, name: str) -> None:
        test = self
        calls: list[str] = []

        class Acting(ChannelProtocol):
            def act(self, called: str) -> None:
                if called == method and not calls:
                    calls.append(called)
                    if name in ("reset", "end"):
                        getattr(self.channel, name)()
                    else:
                        test.act(pair, side, name)

            def channel_opened(self) -> None:
                self.act("channel_opened")

            def message_received(self, message: bytes) -> None:
                self.act("message_received")
                if self.channel.session is pair.server and message == b"last":
                    with test.closed_is_fine():
                        self.channel.send(b"reply")
                        self.channel.end()

            def end_received(self) -> None:
                self.act("end_received")
                self.channel.end()

            def channel_closed(self, reason: JetStreamError | None) -> None:
                self.act("channel_closed")

        def connected(session: Session) -> None:
            session.open("acting", Acting()).addCallbacks(opened, self.ignore)

        def opened(protocol: ChannelProtocol) -> None:
            with self.closed_is_fine():
                for message in (b"a", b"b", b"c", b"last"):
                    protocol.channel.send(message)
                protocol.channel.end()

        services = {"acting": Acting}
        with self.ended(services=services, client_services=services) as pair:
            pair.client.when_connected().addCallbacks(connected, self.ignore)
            pair.server.when_connected().addErrback(self.ignore)
        self.assertEqual(calls[:1], [method] if calls else [])

    @contextmanager
    def closed_is_fine(self) -> Iterator[None]:
        with suppress(JetStreamError):
            yield

    def test_in_session_lost_and_when_closed(self) -> None:
        for side in ("client", "server"):
            for name in self.ACTIONS:
                with self.subTest(side, action=name), self.ended() as pair:
                    for session in (pair.client, pair.server):
                        session.when_closed().addCallback(
                            lambda _, pair=pair, side=side, name=name: self.act(pair, side, name)
                        ).addErrback(self.ignore)
                        session.when_connected().addErrback(self.ignore)
                    pair.advance(0.1)
                    pair.client.close()


class StockReentrancyTests(ReentrancyTests):
    """The same on Twisted's transports, where nothing is lost before the next turn."""

    ACTIONS = tuple(name for name in ReentrancyTests.ACTIONS if name != "lose")

    def make(self, **options: Any) -> Any:
        return StockPair(identity=SERVER, connect=False, **options)

    def break_off(self, pair: Any) -> None:
        pair.client_transport.abortConnection()
        pair.server_transport.abortConnection()
