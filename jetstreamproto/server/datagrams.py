"""The server's side of UDP and QUIC: a bound socket, and the sessions over it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from jetstreamproto.datagram import JetStreamDatagramProtocol, adopt
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reliability.paths import Address
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.server.listeners import QUIC, UDP
from jetstreamproto.server.workers.forwarding import Mailbox


class DatagramListener:
    """Serves a factory on a UDP socket that is bound already, over UDP, QUIC or both.

    `mailbox` is this process's part in the socket's port, if others have parts as well.
    """

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        factory: JetStreamServerFactory,
        settings: DatagramSettings,
        transports: Sequence[str],
        mailbox: Mailbox | None = None,
    ) -> None:
        self._protocol = JetStreamDatagramProtocol(
            factory,
            udp=UDP in transports,
            quic=QUIC in transports,
            settings=settings,
            reactor=reactor,
            share=mailbox,
        )
        self._mailbox = mailbox
        with bound:  # the port has its own descriptor of it
            self._port = adopt(reactor, bound, self._protocol)
        if mailbox is not None:
            mailbox.start(reactor, self._forwarded)

    def _forwarded(self, data: memoryview, segment: int, address: Address) -> None:
        """Another process had these datagrams, which are ours."""
        self._protocol.datagrams_received(data, segment, len(data), address)
        self._protocol.batch_ended()

    async def stop(self) -> None:
        """Close what is left, and the socket. Its sessions have been drained before."""
        closed: Deferred[Any] = self._protocol.stop()
        try:
            await closed
        finally:
            if self._mailbox is not None:
                self._mailbox.stop()
            await maybeDeferred(self._port.stopListening)
