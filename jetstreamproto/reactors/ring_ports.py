"""TCP ports on an io_uring, and all classes of transports that it has."""

# Mixins in front of Twisted's transports, which are mixins themselves: of what these have, a type
# checker sees nothing from here.
# mypy: disable-error-code="misc, has-type, attr-defined, no-any-return"

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.python import log

from jetstreamproto.reactors._uring import ACCEPTED, LISTENER
from jetstreamproto.reactors.ring_datagrams import (
    RingBatchingPort,
    RingDatagramPort,
    RingMulticastPort,
)
from jetstreamproto.reactors.ring_streams import RingConnector, RingServer
from jetstreamproto.reactors.ring_transport import RingTransport
from jetstreamproto.reactors.transports import TransportClasses, TunedPort


class RingPort(RingTransport, TunedPort):
    """A TCP port that listens."""

    kind = LISTENER
    transport = RingServer

    def drop(self, kind: int, value: Any) -> None:
        if kind == ACCEPTED:
            os.close(value)

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


RING_CLASSES = TransportClasses(
    port=RingPort,
    server=RingServer,
    connector=RingConnector,
    datagrams=RingDatagramPort,
    multicast=RingMulticastPort,
    batching=RingBatchingPort,
)
