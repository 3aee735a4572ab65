"""The server's side of UDP: a bound socket, and the sessions over it."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from jetstreamproto.datagram import JetStreamDatagramProtocol, adopt
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reliability.settings import DatagramSettings


class DatagramListener:
    """Serves a factory on a UDP socket that is bound already."""

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        factory: JetStreamServerFactory,
        settings: DatagramSettings,
    ) -> None:
        self._protocol = JetStreamDatagramProtocol(factory, settings=settings, reactor=reactor)
        with bound:  # the port has its own descriptor of it
            self._port = adopt(reactor, bound, self._protocol)

    async def stop(self) -> None:
        """Close what is left, and the socket. Its sessions have been drained before."""
        closed: Deferred[Any] = self._protocol.stop()
        try:
            await closed
        finally:
            await maybeDeferred(self._port.stopListening)
