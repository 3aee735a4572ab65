"""Byte streams: a Twisted transport over one channel.

`ChannelTransport` is the protocol of a channel to the session, and the transport of a connection
to any Twisted protocol. It behaves as Twisted's TCP transport does: what is written in one turn of
the reactor goes together, nothing is called back from within a call, and `loseConnection` lets
go only when all has been handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.log import callWithContext
from zope.interface import implementer

from jetstreamproto.address import JetStreamAddress, split_host_port
from jetstreamproto.errors import ChannelClosed, JetStreamError
from jetstreamproto.session.codes import MAX_FRAGMENT, ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.transports.link import transport_name
from jetstreamproto.writebuffer import WriteBuffer

_log = Logger()

_HIGH_WATER = 1 << 18
"""Bytes that wait beyond which a push producer is paused, and that the channel is given ahead."""
_LOW_WATER = _HIGH_WATER >> 1
_LINGER = 5.0
"""Seconds for which a peer may go on sending to a connection that is closed; then it is reset.

TCP resets at once, and thereby takes back what the peer has not read yet."""

BuildProtocol = Callable[[IAddress], IProtocol | None]
"""A factory's `buildProtocol`: the protocol for a connection with that address, None for none."""


@implementer(ITCPTransport, IConsumer, IPushProducer, ILoggingContext)
class ChannelTransport(ChannelProtocol):
    """A connection over one channel. `build` makes its protocol once the channel is open.

    `local` is this end's host and port, if they are known. `on_lost` is called after the
    protocol's `connectionLost`.
    """

    def __init__(
        self,
        build: BuildProtocol,
        local: tuple[str, int] = ("", 0),
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.protocol: IProtocol | None = None
        self.connected = self.disconnecting = self.disconnected = False
        self._build: BuildProtocol | None = build
        self._local = local
        self._on_lost = on_lost
        self._prefix = "-"
        self._buffer = WriteBuffer()
        self._turn: IDelayedCall | None = None  # which flushes what was written
        self._delivering = False  # a protocol's method is running: what it writes is flushed after
        self._aborting = False
        self._write_ending = False  # `loseWriteConnection` was called
        self._write_ended = False  # and all before it was sent
        self._ended_at: float | None = None  # when a closed connection had sent everything
        self._paused = False
        self._resuming: IDelayedCall | None = None
        self._producer: IProducer | None = None
        self._streaming = False
        self._producer_paused = False
        self._no_delay = self._keep_alive = True

    # --- ITransport: writing -----------------------------------------------------------

    def write(self, data: bytes) -> None:
        _check_bytes(data)
        if data and self._takes_data:
            self._buffer.append(data)
            self._written()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        pieces = list(data)
        for piece in pieces:
            _check_bytes(piece)
        if self._takes_data:
            for piece in filter(None, pieces):
                self._buffer.append(piece)
            self._written()

    @property
    def _takes_data(self) -> bool:
        return self.connected and not self._write_ended and not self._aborting

    @property
    def _pending(self) -> int:
        """Bytes that were written and not handed to the session's link yet."""
        return self._buffer.size + self.channel.queued

    def _written(self) -> None:
        self._flush_later()
        if self._streaming and not self._producer_paused and self._pending > _HIGH_WATER:
            producer = self._producer
            if producer is not None:
                self._producer_paused = True
                producer.pauseProducing()  # type: ignore[attr-defined]

    def _flush_later(self) -> None:
        if self._turn is None and not self._delivering:
            self._turn = self._clock.callLater(0, self._flush)

    @property
    def _clock(self) -> Any:
        return self.channel.session.clock

    def _flush(self) -> None:
        """Hand over what was written, and what follows from that."""
        turn, self._turn = self._turn, None
        if turn is not None and turn.active():
            turn.cancel()
        self.refill()
        self.channel.session.outbox.pump()

    def refill(self) -> None:
        """The channel has room: give it more, and end what was waiting for that."""
        if self._aborting:
            return
        self._fill()
        producer, wanted = self._producer, self._producer_paused or not self._streaming
        if producer is not None and wanted and self._pending <= _LOW_WATER:
            self._producer_paused = False
            self._call(producer.resumeProducing)  # type: ignore[attr-defined]
            self._fill()
        if self._producer is None and not self._pending:
            self._all_sent()

    def _fill(self) -> None:
        channel, buffer = self.channel, self._buffer
        if buffer.size:
            session = channel.session
            most = min(MAX_FRAGMENT, session.peer_hello.max_message)
            ahead = min(_HIGH_WATER, session.settings.send_limit)
            try:
                while buffer.size and channel.queued < ahead:
                    channel.send(buffer.take(most))
            except ChannelClosed:  # by somebody else, who closes the session
                channel.reset(ResetCode.CANCELLED, "it ended with bytes left to send")

    def _all_sent(self) -> None:
        """Everything that was written has been handed over, and nobody produces more."""
        if self.disconnecting or self.disconnected:
            if self._ended_at is None:
                self._ended_at = self._clock.seconds()
                self.channel.end()
            self._lost(Failure(ConnectionDone()))
        elif self._write_ending and not self._write_ended:
            self._write_ended = True
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                self._call(half.writeConnectionLost)
            self.channel.end()

    # --- ITransport: ends --------------------------------------------------------------

    def loseConnection(self) -> None:
        """Close once everything that is written or produced has been handed over."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._resume_later()  # what comes now is dropped, and must not stop the peer
            self._flush_later()

    def loseWriteConnection(self) -> None:
        """Say that no more comes, once everything has been handed over; reading goes on."""
        if self.connected and not self._write_ending:
            self._write_ending = True
            self._flush_later()

    def abortConnection(self) -> None:
        """Drop the connection and what it has not sent; the peer sees a cut."""
        if self.connected and not self._aborting:
            self._aborting = self.disconnecting = True
            clock = self._clock
            self.channel.reset(ResetCode.CANCELLED, "the connection was aborted")
            clock.callLater(0, self._lost, Failure(ConnectionAborted()))

    def _lost(self, reason: Failure) -> None:
        """The connection is over for the protocol."""
        if not self.connected:
            return
        self.connected, self.disconnected = False, True
        protocol, self.protocol = self.protocol, None
        producer, self._producer = self._producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        assert protocol is not None
        self._call(protocol.connectionLost, reason)
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()

    def _failed(self, failure: Failure, what: str) -> None:
        """The protocol has raised an exception, which costs it its connection."""
        _log.failure("{prefix}: {what} failed", failure, prefix=self._prefix, what=what)
        if self.connected and not self._aborting:
            self._aborting = True
            self.channel.reset(ResetCode.INTERNAL_ERROR, "the application failed")
            self._lost(failure)

    def _call(self, call: Callable[..., Any], *args: Any) -> None:
        """Call the protocol or a producer of it, in its log context."""
        delivering, self._delivering = self._delivering, True
        try:
            callWithContext({"system": self._prefix}, call, *args)
        except Exception:
            self._failed(Failure(), getattr(call, "__name__", "a call"))
        finally:
            self._delivering = delivering

    # --- ITransport: addresses ---------------------------------------------------------

    def getPeer(self) -> JetStreamAddress:  # type: ignore[override]
        peer = self.channel.session.peer
        return self._address(*split_host_port(peer.address), peer.fingerprint)

    def getHost(self) -> JetStreamAddress:  # type: ignore[override]
        return self._address(*self._local, None)

    def _address(self, host: str, port: int, fingerprint: str | None) -> JetStreamAddress:
        link, service = self.channel.session.link, self.channel.service
        return JetStreamAddress(host, port, transport_name(link), service, fingerprint)

    # --- ITCPTransport: what only matters to TCP -----------------------------------------

    def getTcpNoDelay(self) -> bool:
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing but what is asked for in one turn of the reactor waits for company here."""
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Sessions always find out whether their peer is alive."""
        self._keep_alive = bool(enabled)

    # --- IConsumer ----------------------------------------------------------------------

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(
                f"cannot register producer {producer}: {self._producer} was never unregistered"
            )
        if not self.connected or self._aborting:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._producer_paused = False
        if not streaming:
            producer.resumeProducing()  # type: ignore[attr-defined]

    def unregisterProducer(self) -> None:
        self._producer = None
        self._streaming = False
        if self.connected and (self.disconnecting or self._write_ending) and not self._aborting:
            self._flush_later()

    def stopConsuming(self) -> None:
        self.unregisterProducer()
        self.loseConnection()

    # --- IPushProducer: reading -----------------------------------------------------------

    def pauseProducing(self) -> None:
        """Call no `dataReceived` until `resumeProducing`; the peer is stopped by its credit."""
        if self.connected and not self.disconnecting:
            self._paused = True
            if self._resuming is not None:
                self._resuming.cancel()
                self._resuming = None
            self.channel.pauseProducing()

    def resumeProducing(self) -> None:
        """Call `dataReceived` again, from the next turn of the reactor on."""
        if self.connected and not self.disconnecting:
            self._resume_later()

    def stopProducing(self) -> None:
        self.loseConnection()

    def _resume_later(self) -> None:
        if self._paused and self._resuming is None:
            self._resuming = self._clock.callLater(0, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._paused = False
        self.channel.resumeProducing()

    # --- ILoggingContext --------------------------------------------------------------------

    def logPrefix(self) -> str:
        return self._prefix

    # --- ChannelProtocol ----------------------------------------------------------------------

    def channel_opened(self) -> None:
        build, self._build = self._build, None
        assert build is not None
        self.channel.registerProducer(_Refill(self), False)
        protocol = build(self.getPeer())
        if protocol is None:
            self.channel.reset(ResetCode.CANCELLED, "nobody takes this connection")
            return
        logged = ILoggingContext(protocol, None)
        prefix = type(protocol).__name__ if logged is None else logged.logPrefix()
        self._prefix = f"{prefix},{self.channel.service}"
        self.protocol = protocol
        self.connected = True
        self._call(protocol.makeConnection, self)
        if self.connected:
            self._flush_later()

    def message_received(self, message: bytes) -> None:
        if not self.connected or self.disconnecting:
            self._late_data()
        elif message:
            assert self.protocol is not None
            self._call(self.protocol.dataReceived, message)
            if self._buffer.size or self.disconnecting or self._write_ending:
                self._flush()

    def _late_data(self) -> None:
        """What comes for a closed connection is dropped, for as long as it may be under way."""
        ended = self._ended_at
        if ended is not None and self._clock.seconds() - ended > _LINGER:
            self.channel.reset(ResetCode.CANCELLED, "the connection is closed")

    def end_received(self) -> None:
        if not self.connected or self.disconnecting:
            return
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is not None:
            self._call(half.readConnectionLost)
        else:
            self._lost(Failure(ConnectionDone()))
        if not self._aborting:
            self._flush_later()

    def session_closing(self) -> None:
        """Go on: there is no way to tell a Twisted protocol, and the session waits a while."""

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._buffer.clear()
        for call in (self._turn, self._resuming):
            if call is not None:
                call.cancel()
        self._turn = self._resuming = None
        if not self._aborting:
            self._lost(Failure(ConnectionDone() if reason is None else _lost_by(reason)))


@implementer(IPullProducer)
class _Refill:
    """Tells a transport when its channel has room, as the channel tells a pull producer."""

    def __init__(self, transport: ChannelTransport) -> None:
        self._transport = transport

    def resumeProducing(self) -> None:
        self._transport.refill()

    def stopProducing(self) -> None:
        """`channel_closed` follows."""


def _lost_by(reason: JetStreamError) -> ConnectionLost:
    lost = ConnectionLost(str(reason))
    lost.__cause__ = reason
    return lost


def _check_bytes(data: object) -> None:
    if not isinstance(data, bytes):
        raise TypeError("Data must be bytes")  # Twisted's words
