"""The journal: one thread that writes, and commits whatever waits in one transaction.

While one transaction is being put on disk the next work collects, so the number of commits a second
is what the disk allows, and each carries as much as came meanwhile (group commit).
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from jetstreamproto.errors import EventError, JetStreamError
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.store import EventStore

T = TypeVar("T")
Work = Callable[[EventStore], Any]
"""Something to write. An `EventError` fails it alone, and only before it has written anything."""
Outcome = tuple["Deferred[Any]", Any]
"""Who waits, and for what: a result, or the exception instead."""

_log = Logger()

_GROUP = 16 << 20  # bytes of events in one transaction
_PATIENCE = 10.0  # seconds for the last commit when the journal stops


def write_group(store: EventStore, group: list[tuple[Work, Deferred[Any]]]) -> list[Outcome]:
    """Do all of `group` in one transaction, and say what came of each."""
    outcomes: list[Outcome] = []
    try:
        store.begin()
        for work, waiting in group:
            try:
                outcomes.append((waiting, work(store)))
            except EventError as refusal:
                outcomes.append((waiting, refusal))
        store.commit()
    except Exception as error:
        _log.failure("events could not be stored")
        failure = EventError(EventCode.STORE_FAILED, f"not stored: {error}")
        try:
            store.roll_back()
        except sqlite3.Error:
            _log.failure("the store of events does not recover")
        return [(waiting, failure) for _, waiting in group]
    return outcomes


class Journal:
    """Takes work in the reactor's thread, and answers there once it is on disk.

    `call_from_thread` runs a callable in the reactor's thread.
    """

    def __init__(
        self, store: EventStore, call_from_thread: Callable[[Callable[[], None]], object]
    ) -> None:
        self.waiting = 0
        """Bytes of events that are not on disk yet."""
        self._store = store
        self._call = call_from_thread
        self._queue: deque[tuple[Work, Deferred[Any], int]] = deque()
        self._wanted = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._room: list[Deferred[None]] = []

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def submit(self, work: Callable[[EventStore], T], size: int = 0) -> Deferred[T]:
        """Have `work` done; fires with its result once that is on disk.

        `size` is what counts of it as waiting. Fails with `EventError`.
        """
        waiting: Deferred[T] = Deferred()
        with self._wanted:
            if self._stopping:
                waiting.errback(EventError(EventCode.STORE_FAILED, "the server is stopping"))
                return waiting
            self._queue.append((work, waiting, size))
            self.waiting += size
            self._wanted.notify()
        return waiting

    def when_below(self, size: int) -> Deferred[None]:
        """Fires when fewer than `size` bytes wait, or soon after."""
        room: Deferred[None] = Deferred()
        if self.waiting < size:
            room.callback(None)
        else:
            self._room.append(room)
        return room

    def stop(self) -> Deferred[None]:
        """Write what waits, then end; fires when the database is closed."""
        done: Deferred[None] = Deferred()
        with self._wanted:
            self._stopping = True
            self._wanted.notify()
        closer = threading.Thread(target=self._finish, args=(done,), daemon=True)
        closer.start()
        return done

    def _finish(self, done: Deferred[None]) -> None:
        self._thread.join(_PATIENCE)
        self._call(lambda: done.callback(None))

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not self._queue and not self._stopping:
                    self._wanted.wait()
                if not self._queue:
                    break
                group, size = [], 0
                while self._queue and size < _GROUP:
                    work, waiting, cost = self._queue.popleft()
                    group.append((work, waiting))
                    size += cost
            outcomes = write_group(self._store, group)
            self._call(lambda o=outcomes, s=size: self._answer(o, s))  # type: ignore[misc]
        self._store.close()

    def _answer(self, outcomes: list[Outcome], size: int) -> None:
        with self._wanted:
            self.waiting -= size
        answer(outcomes)
        rooms, self._room = self._room, []
        for room in rooms:
            room.callback(None)


def answer(outcomes: list[Outcome]) -> None:
    """Tell everybody who waits what came of it."""
    for waiting, outcome in outcomes:
        if isinstance(outcome, JetStreamError):
            waiting.errback(outcome)
        else:
            waiting.callback(outcome)
