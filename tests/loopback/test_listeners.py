from __future__ import annotations

import errno
import socket
import unittest
from unittest import mock

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.listeners import PortTaken, open_listeners

HAS_IPV6 = socket.has_ipv6
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
except OSError:
    HAS_IPV6 = False


class ListenersTests(unittest.TestCase):
    def listen(self, *interfaces: str, port: int = 0) -> list[int]:
        """The ports of these interfaces' sockets, which are closed with the test."""
        listeners = open_listeners(interfaces, port)
        for listener in listeners:
            self.addCleanup(listener.close)
            self.assertFalse(listener.getblocking())
        return [listener.getsockname()[1] for listener in listeners]

    def test_all_interfaces_have_one_port(self) -> None:
        ports = self.listen("127.0.0.1", "127.0.0.2")
        self.assertEqual(len(set(ports)), 1)
        self.assertNotEqual(ports[0], 0)

    def test_a_free_port_is_free_on_all_of_them(self) -> None:
        (taken,) = self.listen("127.0.0.2")
        create = socket.create_server
        tried = False

        def first_the_taken_one(address: tuple[str, int], **options: object) -> socket.socket:
            nonlocal tried
            host, port = address
            if port == 0 and not tried:
                tried, port = True, taken
            return create((host, port), **options)  # type: ignore[arg-type]

        with mock.patch("socket.create_server", first_the_taken_one):
            ports = self.listen("127.0.0.1", "127.0.0.2")
        self.assertTrue(tried)
        self.assertNotIn(taken, ports)

    def test_a_taken_port_is_named_and_nothing_stays_open(self) -> None:
        (taken,) = self.listen("127.0.0.2")
        with self.assertRaisesRegex(PortTaken, f"127.0.0.2:{taken} is taken"):
            open_listeners(["127.0.0.1", "127.0.0.2"], taken)
        self.listen("127.0.0.1", port=taken)

    def test_an_address_of_another_host_is_refused(self) -> None:
        for interface in ("192.0.2.1", "fe80::1%nonesuch"):
            with self.subTest(interface), self.assertRaises(ConfigurationError) as caught:
                open_listeners([interface], 0)
            self.assertIn(interface, str(caught.exception))

    def test_what_the_system_forbids_is_told_in_its_words(self) -> None:
        refusal = OSError(errno.EACCES, "Permission denied (while doing this and that)")
        with (
            mock.patch("socket.create_server", side_effect=refusal),
            self.assertRaisesRegex(ConfigurationError, "^127.0.0.1:80: Permission denied$"),
        ):
            open_listeners(["127.0.0.1"], 80)

    @unittest.skipUnless(HAS_IPV6, "no IPv6 here")
    def test_both_families_share_the_port(self) -> None:
        for interfaces in (("0.0.0.0", "::"), ("::", "0.0.0.0"), ("::1", "127.0.0.1")):
            self.assertEqual(len(set(self.listen(*interfaces))), 1)

    @unittest.skipUnless(HAS_IPV6 and socket.has_dualstack_ipv6(), "no IPv6 here")
    def test_ipv6_alone_takes_ipv4_as_well(self) -> None:
        (port,) = self.listen("::")
        socket.create_connection(("127.0.0.1", port), 10).close()
        socket.create_connection(("::1", port), 10).close()
