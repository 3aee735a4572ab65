"""The events of a server: a database in the data folder, and the service over it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.events.broker import EventBroker
from jetstreamproto.services.events.journal import Journal
from jetstreamproto.services.events.messages import EVENTS
from jetstreamproto.services.events.model.limits import DEFAULT_LIMITS, EventLimits
from jetstreamproto.services.events.reader import EventReader
from jetstreamproto.services.events.service import event_service
from jetstreamproto.services.events.store import EventStore, open_database
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.session.session import Session

DATABASE = "events.sqlite"
_LOCK = "events.lock"


class EventOffer(Offer):
    """Offers `events`, kept in `folder`; `broker` is there from `start` on, for the same process.

    Without `permissions` every peer that may use the service may do everything.
    """

    single = True

    def __init__(
        self,
        folder: Path,
        permissions: Permissions | None = None,
        limits: EventLimits = DEFAULT_LIMITS,
    ) -> None:
        allowed = permissions or _default_permissions
        super().__init__({EVENTS: event_service(lambda: self.broker, allowed)})
        self.broker: EventBroker
        self._folder = folder
        self._limits = limits
        self._lock: int | None = None

    def check(self) -> None:
        if (self._folder / _LOCK).exists():
            os.close(lock_folder(self._folder))

    def start(self, reactor: Any) -> None:
        """Open the database. Raises `ConfigurationError`, also if another server has it."""
        path = self._folder / DATABASE
        self._lock = lock_folder(self._folder)
        open_database(path)
        journal = Journal(EventStore(path, self._limits.publishers), reactor.callFromThread)
        journal.start()
        self.broker = EventBroker(
            journal, EventReader(path), reactor, lambda: time.time_ns() // 1000, self._limits
        )

    def stop(self) -> Deferred[None] | None:
        """Fires when everything is on disk."""
        if self._lock is None:
            return None

        def unlock(_: None) -> None:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

        return self.broker.stop().addCallback(unlock)


def _default_permissions(
    session: Session, service: str, scope: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    return tuple(default)


def lock_folder(folder: Path) -> int:
    """The descriptor of the lock on the folder's events, which closing it gives back."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"--data-dir: {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigurationError(f"--data-dir: {folder} is used by another server") from error
    return lock
