"""`TcpSide`: a TCP connection as a relay uses it."""

from __future__ import annotations

import socket
from typing import Any
from typing import Protocol as Interface

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.session.codes import MAX_FRAGMENT

READ_SIZE = MAX_FRAGMENT
"""Bytes that are read from a socket at a time: what one packet carries, so nothing is cut."""


class TcpUser(Interface):
    """Who is told what happens on a TCP connection."""

    def tcp_received(self, data: bytes) -> None:
        """Bytes came."""

    def tcp_ended(self) -> None:
        """The other program will send no more."""

    def tcp_lost(self, reason: Failure) -> None:
        """The connection is gone: `ConnectionDone` if this side closed it."""


@implementer(IHalfCloseableProtocol, IPullProducer)
class TcpSide(Protocol):
    """A TCP connection. Its `user` may change, and is told nothing while it is None."""

    transport: Any

    def __init__(self, user: TcpUser | None = None) -> None:
        self.user = user
        self.lost = False
        self.ended = False
        """Whether the other program has ended its direction."""
        self._source: Any = None  # what is paused while the socket takes no more
        self._blocked = False
        self._eager = False
        self._end_sent = False

    def write(self, data: bytes) -> None:
        """Write now what the socket takes. If that is not all, the source is paused until it is."""
        if self.lost:
            return
        if self._eager and not self._blocked:
            written = self.transport.writeSomeData(data)
            if written == len(data):
                return
            if isinstance(written, int) and written > 0:
                data = data[written:]
            # an error will meet the transport again in its own write, where it is handled
        self.transport.write(data)
        if not self._blocked and self._source is not None:
            self.transport.registerProducer(self, False)
            self._blocked = True
            self._source.pauseProducing()

    def feed_from(self, source: Any) -> None:
        """Pause and resume `source`, a push producer, as the socket has room."""
        self._source = source

    def end(self) -> None:
        """Send what was written and then the end of this direction."""
        if not self.lost:
            self._unblock()
            self.transport.loseWriteConnection()

    def close(self) -> None:
        """Close once what was written is sent."""
        if not self.lost:
            self._unblock()
            self.transport.loseConnection()

    def abort(self) -> None:
        """Reset the connection, as a program that dies with bytes unread does."""
        self.user = None
        if not self.lost:
            self._unblock()
            self.transport.abortConnection()

    def _unblock(self) -> None:
        self._source = None
        if self._blocked:
            self._blocked = False
            self.transport.unregisterProducer()

    # --- IProtocol, IHalfCloseableProtocol, IPullProducer ---------------------------------

    def connectionMade(self) -> None:
        transport = self.transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)  # so that a host that is gone is noticed at last
        transport.bufferSize = READ_SIZE
        self._eager = isinstance(transport, FileDescriptor)

    def dataReceived(self, data: bytes) -> None:
        if self.user is not None:
            self.user.tcp_received(data)

    def readConnectionLost(self) -> None:
        if self._is_reset():
            self.transport.abortConnection()  # `connectionLost` follows
            return
        self.ended = True
        if self.user is not None:
            self.user.tcp_ended()
        self._close_if_done()

    def writeConnectionLost(self) -> None:
        self._end_sent = True
        self._close_if_done()

    def _is_reset(self) -> bool:
        """Whether the connection has in truth been reset.

        Linux may report an error before it reports that nothing can be read any more (tcp_poll),
        and Twisted's reactors take an error without anything to be read for an end.
        """
        handle = getattr(self.transport, "socket", None)
        if not isinstance(handle, socket.socket):
            return False
        return handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def _close_if_done(self) -> None:
        if self.ended and self._end_sent:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._source = None
        if self.user is not None:
            self.user.tcp_lost(reason)

    def resumeProducing(self) -> None:
        """Everything that was written has been taken by the socket."""
        if self._blocked:
            source = self._source
            self._blocked = False
            self.transport.unregisterProducer()
            if source is not None:
                source.resumeProducing()

    def stopProducing(self) -> None:
        """`connectionLost` follows."""
