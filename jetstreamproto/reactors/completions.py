"""Twisted's TCP and UDP transports, moved by completions of an io_uring instead of readiness.

What a transport wants (to read, to write, neither) it only notes; once a turn the reactor has it
tell the ring, all of them with one system call. What the ring then tells comes back as events.
"""

# Mixins in front of Twisted's transports, which are mixins themselves: of what these have, a type
# checker sees nothing from here.
# mypy: disable-error-code="misc, has-type, attr-defined, no-any-return"

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet import main
from twisted.python import log

from jetstreamproto.reactors._uring import (
    ACCEPTED,
    DATAGRAM,
    DATAGRAMS,
    LISTENER,
    READ_FAILED,
    READABLE,
    RECEIVED,
    SENT,
    STREAM,
    Ring,
)
from jetstreamproto.reactors.transports import (
    TransportClasses,
    TunedClient,
    TunedConnector,
    TunedDatagramPort,
    TunedMulticastPort,
    TunedPort,
    TunedServer,
)

if TYPE_CHECKING:
    from jetstreamproto.reactors.uring import UringReactor

_SMALL_WRITE = 1 << 13
"""Bytes that are rather copied, and sent with all others of the turn, than sent at once."""
_MOST_UNSENT = 1 << 16
_SMALL_READ = 1 << 14
_SMALL_READS = 8
"""So many reads of less than so many bytes, one after the other, end the reading at once."""


READS = (RECEIVED, READABLE, READ_FAILED)
"""Events of reading a stream."""


class RingTransport:
    """What all of them share; goes in front of a Twisted transport.

    `on_ring` says that the ring serves the transport: not while a connection is being made, nor
    after the kernel refused the ring; then everything is as with epoll.
    """

    reactor: UringReactor
    kind = STREAM
    on_ring = True
    slot: int | None = None
    reading = writing = queued = False
    log_context: Any = None
    log_key: Any = None
    _armed = False
    _held: list[tuple[int, Any]] | None = None

    # --- what Twisted calls ------------------------------------------------------------

    def startReading(self) -> None:
        if not self.on_ring:
            super().startReading()
        elif not self.reading:
            self.reading = True
            self._changed()
            if self._held:
                held, self._held = self._held, None
                self.reactor.tell_again(self, held)

    def stopReading(self) -> None:
        if not self.on_ring:
            super().stopReading()
        elif self.reading:
            self.reading = False
            self._changed()

    def startWriting(self) -> None:
        if not self.on_ring:
            super().startWriting()
        elif not self.writing:
            self.writing = True
            self._changed()

    def stopWriting(self) -> None:
        if not self.on_ring:
            super().stopWriting()
        else:
            self.writing = False

    # --- what the reactor calls --------------------------------------------------------

    def flush(self, ring: Ring) -> Any:
        """Tell the ring what has changed. Returns why the transport ends now, if it does."""
        if self.slot is None:
            if not self.reading:
                return None
            self._enter(ring)
        self._flush_reading(ring)
        return None

    def completed(self, kind: int, value: Any) -> Any:
        """Take an event. Returns why the transport ends now, if it does."""
        if self.reading:
            return self._read(kind, value)
        self.hold(kind, value)
        return None

    def hold(self, kind: int, value: Any) -> None:
        """Keep what had come before the transport was paused; told again when it goes on."""
        if self._held is None:
            self._held = []
        self._held.append((kind, value))

    def is_writing(self) -> bool:
        """Whether there is anything to be written."""
        return self.writing

    def reset(self) -> None:
        """The ring is gone; another one may follow."""
        self.slot = None
        self._armed = False

    def to_epoll(self) -> None:
        """There is no ring after all."""
        reading, writing = self.reading, self.writing
        self.reset()
        self.on_ring = self.reading = self.writing = False
        if reading:
            self.startReading()
        if writing:
            self.startWriting()

    # --- for subclasses ----------------------------------------------------------------

    def _read(self, kind: int, value: Any) -> Any:
        raise NotImplementedError

    def _changed(self) -> None:
        if not self.queued:
            self.queued = True
            self.reactor.ring_changed(self)

    def _enter(self, ring: Ring) -> int:
        slot = ring.add(self.fileno(), self, self.kind)
        self.slot = slot
        self.reactor.ring_entered(self)
        return slot

    def _leave(self) -> None:
        """The socket is about to be closed: end what the kernel does with it."""
        if self.slot is not None:
            held, self._held = self._held, None
            for kind, value in held or ():
                drop_event(kind, value)
            self.reactor.ring_left(self)

    def _flush_reading(self, ring: Ring) -> None:
        reading = self.reading
        if reading is not self._armed:
            assert self.slot is not None
            self._armed = reading
            ring.receive(self.slot, reading)


