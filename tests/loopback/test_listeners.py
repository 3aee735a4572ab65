from __future__ import annotations

import errno
import socket
import unittest
from unittest import mock

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.listeners import TCP, UDP, Listeners, PortTaken, open_listeners
from tests.ports import free_port

HAS_IPV6 = socket.has_ipv6
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6).close()
except OSError:
    HAS_IPV6 = False


class ListenersTests(unittest.TestCase):
    def open(self, *interfaces: str, port: int = 0, transports: tuple[str, ...]) -> Listeners:
        """The sockets of these interfaces, which are closed with the test."""
        listeners = open_listeners(interfaces, port, transports)
        self.addCleanup(listeners.close)
        for listener in (*listeners.streams, *listeners.datagrams):
            self.assertFalse(listener.getblocking())
            self.assertEqual(listener.getsockname()[1], listeners.port)
        return listeners

    def listen(self, *interfaces: str, port: int = 0) -> list[int]:
        """The ports of these interfaces' TCP sockets."""
        listeners = self.open(*interfaces, port=port, transports=(TCP,))
        self.assertEqual(listeners.datagrams, [])
        return [listener.getsockname()[1] for listener in listeners.streams]

    def test_all_interfaces_have_one_port(self) -> None:
        ports = self.listen("127.0.0.1", "127.0.0.2")
        self.assertEqual(len(set(ports)), 1)
        self.assertNotEqual(ports[0], 0)

    def test_a_free_port_is_free_on_all_of_them(self) -> None:
        (taken,) = self.listen("127.0.0.2", port=free_port())
        tried = False

        def first_the_taken_one(handle: socket.socket, address: tuple[str, int]) -> None:
            nonlocal tried
            host, port = address
            if port == 0 and not tried:
                tried, port = True, taken
            super(socket.socket, handle).bind((host, port))

        with mock.patch.object(socket.socket, "bind", first_the_taken_one):
            ports = self.listen("127.0.0.1", "127.0.0.2")
        self.assertTrue(tried)
        self.assertNotIn(taken, ports)

    def test_a_taken_port_is_named_and_nothing_stays_open(self) -> None:
        (taken,) = self.listen("127.0.0.2", port=free_port())
        with self.assertRaisesRegex(PortTaken, rf"127.0.0.2:{taken} \(tcp\) is taken"):
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
            mock.patch.object(socket.socket, "bind", side_effect=refusal),
            self.assertRaisesRegex(
                ConfigurationError, r"^127.0.0.1:80 \(tcp\): Permission denied$"
            ),
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


class DatagramTests(ListenersTests):
    def listen(self, *interfaces: str, port: int = 0) -> list[int]:
        """The ports of these interfaces, each bound for both transports."""
        listeners = self.open(*interfaces, port=port, transports=(TCP, UDP))
        for sockets, kind in (
            (listeners.streams, socket.SOCK_STREAM),
            (listeners.datagrams, socket.SOCK_DGRAM),
        ):
            self.assertEqual([one.type for one in sockets], [kind] * len(interfaces))
        return [one.getsockname()[1] for one in listeners.streams]

    def test_udp_alone(self) -> None:
        listeners = self.open("127.0.0.1", port=free_port(), transports=(UDP,))
        self.assertEqual(listeners.streams, [])
        again = self.open("127.0.0.1", port=listeners.port, transports=(TCP,))
        self.assertEqual(again.port, listeners.port)

    def test_a_port_that_is_taken_over_udp(self) -> None:
        taken = self.open("127.0.0.1", port=free_port(), transports=(UDP,)).port
        with self.assertRaisesRegex(PortTaken, rf"127.0.0.1:{taken} \(udp, quic\) is taken"):
            open_listeners(["127.0.0.1"], taken)
        self.open("127.0.0.1", port=taken, transports=(TCP,))

    def test_a_free_port_is_free_over_both_transports(self) -> None:
        taken = self.open("127.0.0.1", port=free_port(), transports=(UDP,)).port
        tried = []

        def first_the_taken_one(handle: socket.socket, address: tuple[str, int]) -> None:
            host, port = address
            if handle.type == socket.SOCK_STREAM:
                tried.append(address)
                port = port if len(tried) > 1 else taken
            super(socket.socket, handle).bind((host, port))

        with mock.patch.object(socket.socket, "bind", first_the_taken_one):
            ports = self.listen("127.0.0.1")
        self.assertEqual(len(tried), 2)
        self.assertNotIn(taken, ports)

    @unittest.skipUnless(HAS_IPV6 and socket.has_dualstack_ipv6(), "no IPv6 here")
    def test_datagrams_of_ipv4_come_to_ipv6_too(self) -> None:
        (bound,) = self.open("::", transports=(UDP,)).datagrams
        bound.settimeout(10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", bound.getsockname()[1]))
            self.assertEqual(bound.recv(10), b"hello")
