"""The session pool: connections with equal targets share a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorCore
from twisted.python.failure import Failure

from jetstreamproto.endpoints.target import Target
from jetstreamproto.session.session import Session

IDLE = 5.0
"""Seconds for which a session that nobody uses is kept."""

OpenSession = Callable[[Any, Target, float], Deferred[Session]]


def open_session(reactor: Any, target: Target, timeout: float) -> Deferred[Session]:
    """A connected session with `target`, at most `timeout` seconds from now."""
    return target.destination(reactor, timeout).open(target.client_factory(reactor))


class SessionPool:
    """The sessions of one reactor's client endpoints.

    A session is opened for the first who wants one with its target, and closed `idle` seconds
    after the last user has let go of it.
    """

    def __init__(
        self, reactor: Any, idle: float = IDLE, open_session: OpenSession = open_session
    ) -> None:
        self.reactor = reactor
        self.idle = idle
        self._open_session = open_session
        self._shared: dict[Target, SharedSession] = {}

    def lease(self, target: Target, timeout: float) -> SharedSession:
        """The session with `target`, for one user more, who must `release` it.

        Where there is none it is opened within `timeout` seconds.
        """
        shared = self._shared.get(target)
        if shared is None or not shared.usable:
            shared = self._shared[target] = SharedSession(self, target)
            shared.start(self._open_session(self.reactor, target, timeout))
        shared.lease()
        return shared

    def close(self) -> Deferred[Any]:
        """End all sessions; fires when they are gone.

        The connections they have may finish within the drain timeout, see `Session.drain`.
        """
        return DeferredList([shared.close() for shared in tuple(self._shared.values())])

    def close_idle(self) -> Deferred[Any]:
        """End the sessions that have no connection; fires when they are gone."""
        idle = [shared for shared in self._shared.values() if not shared.in_use]
        return DeferredList([shared.close() for shared in idle])

    def forget(self, shared: SharedSession) -> None:
        """Let nobody else have that session."""
        if self._shared.get(shared.target) is shared:
            del self._shared[shared.target]


class SharedSession:
    """One session of a pool: being opened, in use, or kept for a while."""

    def __init__(self, pool: SessionPool, target: Target) -> None:
        self.target = target
        self._pool = pool
        self._users = 0
        self._session: Session | None = None
        self._opening: Deferred[Any] | None = None
        self._failure: Failure | None = None
        self._waiting: list[Deferred[Session]] = []
        self._idling: IDelayedCall | None = None

    @property
    def usable(self) -> bool:
        """Whether a new connection may be opened in it, or will."""
        session = self._session
        return self._failure is None and (session is None or session.accepts_channels)

    @property
    def connected(self) -> bool:
        """Whether there is a session, which was not opened for the one who asks."""
        return self._session is not None

    @property
    def in_use(self) -> bool:
        """Whether somebody has leased it."""
        return self._users > 0

    def start(self, opening: Deferred[Session]) -> None:
        """The session is being opened."""
        self._opening = opening
        opening.addCallbacks(self._opened, self._open_failed)

    def ready(self) -> Deferred[Session]:
        """Fires with the session; fails with what it could not be opened for."""
        waiter: Deferred[Session] = Deferred(self._waiting.remove)
        if self._failure is not None:
            waiter.errback(self._failure)
        elif self._session is not None:
            waiter.callback(self._session)
        else:
            self._waiting.append(waiter)
        return waiter

    def lease(self) -> None:
        """There is one user more."""
        self._users += 1
        self._stop_idling()

    def release(self) -> None:
        """One user is done with it."""
        self._users -= 1
        if self._users:
            return
        if self._session is None:
            self._give_up()
        else:
            self._idling = self._pool.reactor.callLater(self._pool.idle, self.close)

    def forget(self) -> None:
        """Let nobody else have it."""
        self._pool.forget(self)

    def close(self) -> Deferred[None]:
        """End the session; fires when it is gone."""
        self.forget()
        self._stop_idling()
        session = self._session
        if session is not None:
            return session.drain("the client is done") if session.channels else session.close()
        self._give_up()
        gone: Deferred[None] = Deferred()
        gone.callback(None)
        return gone

    def _give_up(self) -> None:
        self.forget()
        if self._opening is not None:
            self._opening.cancel()

    def _opened(self, session: Session) -> None:
        self._opening = None
        self._session = session
        session.when_closed().addCallback(self._gone)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(session)
        if not self._users and self._idling is None:  # all have given up, but it came to be
            self.lease()
            self.release()

    def _open_failed(self, failure: Failure) -> None:
        self._opening = None
        self._failure = failure
        self.forget()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(failure)

    def _gone(self, _: None) -> None:
        self.forget()
        self._stop_idling()

    def _stop_idling(self) -> None:
        if self._idling is not None:
            if self._idling.active():
                self._idling.cancel()
            self._idling = None


_pools: WeakKeyDictionary[Any, SessionPool] = WeakKeyDictionary()


def session_pool(reactor: Any) -> SessionPool:
    """The pool of `reactor`'s client endpoints, those that were given no other.

    Tests that must leave the reactor clean wait for its `close()`.
    """
    pool = _pools.get(reactor)
    if pool is None:
        pool = _pools[reactor] = SessionPool(reactor)
        if IReactorCore.providedBy(reactor):
            reactor.addSystemEventTrigger("before", "shutdown", pool.close_idle)
    return pool
