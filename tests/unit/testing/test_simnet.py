"""The simulated network: it carries datagrams as its links and NATs say, and is repeatable."""

from __future__ import annotations

import errno
import unittest
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from jetstreamproto.testing.linkmodel import LinkOptions
from jetstreamproto.testing.simnet import Datagram, SimulatedNetwork

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
OUTSIDE = "203.0.113.1"

untimed = settings(deadline=None)


class Recorder(DatagramProtocol):
    """Keeps what arrives, with the time, and sends back what it is told to."""

    noisy = False

    def __init__(self, reply: bytes | None = None) -> None:
        self.got: list[tuple[float, bytes, tuple[str, int]]] = []
        self.refused = self.stopped = 0
        self.reply = reply
        self.port: Any

    def startProtocol(self) -> None:
        self.port = self.transport

    def stopProtocol(self) -> None:
        self.stopped += 1

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.got.append((self.port.host.seconds(), datagram, addr))
        if self.reply is not None:
            self.port.write(self.reply, addr)

    def connectionRefused(self) -> None:
        self.refused += 1

    @property
    def data(self) -> list[bytes]:
        return [data for _, data, _ in self.got]


class Informed(Recorder):
    """Is told of errors too."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[tuple[float, tuple[str, int], int, int]] = []

    def datagram_error(self, address: tuple[str, int], code: int, info: int) -> None:
        self.errors.append((self.port.host.seconds(), address, code, info))


class Batcher(Recorder):
    """Takes batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, bytes, tuple[str, int]]] = []
        self.views: list[memoryview] = []
        self.ends = 0

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: tuple[str, int]
    ) -> None:
        self.batches.append((segment_size, bytes(buffer[:length]), address))
        self.views.append(buffer)

    def batch_ended(self) -> None:
        self.ends += 1


class NetworkTestCase(unittest.TestCase):
    def build(
        self, options: LinkOptions | None = None, seed: int = 1
    ) -> tuple[SimulatedNetwork, Recorder, Recorder]:
        """A client on A, and a server on B's port 9000."""
        net = SimulatedNetwork(seed=seed)
        if options is not None:
            net.join(A, B, options)
        client, server = Recorder(), Recorder()
        net.listen_udp(client, host=A)
        net.listen_udp(server, host=B, port=9000)
        return net, client, server


