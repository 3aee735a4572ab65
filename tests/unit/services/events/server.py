"""A server of events in virtual time: a real database, and a journal without its thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.client import ReconnectingClient
from jetstreamproto.services.events.broker import EventBroker
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.journal import Work, answer, write_group
from jetstreamproto.services.events.messages import EVENTS
from jetstreamproto.services.events.model.limits import DEFAULT_LIMITS, EventLimits
from jetstreamproto.services.events.reader import EventReader
from jetstreamproto.services.events.service import event_service
from jetstreamproto.services.events.store import EventStore, open_database
from jetstreamproto.session.session import Session
from jetstreamproto.testing import SessionPair
from tests.doubles import QuickClock, make_pair

COMMIT = 0.001
"""Seconds that a commit takes."""
EPOCH = 1_700_000_000 * 1_000_000


class VirtualJournal:
    """Commits what waits `COMMIT` seconds after the first of it, as the thread would."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self.waiting = 0
        self.commits = 0
        self.held = False
        """Commit nothing for now."""
        self._store = store
        self._clock = clock
        self._queue: list[tuple[Work, Deferred[Any], int]] = []
        self._room: list[Deferred[None]] = []

    def submit(self, work: Work, size: int = 0) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        if not self._queue and not self.held:
            self._clock.callLater(COMMIT, self.commit)
        self._queue.append((work, waiting, size))
        self.waiting += size
        return waiting

    def commit(self) -> None:
        if self.held or not self._queue:
            return
        queue, self._queue = self._queue, []
        self.commits += 1
        outcomes = write_group(self._store, [(work, waiting) for work, waiting, _ in queue])
        self.waiting -= sum(size for _, _, size in queue)
        answer(outcomes)
        rooms, self._room = self._room, []
        for room in rooms:
            room.callback(None)

    def release(self) -> None:
        self.held = False
        self.commit()

    def when_below(self, size: int) -> Deferred[None]:
        room: Deferred[None] = Deferred()
        if self.waiting < size:
            room.callback(None)
        else:
            self._room.append(room)
        return room

    def stop(self) -> Deferred[None]:
        self.held = False
        self.commit()
        self._store.close()
        return succeed(None)


class EventServer:
    """A broker on a database in `folder`, and sessions with it."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        limits: EventLimits = DEFAULT_LIMITS,
        connect: Callable[..., Any] = make_pair,
    ) -> None:
        path = folder / "events.sqlite"
        open_database(path)
        self.clock = clock
        self.store = EventStore(path, limits.publishers)
        self.reader = EventReader(path)
        self.journal = VirtualJournal(self.store, clock)
        self.granted: dict[str, tuple[str, ...]] = {}
        self._pairs: list[SessionPair] = []
        self._crashed = False
        self._connect = connect
        journal: Any = self.journal
        self.broker = EventBroker(journal, self.reader, clock, self.wall, limits)

    def wall(self) -> int:
        return EPOCH + round(self.clock.seconds() * 1e6)

    def permissions(
        self, session: Session, service: str, scope: str, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        return self.granted.get(scope, tuple(default))

    def pair(self, **options: Any) -> SessionPair:
        """A new session with it."""
        service = event_service(lambda: self.broker, self.permissions)
        pair: SessionPair = self._connect({EVENTS: service}, clock=self.clock, **options)
        self._pairs.append(pair)
        return pair

    def crash(self) -> None:
        """Nothing that is not on disk is left."""
        if self._crashed:
            return
        self._crashed = self.journal.held = True
        for pair in self._pairs:
            for session in (pair.server, pair.client):
                session.abort()
            pair.advance(0)
        if self.broker._trimming is not None:
            self.broker._trimming.cancel()
        self.store._db.close()
        self.reader.close()


class EventCase(SynchronousTestCase):
    """Tests with a server, `self.server`, a session, `self.pair`, and a client of it."""

    limits = DEFAULT_LIMITS

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.clock = QuickClock()
        self.server = EventServer(self.folder, self.clock, self.limits, self.connect)
        self.addCleanup(self.server.crash)
        self.pair = self.server.pair(latency=0.01)
        self.client = EventClient(self.pair.client)

    def connect(self, services: Any, **options: Any) -> Any:
        return make_pair(services, **options)

    def run_now(self, deferred: Deferred[Any]) -> Any:
        return self.pair.run(deferred)

    def restart(self) -> None:
        """The server is killed, and started again on what it left."""
        self.server.crash()
        self.server = EventServer(self.folder, self.clock, self.limits, self.connect)
        self.addCleanup(self.server.crash)

    def reconnecting(self) -> ReconnectingClient:
        """A client service that makes a session with whichever server there is."""

        def connect() -> Deferred[Session]:
            self.pair = self.server.pair(latency=0.01, connect=False)
            return self.pair.client.when_connected()

        service = ReconnectingClient(connect, clock=self.clock, retry_policy=lambda _: 0.5)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    def take(self, subscription: Any, count: int) -> list[Any]:
        """The next `count` events."""
        found: list[Any] = []
        while len(found) < count:
            found.append(self.run_now(subscription.get()))
        return found

    def waits(self, deferred: Deferred[Any], seconds: float = 1.0) -> None:
        """Nothing comes of it within so many seconds; it is cancelled then."""
        self.advance(seconds)
        self.assertNoResult(deferred)
        deferred.addErrback(lambda _: None)
        deferred.cancel()
