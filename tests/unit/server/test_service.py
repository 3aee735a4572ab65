from __future__ import annotations

import socket
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest import mock

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

from jetstreamproto.factory import Admitted, JetStreamServerFactory
from jetstreamproto.protocol import TurnedAway
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.security.identity import Identity
from jetstreamproto.server.listeners import Listeners
from jetstreamproto.server.service import JetStreamService
from jetstreamproto.transports.link import Peer


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


class DeafLink:
    """A link that does nothing it is told."""

    peer = Peer("192.0.2.1:9000")

    def abort(self) -> None: ...


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
            Listeners(self.sockets),  # type: ignore[arg-type]
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

    def test_datagrams_come_until_the_last_session_has_ended(self) -> None:
        made: list[Datagrams] = []

        class Datagrams:
            def __init__(self, *given: object) -> None:
                self.given, self.stopped = given, False
                made.append(self)

            async def stop(self) -> None:
                self.stopped = True

        settings, bound = DatagramSettings(fec="off"), Socket()
        listeners = Listeners(datagrams=[bound])  # type: ignore[list-item]
        service = JetStreamService(self.factory, listeners, [], self.reactor, settings)
        module = SimpleNamespace(DatagramListener=Datagrams)
        with mock.patch.dict(sys.modules, {"jetstreamproto.server.datagrams": module}):  # type: ignore[dict-item]
            service.startService()
        (datagrams,) = made
        self.assertEqual(
            datagrams.given,
            (self.reactor, bound, self.factory, settings, listeners.transports, None),
        )
        admitted = self.factory.admit("127.0.0.1")
        assert isinstance(admitted, Admitted)
        admitted.session.start(DeafLink())  # type: ignore[arg-type]
        stopped = service.stopService()
        self.assertNoResult(stopped)
        self.assertFalse(datagrams.stopped)
        admitted.session.link_lost(None)
        admitted.release()
        self.successResultOf(stopped)
        self.assertTrue(datagrams.stopped)