class CarryTests(NetworkTestCase):
    def test_a_datagram_takes_the_delay(self) -> None:
        net, client, server = self.build(LinkOptions(delay=0.25))
        client.port.write(b"hello", (B, 9000))
        net.run_until(lambda: bool(server.got))
        self.assertEqual(server.got, [(0.25, b"hello", (A, 49152))])

    def test_and_the_answer_finds_its_way(self) -> None:
        net, client, server = self.build(LinkOptions(delay=0.25))
        server.reply = b"yes"
        client.port.write(b"hello", (B, 9000))
        net.run_until(lambda: bool(client.got))
        self.assertEqual(client.got, [(0.5, b"yes", (B, 9000))])

    def test_hosts_that_nobody_joined_are_joined_by_a_plain_link(self) -> None:
        net, client, server = self.build()
        client.port.write(b"hello", (B, 9000))
        net.advance(1.0)
        self.assertEqual(server.got, [(0.01, b"hello", (A, 49152))])
        self.assertEqual(net.clock.seconds(), 1.0)

    def test_a_host_reaches_itself(self) -> None:
        net, client, _ = self.build()
        client.port.write(b"me", (A, 49152))
        net.advance(1.0)
        self.assertEqual(client.data, [b"me"])

    def test_the_ways_may_differ(self) -> None:
        net, client, server = self.build()
        net.join(A, B, LinkOptions(delay=1.0), LinkOptions(delay=2.0))
        server.reply = b"yes"
        client.port.write(b"hello", (B, 9000))
        net.advance(10)
        self.assertEqual((server.got[0][0], client.got[0][0]), (1.0, 3.0))

    def test_arrivals_are_in_order_of_time_then_of_sending(self) -> None:
        net, client, server = self.build(LinkOptions(delay=1.0))
        client.port.write(b"1", (B, 9000))
        client.port.write(b"2", (B, 9000))
        net.link(A, B).options = LinkOptions(delay=0.5)
        client.port.write(b"0", (B, 9000))
        net.advance(2)
        self.assertEqual(server.data, [b"0", b"1", b"2"])

    def test_hosts_may_share_a_line(self) -> None:
        net, client, server = self.build(LinkOptions(rate=8000, overhead=0))
        net.link(C, B).model = net.link(A, B).model
        other = Recorder()
        net.listen_udp(other, C)
        client.port.write(bytes(100), (B, 9000))
        other.port.write(bytes(100), (B, 9000))
        net.advance(1)
        self.assertEqual([round(time, 6) for time, _, _ in server.got], [0.1, 0.2])

    def test_one_call_of_the_clock_serves_all(self) -> None:
        net, client, server = self.build(LinkOptions(delay=1.0, jitter=1.0))
        for _ in range(1000):
            client.port.write(b"x", (B, 9000))
        self.assertEqual(len(net.clock.getDelayedCalls()), 1)
        net.advance(2)
        self.assertEqual(len(server.got), 1000)
        self.assertEqual(net.clock.getDelayedCalls(), [])

    def test_somebody_elses_clock_may_move_it(self) -> None:
        clock = Clock()
        clock.advance(1e9)
        net = SimulatedNetwork(clock)
        client, server = Recorder(), Recorder()
        net.listen_udp(client, A)
        net.listen_udp(server, B, 9000)
        for _ in range(3):
            client.port.write(b"x", (B, 9000))
            clock.advance(0.02)
        self.assertEqual(len(server.got), 3)

    def test_options_may_change_at_any_time(self) -> None:
        net, client, server = self.build(LinkOptions(delay=1.0))
        client.port.write(b"1", (B, 9000))
        net.advance(0.5)
        net.link(A, B).options = LinkOptions(loss=1.0)
        client.port.write(b"2", (B, 9000))
        net.advance(0.5)
        net.link(A, B).options = LinkOptions()
        client.port.write(b"3", (B, 9000))
        net.advance(0.0)
        self.assertEqual(server.data, [b"1", b"3"])
        self.assertEqual(net.link(A, B).counters.lost, 1)

    def test_a_blackhole_swallows_what_is_sent_meanwhile(self) -> None:
        net, client, server = self.build(LinkOptions(delay=0.1, blackholes=((1.0, 2.0),)))
        for number in range(4):
            client.port.write(b"%d" % number, (B, 9000))
            net.advance(0.75)
        self.assertEqual(server.data, [b"0", b"1", b"3"])


class RepeatTests(NetworkTestCase):
    def story(self, seed: int, options: LinkOptions) -> list[Any]:
        net, client, server = self.build(options, seed)
        server.reply = b"yes"
        for number in range(30):
            client.port.write(bytes([number]) * 100, (B, 9000))
            net.advance(0.01)
        net.advance(10)
        return [client.got, server.got, list(net.trace), repr(net)]

    @untimed
    @given(st.integers())
    def test_the_seed_decides(self, seed: int) -> None:
        options = LinkOptions(
            rate=1e5,
            delay=0.05,
            jitter=0.02,
            loss=0.1,
            burst_loss=0.1,
            duplicate=0.1,
            reorder=0.1,
            corrupt=0.1,
        )
        self.assertEqual(self.story(seed, options), self.story(seed, options))

    def test_another_seed_is_another_story(self) -> None:
        options = LinkOptions(loss=0.5)
        self.assertNotEqual(self.story(1, options)[0], self.story(2, options)[0])

    def test_the_two_directions_differ(self) -> None:
        net = SimulatedNetwork(seed=5, options=LinkOptions(loss=0.5))
        for link in (net.link(A, B), net.link(B, A)):
            for _ in range(100):
                link.model.offer(0.0, b"x")
        self.assertNotEqual(net.link(A, B).counters, net.link(B, A).counters)


