"""The server's side of key-value: what it offers, and the file behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.services.kv.announcing import Publish, announce
from jetstreamproto.services.kv.model import KV
from jetstreamproto.services.kv.requests import KeyValueChannel
from jetstreamproto.services.kv.sqlite import InThread, SqliteStore
from jetstreamproto.services.kv.store import Store
from jetstreamproto.services.kv.watching import Watches
from jetstreamproto.services.kv.worker import Worker
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

FILE = "kv.sqlite"
"""The name of the store's file in the data folder."""


def _unix_milliseconds() -> int:
    return time.time_ns() // 1_000_000


def allow_defaults(
    session: Session, service: str, scope: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    """Permissions where there are no rules."""
    return tuple(default)


class KeyValueOffer(Offer):
    """Key-value, kept in a file in the folder `data_dir`.

    What a peer may read and write is up to `permissions`; without any it is everything, for
    those whom the factory's `access` lets use the service. `limit` is the most that the file may
    take, in bytes, and `now` the time in Unix milliseconds. The file is opened when the server
    starts, or if there is none yet, made when somebody first uses the service. `publish` takes
    changes as events, see `announcing`.
    """

    single = True

    def __init__(
        self,
        data_dir: Path,
        permissions: Permissions = allow_defaults,
        limit: int = 1 << 30,
        now: Callable[[], int] = _unix_milliseconds,
        in_thread: InThread | None = None,
        publish: Publish | None = None,
    ) -> None:
        super().__init__({KV: self._make})
        self._now = now
        self._in_thread = in_thread
        self._path = data_dir / FILE
        self._permissions = permissions
        self._limit = limit
        self._committed = partial(announce, publish) if publish is not None else None
        self._reactor: Any = None
        self._worker: Worker | None = None
        self._open: tuple[SqliteStore, Watches] | None = None

    def start(self, reactor: Any) -> None:
        self._reactor = reactor
        if self._path.exists():
            self.open_store()

    def stop(self) -> Deferred[None] | None:
        if self._open is None:
            return None
        closed = self._open[0].close()
        if self._worker is not None:
            closed.addCallback(lambda _, worker: worker.stop(), self._worker)
        return closed

    def open_store(self) -> tuple[Store, Watches]:
        """The store and its watches. Raises `ConfigurationError` when it cannot be opened."""
        if self._open is None:
            if self._in_thread is None:  # the reactor's pool may be busy with names that are slow
                self._in_thread = self._worker = Worker(self._reactor.callFromThread)
            store = SqliteStore(
                self._path,
                self._reactor,
                self._now,
                self._in_thread,
                self._limit,
                self._committed,
            )
            self._open = store, Watches(store, self._reactor)
        return self._open

    def _make(self) -> ChannelProtocol:
        return KeyValueChannel(self.open_store, self._permissions)
