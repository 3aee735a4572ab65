"""The server's side of chat: what it offers, and the file behind it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.chat.hall import Hall
from jetstreamproto.services.chat.messages import CHAT
from jetstreamproto.services.chat.model.limits import DEFAULT_LIMITS, ChatLimits
from jetstreamproto.services.chat.registry import FILE, Registry
from jetstreamproto.services.chat.visitor import Visitor
from jetstreamproto.services.events.offer import EventOffer
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.session.session import Session


class ChatOffer(Offer):
    """Chat, kept in the folder `data_dir` and in the broker of `events`, which starts before it.

    Which rooms a peer may enter is up to `permissions`; without any, every room.
    """

    single = True

    def __init__(
        self,
        data_dir: Path,
        events: EventOffer,
        permissions: Permissions | None = None,
        limits: ChatLimits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__({CHAT: lambda: Visitor(lambda: self.hall)})
        self.hall: Hall
        self._folder = data_dir
        self._events = events
        self._permissions = permissions or _default_permissions
        self._limits = limits
        self._reactor: Any = None
        self._registry: Registry | None = None
        self._threads = ThreadPool(0, 1, "chat")

    def start(self, reactor: Any) -> None:
        """Open the file, and read the history. Raises `ConfigurationError`."""
        self._reactor = reactor
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--data-dir: {self._folder}: {error.strerror}") from error
        self._registry = Registry(self._folder / FILE, self._in_thread)
        self._threads.start()
        self.hall = Hall(
            self._events.broker,
            self._registry,
            self._permissions,
            self._limits,
            reactor,
            lambda: time.time_ns() // 1000,
            lambda: random.getrandbits(32),
        )

    def stop(self) -> Deferred[None] | None:
        """Fires when everything is on disk."""
        if self._registry is None:
            return None
        registry, self._registry = self._registry, None

        def stopped(_: None) -> None:
            self._threads.stop()
            registry.close()

        return self._in_thread(lambda: None).addCallback(stopped)  # behind what waits

    def _in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        return deferToThreadPool(self._reactor, self._threads, work)


def _default_permissions(
    session: Session, service: str, scope: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    return tuple(default)