class RunTests(NetworkTestCase):
    def test_silence_is_an_error_that_tells_the_seed_and_the_story(self) -> None:
        net, client, _ = self.build(LinkOptions(delay=0.5), seed=1234)
        client.port.write(b"hello", (B, 9000))
        with self.assertRaises(AssertionError) as caught:
            net.run_until(lambda: False)
        text = str(caught.exception)
        self.assertIn("nothing happens any more", text)
        self.assertIn("seed=1234", text)
        self.assertIn("0.500000 #0 arrived: 10.0.0.1:49152 > 10.0.0.2:9000, 5 bytes", text)
        self.assertIn("offered=1", text)
        self.assertIn("seed=1234", repr(net))

    def test_what_never_ends_is_an_error_too(self) -> None:
        net, client, server = self.build(LinkOptions(delay=0.5), seed=99)
        client.reply = server.reply = b"again"
        client.port.write(b"hello", (B, 9000))
        with self.assertRaisesRegex(AssertionError, r"(?s)100 seconds have passed.*seed=99"):
            net.run_until(lambda: False, within=100)
        self.assertLessEqual(net.clock.seconds(), 100)

    def test_time_that_stands_still_is_noticed(self) -> None:
        net, client, server = self.build(LinkOptions(), seed=99)
        client.reply = server.reply = b"again"
        client.port.write(b"hello", (B, 9000))
        with self.assertRaisesRegex(AssertionError, r"(?s)time stands still.*seed=99"):
            net.run_until(lambda: False)

        def spin() -> None:
            net.host(A).callLater(0, spin)

        net, _, _ = self.build()
        spin()
        with self.assertRaisesRegex(AssertionError, "time stands still"):
            net.advance(1)

    def test_run_gives_the_result(self) -> None:
        net, _, _ = self.build()
        waited: Deferred[str] = Deferred()
        net.clock.callLater(3.0, waited.callback, "done")
        self.assertEqual(net.run(waited), "done")
        failed: Deferred[str] = Deferred()
        net.clock.callLater(3.0, failed.errback, KeyError("what"))
        with self.assertRaises(KeyError):
            net.run(failed)

    def test_calls_that_were_put_off_are_waited_for(self) -> None:
        net, _, _ = self.build()
        happened: list[float] = []
        first = net.clock.callLater(1.0, lambda: happened.append(net.clock.seconds()))
        net.clock.callLater(2.0, lambda: happened.append(net.clock.seconds()))
        first.delay(4.0)
        net.run_until(lambda: len(happened) == 2)
        self.assertEqual(happened, [2.0, 5.0])

    def test_an_exception_in_a_protocol_is_seen_and_loses_nothing_else(self) -> None:
        net, client, server = self.build(LinkOptions(delay=1.0))
        client.port.write(b"1", (B, 9000))
        net.advance(0.5)
        client.port.write(b"2", (B, 9000))
        received = server.datagramReceived

        def fail(datagram: bytes, addr: tuple[str, int]) -> None:
            server.datagramReceived = received  # type: ignore[method-assign]
            raise KeyError(datagram)

        server.datagramReceived = fail  # type: ignore[method-assign]
        with self.assertRaises(KeyError):
            net.advance(5)
        net.advance(5)
        self.assertEqual(server.data, [b"2"])


class TapTests(NetworkTestCase):
    def test_chosen_datagrams_are_dropped(self) -> None:
        net, client, server = self.build()
        server.reply = b"yes"
        net.tap = lambda datagram: datagram.index not in (1, 2)
        for _ in range(4):
            client.port.write(b"x", (B, 9000))
        net.advance(1)
        self.assertEqual((len(server.got), len(client.got)), (2, 2))

    def test_everything_is_told_and_data_may_be_changed(self) -> None:
        net, client, server = self.build(LinkOptions(delay=0.5))
        server.reply = b"yes"
        seen: list[Datagram] = []

        def tap(datagram: Datagram) -> bool:
            seen.append(replace(datagram))
            datagram.data = datagram.data.upper()
            return True

        net.tap = tap
        net.advance(1)
        client.port.write(b"x", (B, 9000))
        client.port.write(b"y", (B, 9000))
        net.advance(1)
        self.assertEqual((server.data, client.data), ([b"X", b"Y"], [b"YES", b"YES"]))
        a, b = (A, 49152), (B, 9000)
        self.assertEqual(
            [(d.index, d.number, d.time, d.source, d.destination, d.data) for d in seen],
            [
                (0, 0, 1.0, a, b, b"x"),
                (1, 1, 1.0, a, b, b"y"),
                (2, 0, 1.5, b, a, b"yes"),
                (3, 1, 1.5, b, a, b"yes"),
            ],
        )


