"""Forwarding: datagrams that came to the wrong process go to the right one by a local socket.

It is needed where the kernel cannot steer (`steering`), and in the moment before it does.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from zope.interface import implementer

from jetstreamproto.reliability.paths import Address

_HEAD = struct.Struct("!HHB")  # bytes of each datagram, port, bytes of the address
_LARGEST = 1 << 17
_TURN = 64  # that are taken in one turn of the reactor

Receive = Callable[[memoryview, int, Address], None]
"""Takes datagrams: their bytes, how many each has (the last may have less), and whose they are."""


def mailboxes(count: int) -> list[tuple[socket.socket, socket.socket]]:
    """For each process the end that it reads and the end that all others write."""
    return [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]


@implementer(IReadDescriptor)
class Mailbox:
    """Process `number`'s part in a shared port: a `PortShare`.

    `inbox` is read, `others` are written, by the number of the process (its own is not used).
    """

    def __init__(self, number: int, inbox: socket.socket, others: Sequence[socket.socket]) -> None:
        self.number = number
        self.forwarded = self.lost = 0
        """Batches handed to others, and those that the system had no room for."""
        self._inbox = inbox
        self._others = others
        self._receive: Receive | None = None
        self._reactor: Any = None
        for handle in (inbox, *others):
            handle.setblocking(False)

    def start(self, reactor: IReactorFDSet, receive: Receive) -> None:
        """Have `receive` called with what the others forward."""
        self._reactor, self._receive = reactor, receive
        reactor.addReader(self)

    def stop(self) -> None:
        """Take nothing more, and close the sockets."""
        if self._reactor is not None:
            self._reactor.removeReader(self)
        for handle in (self._inbox, *self._others):
            handle.close()

    def forward(self, owner: int, data: memoryview, segment: int, address: Address) -> bool:
        """Hand datagrams to process `owner`; False if there is none of that number."""
        if owner >= len(self._others) or owner == self.number:
            return False
        host = address[0].encode()
        head = _HEAD.pack(min(segment, len(data)), address[1], len(host)) + host
        try:
            self._others[owner].sendmsg((head, data))
        except OSError:  # it is behind, or gone: as good as lost on the way
            self.lost += 1
        else:
            self.forwarded += 1
        return True

    # --- IReadDescriptor ---------------------------------------------------------------

    def fileno(self) -> int:
        return self._inbox.fileno()

    def logPrefix(self) -> str:
        return "forwarded datagrams"

    def connectionLost(self, reason: object) -> None:
        self.stop()

    def doRead(self) -> None:
        assert self._receive is not None
        for _ in range(_TURN):
            try:
                message = self._inbox.recv(_LARGEST)
            except BlockingIOError:
                return
            segment, port, length = _HEAD.unpack_from(message)
            start = _HEAD.size + length
            host = message[_HEAD.size : start].decode()
            self._receive(memoryview(message)[start:], segment, (host, port))