def drop_event(kind: int, value: Any) -> None:
    """Give back what an event has, for which there is no transport any more."""
    if kind == ACCEPTED:
        os.close(value)


class _RingStream(RingTransport):
    """A TCP connection."""

    _small_reads = 0

    def write(self, data: bytes) -> None:
        """As `FileDescriptor.write`, with less in the way."""
        if self.TLS or not self.on_ring:
            super().write(data)
            return
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if data and self.connected and not self._writeDisconnected:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            if self.producer is not None:
                self._maybePauseProducer()
            if not self.writing:
                self.writing = True
                if not self.queued:
                    self.queued = True
                    self.reactor.ring_changed(self)

    def writeSomeData(self, data: Any) -> Any:
        """Send now, or with others at the end of the turn: how many bytes were taken."""
        if not self.on_ring or self.reactor.ring is None:
            return super().writeSomeData(data)
        unsent = self._unsent()
        size = len(data)
        if size <= _SMALL_WRITE:
            if unsent + size > _MOST_UNSENT:
                return 0
            self._tempDataBuffer.append(bytes(data))
            self._tempDataLen += size
            self.startWriting()
            return size
        if unsent and not self._write_before():
            return 0
        return super().writeSomeData(data)

    def _write_before(self) -> bool:
        """Send what was noted in this turn ahead of something large; whether all of it went."""
        if self.slot is not None and self.reactor.unsent(self):
            return False  # the ring is sending, and others may not
        noted = b"".join(self._tempDataBuffer)
        sent = super().writeSomeData(noted)
        if not isinstance(sent, int):
            return False
        rest = noted[sent:]
        self._tempDataBuffer = [rest] if rest else []
        self._tempDataLen = len(rest)
        return not rest

    def _isSendBufferFull(self) -> bool:
        if not self.on_ring:
            return bool(super()._isSendBufferFull())
        return self._unsent() > self.bufferSize

    def _unsent(self) -> int:
        noted: int = self._tempDataLen
        return noted if self.slot is None else noted + self.reactor.unsent(self)

    def is_writing(self) -> bool:
        return self.writing or self._unsent() > 0

    def flush(self, ring: Ring) -> Any:
        slot = self.slot
        if slot is None:
            if not (self.reading or self.writing):
                return None  # somebody else's by now, perhaps
            slot = self._enter(ring)
        if self.writing:
            self.writing = False
            noted = self._tempDataBuffer
            data = noted[0] if len(noted) == 1 else b"".join(noted)
            if data:
                self._tempDataBuffer = []
                self._tempDataLen = 0
            awaited = self._end_is_awaited()
            if not ring.send(slot, data, awaited) and awaited:
                self.reactor.called_out = True
                why = self._all_sent()
                if why or self.slot is None:
                    return why
        if self.reading is not self._armed:
            self._flush_reading(ring)
        return None

    def _end_is_awaited(self) -> bool:
        """Whether anything is to happen once all is sent."""
        producer = self.producer
        return (
            self.disconnecting
            or self._writeDisconnecting
            or (producer is not None and (not self.streamingProducer or self.producerPaused))
        )

    def _all_sent(self) -> Any:
        """What `FileDescriptor.doWrite` does when nothing is left to be written."""
        producer = self.producer
        if producer is not None and (not self.streamingProducer or self.producerPaused):
            self.producerPaused = False
            producer.resumeProducing()
        elif self.disconnecting:
            return self._postLoseConnection()
        elif self._writeDisconnecting and not self._writeDisconnected:
            self._writeDisconnected = True
            return self._closeWriteConnection()
        return None

    def completed(self, kind: int, value: Any) -> Any:
        if kind == READABLE:
            return self._read_much() if self.reading else None
        if kind in (RECEIVED, READ_FAILED):
            return super().completed(kind, value)
        if self._aborting:
            return None
        if kind != SENT:
            return main.CONNECTION_LOST
        if self.writing or self._unsent():
            return None  # more was written since
        return self._all_sent() if self._end_is_awaited() else None

    def _read(self, kind: int, value: Any) -> Any:
        if kind == RECEIVED:
            return self._dataReceived(value)
        return main.CONNECTION_LOST

    def _read_much(self) -> Any:
        """Read at once, straight into what the protocol is given."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if len(data) >= _SMALL_READ:
            self._small_reads = 0
        else:
            self._small_reads += 1
            if self._small_reads >= _SMALL_READS and self.slot is not None:
                self._small_reads = 0
                self.reactor.read_small(self.slot)
        return self._dataReceived(data)

    def _closeSocket(self, orderly: bool) -> None:
        self._leave()
        super()._closeSocket(orderly)


class RingServer(_RingStream, TunedServer):
    """A connection that was accepted."""


class RingClient(_RingStream, TunedClient):
    """A connection that was made; while it is being made, epoll waits for it."""

    on_ring = False

    def _connectDone(self) -> None:
        self.on_ring = self.reactor.may_use_ring
        super()._connectDone()


class RingConnector(TunedConnector):
    """Makes connections for the ring."""

    client = RingClient


class RingPort(RingTransport, TunedPort):
    """A TCP port that listens."""

    kind = LISTENER
    transport = RingServer

    def _read(self, kind: int, value: Any) -> Any:
        if kind == ACCEPTED:
            self._accepted(value)
            return None
        # Twisted's own way to accept knows what to do about each error; for one of them it has a
        # file descriptor in reserve.
        self._armed = False
        self._changed()
        return self.doRead()

    def _accepted(self, descriptor: int) -> None:
        handle = socket.socket(self.addressFamily, self.socketType, fileno=descriptor)
        try:
            peer = handle.getpeername()
        except OSError:
            handle.close()  # reset before anybody saw it
            return
        try:
            self._build(handle, peer)
        except BaseException:
            log.deferr()
            handle.close()

    def _build(self, handle: socket.socket, peer: Any) -> None:
        """As in `Port.doRead`."""
        if len(peer) == 4:
            flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            peer = (socket.getnameinfo(peer, flags)[0], *peer[1:])
        assert self.factory is not None
        protocol = self.factory.buildProtocol(self._buildAddr(peer))
        if protocol is None:
            handle.close()
            return
        number = self.sessionno
        self.sessionno = number + 1
        transport = self.transport(handle, protocol, peer, self, number, self.reactor)
        protocol.makeConnection(transport)

    def _closeSocket(self, orderly: bool) -> None:
        self._leave()
        super()._closeSocket(orderly)


class _RingDatagrams(RingTransport):
    """A UDP port: receives by completions, and sends at once."""

    kind = DATAGRAM

    def _read(self, kind: int, value: Any) -> Any:
        if kind == DATAGRAMS:
            data, address, _size, _flags = value
            if len(data) > self.maxPacketSize:
                data = data[: self.maxPacketSize]
            try:
                self.protocol.datagramReceived(data, address[:2])
            except BaseException:
                log.err()
            return None
        self._armed = False
        self._changed()
        if value == errno.ECONNREFUSED:
            if self._connectedAddr:
                self.protocol.connectionRefused()
            return None
        return OSError(value, os.strerror(value))

    def connectionLost(self, reason: Any = None) -> None:
        self._leave()
        super().connectionLost(reason)


class RingDatagramPort(_RingDatagrams, TunedDatagramPort):
    """A UDP port."""


class RingMulticastPort(_RingDatagrams, TunedMulticastPort):
    """A UDP port that may join groups."""


RING_CLASSES = TransportClasses(
    port=RingPort,
    server=RingServer,
    connector=RingConnector,
    datagrams=RingDatagramPort,
    multicast=RingMulticastPort,
)