class ErrorTests(NetworkTestCase):
    def test_an_mtu_that_shrinks_swallows_silently(self) -> None:
        net, _, server = self.build(LinkOptions(delay=0.1, mtu=1500))
        client = Informed()
        net.listen_udp(client, A)
        client.port.write(bytes(1472), (B, 9000))
        net.link(A, B).options = LinkOptions(delay=0.1, mtu=1280)
        client.port.write(bytes(1472), (B, 9000))
        client.port.write(bytes(1252), (B, 9000))
        net.advance(1)
        self.assertEqual([len(data) for data in server.data], [1472, 1252])
        self.assertEqual(client.errors, [])

    def test_or_is_reported(self) -> None:
        net, _, server = self.build(LinkOptions(delay=0.1, mtu=1280, mtu_reports=True))
        client = Informed()
        net.listen_udp(client, A)
        client.port.write(bytes(1472), (B, 9000))
        net.advance(1)
        self.assertEqual(server.got, [])
        self.assertEqual(client.errors, [(0.2, (B, 9000), errno.EMSGSIZE, 1280)])

    def test_a_port_where_nothing_listens_refuses(self) -> None:
        net, _, _ = self.build(LinkOptions(delay=0.1, duplicate=1.0))
        client, stock = Informed(), Recorder()
        net.listen_udp(client, A)
        net.listen_udp(stock, A).connect(B, 9)
        client.port.write(b"x", (B, 9))
        stock.port.write(b"x")
        net.advance(1)
        self.assertEqual(client.errors, [(0.2, (B, 9), errno.ECONNREFUSED, 0)] * 2)
        self.assertEqual(stock.refused, 2)

    def test_unless_the_host_is_silent(self) -> None:
        net, _, _ = self.build()
        net.host(B).refuses = False
        client = Informed()
        net.listen_udp(client, A)
        client.port.write(b"x", (B, 9))
        net.advance(1)
        self.assertEqual(client.errors, [])

    def test_a_host_that_is_not_there_says_nothing(self) -> None:
        net, _, _ = self.build()
        client = Informed()
        net.listen_udp(client, A)
        client.port.write(b"x", ("10.9.9.9", 9))
        net.advance(1)
        self.assertEqual(client.errors, [])
        self.assertIn("no such address", net.history())

    def test_a_port_that_has_closed_hears_nothing(self) -> None:
        net, _, _ = self.build()
        client = Informed()
        net.listen_udp(client, A)
        client.port.write(b"x", (B, 9))
        client.port.stopListening()
        net.advance(1)
        self.assertEqual(client.errors, [])


class NatTests(NetworkTestCase):
    def build_behind(self) -> tuple[SimulatedNetwork, Any, Recorder, Recorder]:
        net = SimulatedNetwork(seed=1, options=LinkOptions(delay=0.1))
        nat = net.nat(OUTSIDE)
        client, server = Recorder(), Recorder()
        net.listen_udp(client, net.host(A, nat), 5000)
        net.listen_udp(server, B, 9000)
        return net, nat, client, server

    def test_the_peer_sees_the_outside(self) -> None:
        net, _, client, server = self.build_behind()
        server.reply = b"yes"
        client.port.write(b"x", (B, 9000))
        net.advance(1)
        self.assertEqual(server.got[0][2], (OUTSIDE, 20000))
        self.assertEqual(client.got, [(0.2, b"yes", (B, 9000))])
        self.assertEqual(net.link(B, A).counters.delivered, 1)

    def test_a_new_binding_is_a_new_source_and_the_old_one_vanishes(self) -> None:
        for address in (None, "198.51.100.7"):
            with self.subTest(address):
                net, nat, client, server = self.build_behind()
                client.port.write(b"1", (B, 9000))
                net.advance(1)
                server.port.write(b"late", server.got[0][2])
                net.advance(0.05)
                nat.rebind(address)
                client.port.write(b"2", (B, 9000))
                net.advance(1)
                old, new = server.got[0][2], server.got[1][2]
                self.assertEqual(new, (address or OUTSIDE, 20001))
                server.port.write(b"to the old", old)
                server.port.write(b"to the new", new)
                net.advance(1)
                self.assertEqual(client.data, [b"to the new"])

    def test_the_inside_is_not_reached_from_outside(self) -> None:
        net, _, client, server = self.build_behind()
        server.port.write(b"x", (A, 5000))
        server.port.write(b"x", (OUTSIDE, 5000))
        net.advance(1)
        self.assertEqual(client.got, [])

    def test_neighbours_inside_see_each_other_as_they_are(self) -> None:
        net, nat, client, _ = self.build_behind()
        neighbour = Recorder(b"hi")
        net.listen_udp(neighbour, net.host(C, nat), 5000)
        client.port.write(b"x", (C, 5000))
        net.advance(1)
        self.assertEqual(neighbour.got[0][2], (A, 5000))
        self.assertEqual(client.data, [b"hi"])

    def test_hosts_inside_get_ports_of_their_own_outside(self) -> None:
        net, nat, client, server = self.build_behind()
        neighbour = Recorder()
        net.listen_udp(neighbour, net.host(C, nat), 5000)
        client.port.write(b"x", (B, 9000))
        neighbour.port.write(b"x", (B, 9000))
        client.port.write(b"x", (B, 9000))
        net.advance(1)
        self.assertEqual([source[1] for _, _, source in server.got], [20000, 20001, 20000])

    def test_addresses_are_unique(self) -> None:
        net, nat, _, _ = self.build_behind()
        with self.assertRaises(ValueError):
            net.host(OUTSIDE)
        with self.assertRaises(ValueError):
            net.nat(A)
        with self.assertRaises(ValueError):
            net.host(B, nat)
        net.nat("203.0.113.2")
        with self.assertRaises(ValueError):
            nat.rebind("203.0.113.2")
        self.assertIs(net.nat(OUTSIDE), nat)
        with self.assertRaises(ValueError):
            net.host("example.org")


