"""Twisted's TCP connections on an io_uring."""

# Mixins in front of Twisted's transports, which are mixins themselves: of what these have, a type
# checker sees nothing from here.
# mypy: disable-error-code="misc, has-type, attr-defined, no-any-return"

from __future__ import annotations

from typing import Any

from twisted.internet import main

from jetstreamproto.reactors._uring import (
    READ_FAILED,
    READABLE,
    RECEIVED,
    SENT,
    Ring,
)
from jetstreamproto.reactors.ring_transport import RingTransport
from jetstreamproto.reactors.transports import TunedClient, TunedConnector, TunedServer

READS = (RECEIVED, READABLE, READ_FAILED)
"""Events of reading a stream."""

_SMALL_WRITE = 1 << 13
"""Bytes that are rather copied, and sent with all others of the turn, than sent at once."""
_MOST_UNSENT = 1 << 16
_SMALL_READ = 1 << 14
_SMALL_READS = 8
"""So many reads of less than so many bytes, one after the other, end the reading at once."""


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
