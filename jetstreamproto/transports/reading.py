"""Where TCP connections of ours read into: one buffer for all of them.

Twisted reads into fresh memory, 64 KiB in a turn of its reactor, and the parts of a record have to
be joined then. Here as much as there is comes in one call, behind what came before it. A warm
buffer is faster than fresh ones, and one a connection would be most of an idle session's memory.
"""

from __future__ import annotations

import socket
from errno import EWOULDBLOCK
from typing import Any

from twisted.internet import main
from twisted.internet.tcp import Connection

from jetstreamproto.sockets.options import ON_LINUX

READ_SIZE = 1 << 19
"""Bytes that are read in one call."""
_SIZE = READ_SIZE << 1
_LONG = 1 << 14
_LOW_WATER = 1 << 20  # bytes that may wait, and still be acknowledged at once
_BUSY = 1 << 16  # bytes that came at once: from here on, it pays to see to acknowledgements
_MOST_READS = 4  # before the reactor has a turn for others


class Unread:
    """What a connection has brought and nobody has used yet: the start of a record."""

    __slots__ = ("_parts", "being_read", "finished", "missing", "size")

    def __init__(self) -> None:
        self.size = 0
        """In bytes."""
        self.missing = 0
        """Bytes that make it a whole record, as far as that is known."""
        self.being_read = False
        """Whether the connection reads for itself, as by `read_into`, and does so now."""
        self.finished = False
        """Set this while it is `being_read` to have the connection closed after that."""
        self._parts: list[bytes | memoryview] = []

    def add(self, data: bytes | memoryview) -> None:
        """More has come. Views have to last, or to be of the `ReadBuffer`."""
        self._parts.append(data)
        self.size += len(data)

    def all(self) -> bytes | memoryview:
        """Everything in one."""
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def clear(self) -> None:
        """It was used."""
        self._parts.clear()
        self.size = self.missing = 0

    def move(self, memory: memoryview | None) -> None:
        """Keep it in `memory`, which is as large; with None, in memory of its own."""
        if memory is None:
            self._parts = [bytes(self.all())]
        else:
            memory[:] = self.all()
            self._parts = [memory]


class ReadBuffer:
    """The buffer. What is unread stays in it until another connection reads."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_SIZE))
        self._first = self._memory[:READ_SIZE]
        self._owner: Unread | None = None
        self._start = self._end = 0  # of what the owner has here

    def room(self, unread: Unread) -> memoryview:
        """Where the next bytes of a connection go: behind those that are unread.

        A long record is read to its end and not beyond, so that nothing of the next one has to be
        moved out of the way.
        """
        owner = self._owner
        if owner is not unread:
            if owner is not None:
                owner.move(None)
                self._owner = None
            if not unread.size:
                self._start = self._end = 0
                return self._first
            self._place(unread)
        elif _SIZE - self._end < READ_SIZE:
            self._place(unread)
        missing = unread.missing
        size = missing if _LONG < missing < READ_SIZE else READ_SIZE
        return self._memory[self._end : self._end + size]

    def filled(self, size: int) -> memoryview:
        """The `size` bytes that have come into the room."""
        start, self._end = self._end, self._end + size
        return self._memory[start : self._end]

    def all(self, unread: Unread) -> bytes | memoryview:
        """What was unread and has come since, in one, without copying if it is here."""
        return self._memory[self._start : self._end] if self._owner is unread else unread.all()

    def done(self, unread: Unread) -> None:
        """What can be used of that was used."""
        self._owner = unread if unread.size else None
        self._start = self._end - unread.size

    def forget(self, unread: Unread) -> None:
        """That connection is gone."""
        if self._owner is unread:
            self._owner = None

    def _place(self, unread: Unread) -> None:
        """What is unread goes to the front."""
        self._owner = unread
        self._start, self._end = 0, unread.size
        unread.move(self._memory[: self._end])


class _EarlyAcknowledgement:
    """Has the kernel acknowledge at once what comes while its process is at work on what came.

    Linux would do that no sooner than at the next read, on the reader's processor, once more waits
    than fits the window it has announced. Where the sender is on the same host, the memory of what
    it has sent is then freed on that processor as well, and the sender is given memory that is in
    no cache of its own, which has made sending half as fast for seconds on end. While less waits
    than the low-water mark (SO_RCVLOWAT, socket(7)), it acknowledges what comes when it comes.
    """

    __slots__ = ("_begun", "_handle")

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle
        self._begun = False

    def begin(self) -> None:
        """Until `end`: the connection does not count as readable meanwhile."""
        if not self._begun:
            self._begun = True
            self._set_low_water(_LOW_WATER)

    def end(self) -> None:
        """Before the reactor has a turn."""
        if self._begun:
            self._begun = False
            self._set_low_water(1)

    def _set_low_water(self, size: int) -> None:
        if ON_LINUX:
            try:
                self._handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            except OSError:
                return  # closed meanwhile


def read_into(buffer: ReadBuffer, transport: Any, unread: Unread) -> None:
    """Have `transport` read into `buffer`, if it is one of Twisted's own connections."""
    if getattr(type(transport), "doRead", None) is not Connection.doRead or transport.TLS:
        return
    receive = transport.socket.recv_into
    acknowledgement = _EarlyAcknowledgement(transport.socket)

    def do_read() -> Any:
        try:
            for _ in range(_MOST_READS):
                room = buffer.room(unread)
                try:
                    size = receive(room)
                except OSError as error:
                    return None if error.errno == EWOULDBLOCK else main.CONNECTION_LOST
                if size >= _BUSY:
                    acknowledgement.begin()
                unread.being_read = True
                result = transport._dataReceived(buffer.filled(size))
                unread.being_read = False
                buffer.done(unread)
                if unread.finished:
                    return main.CONNECTION_DONE
                if size < len(room) or result is not None:
                    return result
            return None
        finally:
            acknowledgement.end()

    transport.doRead = do_read


def read_no_more(transport: Any) -> None:
    """The connection is gone: let go of what `read_into` has left there."""
    if isinstance(transport, Connection):
        vars(transport).pop("doRead", None)