class PortTests(NetworkTestCase):
    def test_interfaces(self) -> None:
        net, client, _ = self.build()
        verifyObject(IUDPTransport, client.port)
        verifyObject(IListeningPort, client.port)
        verifyObject(IReactorTime, net.host(A))
        verifyObject(IReactorUDP, net.host(A))

    def test_a_host_is_a_reactor(self) -> None:
        net, client, _ = self.build()
        host = net.host(C)
        other = Recorder()
        port = host.listenUDP(7000, other)
        self.assertEqual(port.getHost(), IPv4Address("UDP", C, 7000))
        happened: list[int] = []
        call = host.callLater(2.5, happened.append, 1)
        self.assertEqual(host.getDelayedCalls(), [call])
        client.port.write(b"x", (C, 7000))
        net.run_until(lambda: bool(happened))
        self.assertEqual((host.seconds(), other.data), (2.5, [b"x"]))
        for interface in ("0.0.0.0", C):
            host.listenUDP(0, Recorder(), interface)
        with self.assertRaises(CannotListenError):
            host.listenUDP(0, Recorder(), A)

    def test_long_datagrams_are_cut_off_as_asked(self) -> None:
        net, client, _ = self.build()
        other = Recorder()
        net.host(C).listenUDP(7000, other, maxPacketSize=10)
        client.port.write(bytes(11), (C, 7000))
        net.advance(1)
        self.assertEqual(other.data, [bytes(10)])

    def test_ports_are_taken_once(self) -> None:
        net, client, server = self.build()
        with self.assertRaises(CannotListenError):
            net.listen_udp(Recorder(), B, 9000)
        chosen = {net.listen_udp(Recorder(), A).getHost().port for _ in range(3)}
        self.assertEqual(len(chosen | {client.port.number}), 4)
        net.run(server.port.stopListening())
        self.assertEqual(server.stopped, 1)
        net.listen_udp(Recorder(), B, 9000)

    def test_a_stopped_port_neither_sends_nor_receives(self) -> None:
        net, client, server = self.build()
        client.port.write(b"x", (B, 9000))
        stopped = server.port.stopListening()
        server.port.write(b"x", (A, 49152))
        self.assertIs(server.port.stopListening(), stopped)
        net.advance(1)
        self.assertEqual((server.got, client.got, server.stopped), ([], [], 1))
        self.assertIsNone(server.transport)

    def test_lose_connection_is_the_same(self) -> None:
        net, client, _ = self.build()
        client.port.loseConnection()
        net.advance(0)
        self.assertEqual(client.stopped, 1)

    def test_a_connected_port_hears_its_peer_only(self) -> None:
        net, client, server = self.build()
        other = Recorder()
        net.listen_udp(other, C, 9000)
        client.port.connect(B, 9000)
        client.port.write(b"1")
        client.port.write(b"2", (B, 9000))
        server.port.write(b"yes", (A, 49152))
        other.port.write(b"no", (A, 49152))
        net.advance(1)
        self.assertEqual((server.data, client.data), ([b"1", b"2"], [b"yes"]))
        with self.assertRaises(ValueError):
            client.port.write(b"x", (C, 9000))
        with self.assertRaises(RuntimeError):
            client.port.connect(C, 9000)

    def test_what_cannot_be_sent(self) -> None:
        _, client, _ = self.build()
        with self.assertRaises(ValueError):
            client.port.write(b"x")
        for call in (
            lambda: client.port.write(b"x", ("example.org", 9)),
            lambda: client.port.connect("example.org", 9),
        ):
            with self.assertRaises(InvalidAddressError):
                call()
        with self.assertRaises(MessageLengthError):
            client.port.write(bytes(65508), (B, 9000))
        client.port.writeSequence([bytes(65500), bytes(7)], (B, 9000))

    def test_ipv6(self) -> None:
        net = SimulatedNetwork()
        one, other = Recorder(), Recorder(b"yes")
        net.listen_udp(one, "2001:db8::1", 1)
        port = net.listen_udp(other, "2001:db8::2", 2)
        self.assertEqual(port.getHost(), IPv6Address("UDP", "2001:db8::2", 2))
        one.port.write(b"x", ("2001:db8::2", 2))
        net.advance(1)
        self.assertEqual(one.got[0][1:], (b"yes", ("2001:db8::2", 2)))

    def test_broadcasts_may_be_allowed_for_what_it_is_worth(self) -> None:
        _, client, _ = self.build()
        client.port.setBroadcastAllowed(True)
        self.assertTrue(client.port.getBroadcastAllowed())


