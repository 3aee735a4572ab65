from __future__ import annotations

import socket
import sys
import unittest

from jetstreamproto.security.datagrams import HEADER, INITIAL, SEALED
from jetstreamproto.server.workers.steering import steer
from tests.ports import free_port

_COUNT = 4


@unittest.skipUnless(sys.platform == "linux", "other systems cannot steer")
class SteeringTests(unittest.TestCase):
    def setUp(self) -> None:
        self.sockets: list[socket.socket] = []
        port = free_port()
        for _ in range(_COUNT):
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.addCleanup(bound.close)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(("127.0.0.1", port))
            bound.settimeout(30)
            self.sockets.append(bound)
        self.target = ("127.0.0.1", port)
        self.assertIsNone(steer(self.sockets[0]))

    def send(self, *datagrams: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, self.target)

    def test_what_has_a_connection_id_goes_where_it_says(self) -> None:
        for first in (SEALED, SEALED | 15, 0x40, 0x7F):  # ours by epoch, QUIC's short header
            for number, bound in enumerate(self.sockets):
                for _ in range(3):  # from other ports, and so with other hashes
                    datagram = bytes([first, number]) + bytes(HEADER.size)
                    self.send(datagram)
                    self.assertEqual(bound.recv(100), datagram)

    def test_what_begins_a_connection_goes_to_one_for_each_sender(self) -> None:
        for first in (INITIAL, 0xC0, 0xFF):
            datagrams = [bytes([first, number]) + bytes(30) for number in range(200)]
            self.send(*datagrams)
            arrived = [self.drain(bound) for bound in self.sockets]
            self.assertIn(datagrams, arrived)

    def test_no_such_process_is_as_no_id(self) -> None:
        datagrams = [bytes([SEALED, number]) + bytes(30) for number in range(_COUNT, 256)]
        self.send(*datagrams)
        self.assertIn(datagrams, [self.drain(bound) for bound in self.sockets])

    def test_short_ones_do_no_harm(self) -> None:
        self.send(b"", b"\x20", b"\x40", b"\x01")
        arrived = [datagram for bound in self.sockets for datagram in self.drain(bound)]
        self.assertEqual(sorted(arrived), [b"", b"\x01", b"\x20", b"\x40"])

    def drain(self, bound: socket.socket) -> list[bytes]:
        bound.setblocking(False)
        found = []
        try:
            while True:
                found.append(bound.recv(100))
        except BlockingIOError:
            return found
