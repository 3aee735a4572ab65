"""A relay's TCP connection, and what Twisted's reactor says of its end."""

from __future__ import annotations

import select
import socket
import struct
from unittest import TestCase

from twisted.python.failure import Failure

from jetstreamproto.services.tunnel.tcp import TcpSide

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Transport:
    """Twisted's, of a real socket."""

    def __init__(self, handle: socket.socket) -> None:
        self.socket = handle
        self.calls: list[str] = []

    def abortConnection(self) -> None:
        self.calls.append("abort")

    def loseConnection(self) -> None:
        self.calls.append("lose")


class User:
    def __init__(self) -> None:
        self.events: list[str] = []

    def tcp_received(self, data: bytes) -> None:
        self.events.append("received")

    def tcp_ended(self) -> None:
        self.events.append("ended")

    def tcp_lost(self, reason: Failure) -> None:
        self.events.append("lost")


class EndTests(TestCase):
    def setUp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as port:
            self.theirs = socket.create_connection(port.getsockname())
            handle, _ = port.accept()
        self.addCleanup(self.theirs.close)
        self.addCleanup(handle.close)
        self.user = User()
        self.side = TcpSide(self.user)
        self.side.transport = self.transport = Transport(handle)

    def close(self) -> None:
        self.theirs.close()
        select.select([self.transport.socket], [], [], 10)

    def test_an_end_is_an_end(self) -> None:
        self.close()
        self.side.readConnectionLost()
        self.assertEqual((self.user.events, self.transport.calls), (["ended"], []))

    def test_a_reset_that_is_reported_as_an_end_is_a_reset(self) -> None:
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()
        self.side.readConnectionLost()
        self.assertEqual((self.user.events, self.transport.calls), ([], ["abort"]))