class BatchTests(NetworkTestCase):
    def test_ordinary_ports_have_no_write_segments(self) -> None:
        _, client, _ = self.build()
        self.assertFalse(hasattr(client.port, "write_segments"))

    def test_datagrams_of_one_instant_arrive_together(self) -> None:
        net, client, _ = self.build(LinkOptions(delay=0.1))
        server, source = Batcher(), (A, 49152)
        net.listen_udp(server, B, 9001, batches=True)
        for data in (b"aaaa", b"bbbb", b"cc", b"dddd", b"ffffffff", b"", b"g"):
            client.port.write(data, (B, 9001))
        net.advance(1)
        self.assertEqual(
            server.batches,
            [
                (4, b"aaaabbbbcc", source),
                (4, b"dddd", source),
                (8, b"ffffffff", source),
                (1, b"g", source),
            ],
        )
        self.assertEqual(server.ends, 1)
        self.assertTrue(all(set(view) == {0xEE} for view in server.views))

    def test_sources_are_kept_apart(self) -> None:
        net, client, _ = self.build()
        other, server = Recorder(), Batcher()
        net.listen_udp(other, C)
        net.listen_udp(server, B, 9001, batches=True)
        for sender in (client, client, other, client):
            sender.port.write(b"x", (B, 9001))
        net.advance(1)
        self.assertEqual(
            [(data, source[0]) for _, data, source in server.batches],
            [(b"xx", A), (b"x", C), (b"x", A)],
        )

    def test_segments_are_sent_one_by_one(self) -> None:
        net, _, server = self.build()
        client = Batcher()
        net.listen_udp(client, C, batches=True)
        net.tap = lambda datagram: datagram.number != 1
        self.assertTrue(client.port.write_segments(memoryview(b"aaabbbcc"), 3, (B, 9000)))
        net.advance(1)
        self.assertEqual(server.data, [b"aaa", b"cc"])
        with self.assertRaises(ValueError):
            client.port.write_segments(b"x", 0, (B, 9000))

    def test_a_protocol_that_knows_no_batches_is_served_as_ever(self) -> None:
        net, client, _ = self.build()
        server = Recorder()
        net.listen_udp(server, B, 9001, batches=True)
        client.port.write(b"1", (B, 9001))
        client.port.write(b"2", (B, 9001))
        net.advance(1)
        self.assertEqual(server.data, [b"1", b"2"])
