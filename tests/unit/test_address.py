"""Addresses of byte streams."""

from __future__ import annotations

import unittest

from twisted.internet.interfaces import IAddress
from zope.interface.verify import verifyObject

from jetstreamproto.address import JetStreamAddress, split_host_port
from tests.doubles import FakeLink


class AddressTests(unittest.TestCase):
    def test_equal_ones_are_equal(self) -> None:
        one, other = (JetStreamAddress("h", 1, "tcp", "stream", "sha256:x") for _ in range(2))
        self.assertEqual(one, other)
        self.assertEqual(len({one, other}), 1)
        self.assertNotEqual(one, JetStreamAddress("h", 1, "udp", "stream", "sha256:x"))
        self.assertTrue(verifyObject(IAddress, one))

    def test_hosts_and_ports(self) -> None:
        for text, expected in {
            "127.0.0.1:9000": ("127.0.0.1", 9000),
            "[::1]:9000": ("::1", 9000),
            "test:0": ("test", 0),
            "no port": ("no port", 0),
            ":1": (":1", 0),
            "UNIX:x": ("UNIX:x", 0),
        }.items():
            with self.subTest(text):
                self.assertEqual(split_host_port(text), expected)

    def test_the_name_of_a_transport(self) -> None:
        from jetstreamproto.transports.link import transport_name
        from jetstreamproto.transports.tcp import TcpLink
        from jetstreamproto.transports.udp import UdpLink

        for link, name in ((TcpLink, "tcp"), (UdpLink, "udp"), (FakeLink, "doubles")):
            self.assertEqual(transport_name(link.__new__(link)), name)
