"""`JetStreamProtocol`: one TCP connection of a Twisted application, carrying one session."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from jetstreamproto.security.handshake import Handshake
from jetstreamproto.security.records import DEFAULT_LIMITS, RecordLimits, alert_record
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.streams import tune_stream
from jetstreamproto.transports.tcp import TcpLink

_GOODBYE = 2.0
"""Seconds that a peer which is turned away has to read why."""


class JetStreamProtocol(Protocol):
    """What `JetStreamServerFactory` and `JetStreamClientFactory` build for each connection.

    Use `session`, or await `when_connected()`, and leave the rest to the reactor. `on_lost` is
    called when the connection is gone.
    """

    def __init__(
        self,
        session: Session,
        handshake: Handshake,
        limits: RecordLimits = DEFAULT_LIMITS,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.session = session
        self._handshake: Handshake | None = handshake
        self._limits = limits
        self._on_lost = on_lost
        self._link: TcpLink

    def when_connected(self) -> Deferred[Session]:
        """Fires with the session once the peer has answered under its keys."""
        return self.session.when_connected()

    def connectionMade(self) -> None:
        assert self.transport is not None and self._handshake is not None
        session = self.session
        unsent = tune_stream(self.transport, session.clock)
        handshake, self._handshake = self._handshake, None
        self._link = TcpLink(
            self.transport, session, handshake, self._limits, unsent, session.timeouts
        )
        self.session.start(self._link)
        self._link.start()

    def dataReceived(self, data: bytes) -> None:
        self._link.data_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        try:
            self._link.connection_lost()
            self.session.let_go()
        finally:
            if self._on_lost is not None:
                self._on_lost()


class TurnedAway(Protocol):
    """Tells a peer why there is no session for it, and closes when the peer has read that.

    Closing at once would meet the peer's hello with a reset, which takes the reason with it.
    """

    def __init__(self, why: str, clock: IReactorTime) -> None:
        self._why = why
        self._clock = clock
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        transport = self.transport
        assert transport is not None
        transport.write(alert_record(self._why))
        if hasattr(transport, "loseWriteConnection"):
            transport.loseWriteConnection()
            self._deadline = self._clock.callLater(_GOODBYE, transport.abortConnection)  # type: ignore[attr-defined]
        else:
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
