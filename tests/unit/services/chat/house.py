"""A chat in virtual time: the real service on a real database, and sessions with it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.client import ReconnectingClient
from jetstreamproto.services.chat.client import ChatClient
from jetstreamproto.services.chat.hall import Hall
from jetstreamproto.services.chat.messages import CHAT
from jetstreamproto.services.chat.model.limits import DEFAULT_LIMITS, ChatLimits
from jetstreamproto.services.chat.model.notice import Notice, NoticeKind
from jetstreamproto.services.chat.registry import FILE, Registry
from jetstreamproto.services.chat.visitor import Visitor
from jetstreamproto.session.session import Session
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import QuickClock, make_pair
from tests.unit.services.events.server import EventServer

WRITE = 0.001
"""Seconds that a write of the registry takes."""


class ChatServer:
    """A chat on what is in `folder`."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        limits: ChatLimits = DEFAULT_LIMITS,
        connect: Callable[..., Any] = make_pair,
    ) -> None:
        self.clock = clock
        self.events = EventServer(folder, clock)
        self.registry = Registry(folder / FILE, self._in_thread)
        numbers = itertools.count(0xA0)
        self.hall = Hall(
            self.events.broker,
            self.registry,
            self.events.permissions,
            limits,
            clock,
            self.events.wall,
            lambda: next(numbers),
        )
        self._connect = connect
        self._pairs: list[SessionPair] = []

    def _in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        return deferLater(self.clock, WRITE, work)

    def pair(self, user: str | None = None, **options: Any) -> SessionPair:
        """A new session with it, of that user or of a guest."""
        services = {CHAT: lambda: Visitor(lambda: self.hall)}
        if user is not None:
            options["server_options"] = {"authenticate": lambda _, hello: succeed(hello.username)}
            options["client_options"] = {"credentials": (user, "secret")}
        pair: SessionPair = self._connect(services, clock=self.clock, **options)
        self._pairs.append(pair)
        return pair

    def stop(self) -> None:
        """Nothing that is not on disk is left."""
        for pair in self._pairs:
            for session in (pair.server, pair.client):
                session.abort()
            pair.advance(0)
        self._pairs = []
        self.events.crash()
        self.registry.close()


class ChatCase(SynchronousTestCase):
    """Tests with a server, `self.server`."""

    limits = DEFAULT_LIMITS

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.clock = QuickClock()
        self.server = self.start()
        self.addCleanup(lambda: self.server.stop())

    def start(self) -> ChatServer:
        return ChatServer(self.folder, self.clock, self.limits, self.connect)

    def restart(self) -> None:
        """The server is killed, and started again on what it left."""
        self.server.stop()
        self.server = self.start()

    def connect(self, services: Any, **options: Any) -> Any:
        return make_pair(services, latency=0.01, **options)

    def client(self, user: str | None = None, name: str = "") -> ChatClient:
        """A client of that user, or a guest's, in a session of its own."""
        self.pair = self.server.pair(user)
        return ChatClient(self.pair.client, name)

    def person(self, name: str, room: str = "lobby") -> ChatClient:
        """A client whose user has that name, in a room."""
        client = self.client(name, name)
        self.run_now(client.join(room))
        return client

    def reconnecting(self, user: str | None, name: str = "") -> ChatClient:
        """A client that goes on with whichever server there is; `self.pair` is its session."""

        def connect() -> Deferred[Session]:
            self.pair = self.server.pair(user, connect=False)
            return self.pair.client.when_connected()

        service = ReconnectingClient(connect, clock=self.clock, retry_policy=lambda _: 0.5)
        service.startService()
        self.addCleanup(service.stopService)
        return ChatClient(service.when_connected, name, clock=self.clock)

    def run_now(self, deferred: Deferred[Any]) -> Any:
        return self.pair.run(deferred)

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    def fails(self, deferred: Deferred[Any], error: type[Exception], code: int = 0) -> Any:
        """It fails with this error, and code."""
        with self.assertRaises(error) as raised:
            self.run_now(deferred)
        if code:
            self.assertEqual(getattr(raised.exception, "code", None), code, raised.exception)
        return raised.exception

    def heard(self, client: ChatClient, seconds: float = 0.1) -> list[Notice]:
        """All notices that come to a client within so many seconds."""
        self.advance(seconds)
        found = []
        while (taking := client.get()).called:
            found.append(self.successResultOf(taking))
        taking.addErrback(lambda _: None)
        taking.cancel()
        return found

    def shown(self, client: ChatClient) -> list[tuple[str, ...]]:
        """The same, in short: kind, room, name, target and text as far as there are any."""
        return [
            (one.kind.name, *filter(None, (one.room, one.name, one.target, one.text)))
            for one in self.heard(client)
        ]

    def said(self, client: ChatClient) -> list[str]:
        """What is said within a moment."""
        return [one.text for one in self.heard(client) if one.kind is NoticeKind.SAID]
