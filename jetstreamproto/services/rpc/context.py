"""What a method may know about the call that it is working for."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jetstreamproto.services.rpc.messages import Metadata
from jetstreamproto.session.session import Session
from jetstreamproto.transports.link import Peer


class RpcContext:
    """Given to a method that has a parameter of this type.

    When the caller gives up, or the deadline passes, `cancelled` becomes True and the Deferred
    that the method waits for is cancelled: `CancelledError` is raised at its `await`.
    """

    __slots__ = ("_closing", "_deadline", "cancelled", "metadata", "method", "session")

    def __init__(
        self, session: Session, method: str, metadata: Metadata, deadline: float | None
    ) -> None:
        self.session = session
        """The session that the call came by; its avatar is the user who logged in."""
        self.method = method
        self.metadata = metadata
        """What the caller sent along, text by name."""
        self.cancelled = False
        self._deadline = deadline
        self._closing: list[Deferred[None]] | None = []

    @property
    def peer(self) -> Peer:
        """Who calls: the address, and the fingerprint that it proved, if it did."""
        return self.session.peer

    @property
    def clock(self) -> IReactorTime:
        """The clock that deadlines go by."""
        return self.session.clock

    @property
    def closing(self) -> bool:
        """Whether this side or the caller is about to end the session."""
        return self._closing is None

    def when_closing(self) -> Deferred[None]:
        """Fires when the session is about to end: a method without an end should find one now."""
        waiter: Deferred[None] = Deferred(self._forget)
        if self._closing is None:
            waiter.callback(None)
        else:
            self._closing.append(waiter)
        return waiter

    def close(self) -> None:
        """The session is about to end."""
        waiting, self._closing = self._closing, None
        for waiter in waiting or ():
            waiter.callback(None)

    def _forget(self, waiter: Deferred[None]) -> None:
        if self._closing is not None:
            self._closing.remove(waiter)

    def time_left(self) -> float | None:
        """Seconds until the deadline, 0.0 when it has passed, None when there is none.

        Give it as the `timeout` of calls that are made for this one, so that they share it.
        """
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self.clock.seconds())
