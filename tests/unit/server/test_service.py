from __future__ import annotations

import socket
from datetime import UTC, datetime

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogPublisher,
    formatEvent,
    globalLogPublisher,
)
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.protocol import TurnedAway
from jetstreamproto.security.identity import Identity
from jetstreamproto.server.service import JetStreamService


class Socket:
    """What the service needs of a listening socket."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.closed = False

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def logged(publisher: LogPublisher, test: SynchronousTestCase) -> list[str]:
    """The lines that the server logs until the test ends."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def keep(event: LogEvent) -> None:
        if event.get("log_namespace") == "jetstream":
            lines.append(str(formatEvent(event)))

    publisher.addObserver(keep)
    test.addCleanup(publisher.removeObserver, keep)
    return lines


class JetStreamServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = logged(globalLogPublisher, self)
        self.reactor = MemoryReactorClock()
        self.sockets = [Socket(), Socket()]
        self.factory = JetStreamServerFactory(
            Identity.create(datetime.now(UTC)), reactor=self.reactor
        )
        self.service = JetStreamService(
            self.factory,
            self.sockets,  # type: ignore[arg-type]
            ["it listens", "it is well"],
            self.reactor,
        )

    def test_it_announces_itself_once_it_runs(self) -> None:
        self.assertEqual((self.lines, self.reactor.adoptedPorts), ([], []))
        self.service.startService()
        self.assertEqual(
            self.reactor.adoptedPorts, [(7, socket.AF_INET, self.factory)] * len(self.sockets)
        )
        self.assertEqual(self.lines, [])
        self.reactor.run()
        self.assertEqual(self.lines, ["it listens", "it is well"])

    def test_the_reactor_has_descriptors_of_its_own(self) -> None:
        self.service.startService()
        self.assertTrue(all(listener.closed for listener in self.sockets))

    def test_it_ends_at_once_when_there_are_no_sessions(self) -> None:
        self.service.startService()
        self.successResultOf(self.service.stopService())
        self.assertIsInstance(self.factory.buildProtocol(None), TurnedAway)

    def test_what_was_never_started_can_be_stopped(self) -> None:
        self.successResultOf(self.service.stopService())
        self.assertTrue(all(listener.closed for listener in self.sockets))
