"""The server's side of UDP and QUIC: a bound socket, and the sessions over it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from jetstreamproto.datagram import JetStreamDatagramProtocol, adopt
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.server.listeners import QUIC, UDP


class DatagramListener:
    """Serves a factory on a UDP socket that is bound already, over UDP, QUIC or both."""

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        factory: JetStreamServerFactory,
        settings: DatagramSettings,
        transports: Sequence[str],
    ) -> None:
        self._protocol = JetStreamDatagramProtocol(
            factory,
            udp=UDP in transports,
            quic=QUIC in transports,
            settings=settings,
            reactor=reactor,
        )
        with bound:  # the port has its own descriptor of it
            self._port = adopt(reactor, bound, self._protocol)

    async def stop(self) -> None:
        """Close what is left, and the socket. Its sessions have been drained before."""
        closed: Deferred[Any] = self._protocol.stop()
        try:
            await closed
        finally:
            await maybeDeferred(self._port.stopListening)
