"""Commands that go on when their session is lost: as soon as there is one again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred

from jetstreamproto.cli.connection import run_sessions
from jetstreamproto.cli.options import ConnectionOptions
from jetstreamproto.cli.output import note
from jetstreamproto.client import ReconnectingClient
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.session.session import Session

T = TypeVar("T")

KeptWork = Callable[[ReactorBase, ReconnectingClient], Coroutine[Deferred[Any], Any, T]]
"""What a command does with sessions; they are ended when it returns."""


def run_kept(options: ConnectionOptions, work: KeptWork[T]) -> T:
    """What `work(reactor, sessions)` returns, once there is a session. Runs the reactor.

    Raises what keeps the first session from being made, or what `work` raises.
    """

    async def keep(
        reactor: ReactorBase,
        _factory: JetStreamClientFactory,
        connect: Callable[[], Deferred[Session]],
    ) -> T:
        sessions = ReconnectingClient(announced(connect))
        sessions.startService()
        try:
            await sessions.when_connected(fail_after=1)
            return await work(reactor, sessions)
        finally:
            await sessions.stopService()

    return run_sessions(options, keep)


def announced(connect: Callable[[], Deferred[Session]]) -> Callable[[], Deferred[Session]]:
    """`connect`, which says when a session is lost and when there is one again."""
    has_been, is_lost = False, False

    def made(session: Session) -> Session:
        nonlocal has_been, is_lost
        if is_lost:
            note("connected again")
        has_been, is_lost = True, False
        return session

    def again() -> Deferred[Session]:
        nonlocal is_lost
        if has_been and not is_lost:
            is_lost = True
            note("the connection is lost; trying again")
        return connect().addCallback(made)

    return again
