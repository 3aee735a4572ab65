"""UDP on the io_uring reactor: joined datagrams, errors, buffers that run out, ports that end."""

from __future__ import annotations

import errno
import socket
import unittest
from typing import Any
from unittest import mock

from twisted.internet.protocol import DatagramProtocol

from jetstreamproto.reactors import profiled
from jetstreamproto.sockets.offload import BatchingPort, adopt_datagrams, listen_datagrams
from tests.loopback import test_offload
from tests.loopback.test_uring import REASON, UringTestCase

if REASON is None:
    from jetstreamproto.reactors._uring import LOANS
    from jetstreamproto.reactors.ring_datagrams import RingBatchingPort
    from jetstreamproto.reactors.uring import UringReactor

HOST = "127.0.0.1"
SPLIT = 17, 103  # UDP_SEGMENT
JOIN = 17, 104  # UDP_GRO


class Keeping(DatagramProtocol):
    """Keeps what comes, and calls `during` for each."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Any]] = []
        self.refused = 0
        self.during: Any = lambda: None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.got.append((datagram, addr))
        self.during()

    def connectionRefused(self) -> None:
        self.refused += 1


class DatagramTestCase(UringTestCase):
    def bound(self, host: str = HOST) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handle = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(handle.close)
        handle.bind((host, 0))
        return handle

    def port(self, host: str = HOST, **options: Any) -> tuple[Any, Keeping]:
        """A port of ours that is on the ring."""
        protocol = Keeping()
        port = self.reactor.listenUDP(0, protocol, interface=host, **options)
        self.turns()
        return port, protocol

    def address(self, port: Any) -> tuple[str, int]:
        host = port.getHost()
        return host.host, host.port

    def lent(self) -> int:
        found: int = self.reactor.ring.state()["lent_buffers"]
        return found


class PlainPortTests(DatagramTestCase):
    def test_datagrams_and_an_end(self) -> None:
        port, protocol = self.port(maxPacketSize=100)
        peer = self.bound()
        for data in (b"one", b"", bytes(200)):
            peer.sendto(data, self.address(port))
        self.until(lambda: len(protocol.got) == 3)
        source = peer.getsockname()
        self.assertEqual(protocol.got, [(b"one", source), (b"", source), (bytes(100), source)])
        address = self.address(port)
        self.stopped(port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            handle.bind(address)

    def test_joined_datagrams_are_taken_apart(self) -> None:
        for host in (HOST, "::1"):
            if host == "::1" and not test_offload.has_ipv6():
                continue
            port, protocol = self.port(host)
            peer = self.bound(host)
            expected: list[bytes] = []
            for length, size in ((5000, 1000), (2500, 1000), (1001, 1000), (1, 1000), (64, 1)):
                data = bytes(number % 251 for number in range(length))
                peer.sendmsg([data], [(*SPLIT, size.to_bytes(2, "little"))], 0, self.address(port))
                expected += [data[at : at + size] for at in range(0, length, size)]
            with mock.patch.object(port, "_take_apart", wraps=port._take_apart) as joined:
                self.until(lambda got=protocol.got: len(got) >= 75)
            self.assertEqual([data for data, _ in protocol.got], expected)
            self.assertEqual({address for _, address in protocol.got}, {peer.getsockname()[:2]})
            if port.gro:
                self.assertEqual(joined.call_count, 4)

    def test_each_of_joined_datagrams_is_cut_to_the_longest(self) -> None:
        port, protocol = self.port(maxPacketSize=300)
        self.bound().sendmsg(
            [bytes(2100)], [(*SPLIT, (1000).to_bytes(2, "little"))], 0, self.address(port)
        )
        self.until(lambda: len(protocol.got) == 3)
        self.assertEqual([len(data) for data, _ in protocol.got], [300, 300, 100])

    def test_a_kernel_that_does_not_join(self) -> None:
        with mock.patch("jetstreamproto.reactors.ring_datagrams.join_datagrams") as join:
            join.return_value = False
            port, protocol = self.port()
        self.assertFalse(port.gro)
        self.bound().sendmsg(
            [bytes(2500)], [(*SPLIT, (1000).to_bytes(2, "little"))], 0, self.address(port)
        )
        self.until(lambda: len(protocol.got) == 3)
        self.assertEqual([len(data) for data, _ in protocol.got], [1000, 1000, 500])

    def test_an_adopted_socket_is_left_as_it_is(self) -> None:
        """Whoever has it too would get joined datagrams, and not know."""
        bound, protocol = self.bound(), Keeping()
        bound.setblocking(False)
        port = self.reactor.adoptDatagramPort(bound.fileno(), socket.AF_INET, protocol)
        self.turns()
        self.assertTrue(port.on_ring and port.slot is not None)
        self.assertEqual((port.gro, bound.getsockopt(*JOIN)), (False, 0))
        data, split = bytes(2500), (*SPLIT, (1000).to_bytes(2, "little"))
        self.bound().sendmsg([data], [split], 0, bound.getsockname())
        self.until(lambda: len(protocol.got) == 3)

    def test_without_a_ring_nothing_is_joined(self) -> None:
        refused = OSError(errno.EPERM, "no")
        with mock.patch("jetstreamproto.reactors.uring.Ring", side_effect=refused):
            port, protocol = self.port()
        self.assertFalse(port.on_ring)
        peer = self.bound()
        self.assertEqual(port.socket.getsockopt(*JOIN), 0)
        peer.sendmsg([bytes(2500)], [(*SPLIT, (1000).to_bytes(2, "little"))], 0, self.address(port))
        self.until(lambda: len(protocol.got) == 3)

    def test_a_port_whose_ring_is_gone_joins_no_more(self) -> None:
        port, protocol = self.port()
        if not port.gro:
            self.skipTest("this kernel joins no datagrams")
        self.reactor.beforeDaemonize()
        refused = OSError(errno.EPERM, "no")
        with mock.patch("jetstreamproto.reactors.uring.Ring", side_effect=refused):
            self.turns()
        self.assertEqual(
            (port.on_ring, port.gro, port.socket.getsockopt(*JOIN)), (False,) * 2 + (0,)
        )
        self.bound().sendto(b"x", self.address(port))
        self.until(lambda: protocol.got)

    def test_a_peer_that_refuses(self) -> None:
        with self.bound() as handle:
            nobody = handle.getsockname()
        port, protocol = self.port()
        port.connect(*nobody)
        for count in (1, 2):  # it is told each time: receiving goes on
            port.write(b"x")
            self.until(lambda count=count: protocol.refused == count)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(nobody)
            peer.sendto(b"here after all", self.address(port))
            self.until(lambda: protocol.got)

    def test_an_error_that_ends_the_port(self) -> None:
        port, protocol = self.port()
        with (
            mock.patch.object(protocol, "doStop") as stopped,
            mock.patch("jetstreamproto.reactors.uring.log.err"),
        ):
            self.reactor._ring_events.append((port, 4, errno.EHOSTUNREACH))  # READ_FAILED
            self.until(lambda: stopped.called)

    def test_an_exception_of_the_protocol_is_logged(self) -> None:
        port, protocol = self.port()
        protocol.during = lambda: 1 / 0
        peer = self.bound()
        with mock.patch("jetstreamproto.reactors.ring_datagrams.log.err") as logged:
            for _ in range(3):
                peer.sendto(b"x", self.address(port))
            self.until(lambda: len(protocol.got) == 3)
        self.assertEqual(logged.call_count, 3)
        self.assertEqual(self.lent(), 0)

    def test_more_than_there_are_buffers(self) -> None:
        port, protocol = self.port()
        peer = self.bound()
        for number in range(5 * LOANS):
            peer.sendto(b"%d" % number, self.address(port))
        self.until(lambda: len(protocol.got) == 5 * LOANS)
        self.assertEqual([data for data, _ in protocol.got], [b"%d" % n for n in range(5 * LOANS)])
        self.assertEqual(self.lent(), 0)

    def test_iterated_from_within_without_buffers(self) -> None:
        """All buffers are lent to one port, which runs the reactor: another gets its own later."""
        (port, protocol), (other, others) = self.port(), self.port()
        peer, seen = self.bound(), list[int]()

        def nested() -> None:
            protocol.during = lambda: None
            peer.sendto(b"late", self.address(other))
            self.turns(3)
            seen.append(self.lent())

        protocol.during = nested
        for _ in range(2 * LOANS):
            peer.sendto(b"x", self.address(port))
        self.until(lambda: others.got and len(protocol.got) == 2 * LOANS)
        self.assertTrue(seen)
        self.assertEqual(self.lent(), 0)

    def test_iterated_from_within_in_order(self) -> None:
        """What had come is told before what has come since, and none of it twice."""
        port, protocol = self.port()
        peer = self.bound()
        for number in range(10):
            peer.sendto(b"%d" % number, self.address(port))

        def nested() -> None:
            protocol.during = lambda: None
            peer.sendto(b"late", self.address(port))
            self.until(lambda: len(protocol.got) == 11)

        protocol.during = nested
        self.until(lambda: len(protocol.got) == 11)
        self.turns()
        self.assertEqual(
            [data for data, _ in protocol.got], [*(b"%d" % n for n in range(10)), b"late"]
        )
        self.assertEqual(self.lent(), 0)


class PauseTests(DatagramTestCase):
    def test_a_paused_port_keeps_what_had_come_and_no_buffers(self) -> None:
        port, protocol = self.port()
        protocol.during = port.stopReading
        peer = self.bound()
        for number in range(10):
            peer.sendto(b"%d" % number, self.address(port))
        self.until(lambda: protocol.got)
        self.turns()
        self.assertEqual((len(protocol.got), self.lent()), (1, 0))
        protocol.during = lambda: None
        port.startReading()
        self.until(lambda: len(protocol.got) == 10)
        self.assertEqual([data for data, _ in protocol.got], [b"%d" % n for n in range(10)])

    def test_stopped_with_datagrams_pending(self) -> None:
        """In the socket, in the ring, in what is being told: none of them comes after the end."""
        port, protocol = self.port()
        stopped: list[Any] = []
        protocol.during = lambda: port.stopListening().addCallback(stopped.append)
        peer = self.bound()
        for _ in range(3 * LOANS):
            peer.sendto(b"x", self.address(port))
        self.until(lambda: stopped)
        self.turns()
        self.assertEqual((len(protocol.got), self.lent()), (1, 0))
        self.assertEqual(self.reactor.ring.state()["used_slots"], 0)
        other, others = self.port()
        peer.sendto(b"y", self.address(other))
        self.until(lambda: others.got)

    def test_closed_before_its_events_are_acted_on(self) -> None:
        port, protocol = self.port()
        self.bound().sendto(b"x", self.address(port))
        events = self.until(lambda: self.reactor.ring.wait(0.01))
        self.reactor._ring_events.extend(events)
        port._loseConnection()  # which leaves the rest to the next turn
        self.turns()
        self.assertEqual((protocol.got, self.lent()), ([], 0))


class BatchingPortTests(DatagramTestCase):
    def listen(self, **options: Any) -> tuple[BatchingPort, test_offload.Receiver]:
        receiver = test_offload.Receiver()
        port = listen_datagrams(self.reactor, 0, receiver, HOST, **options)
        self.turns()
        return port, receiver

    def test_the_ring_has_every_batching_port(self) -> None:
        for reactor in (self.reactor, profiled.profiled(self.reactor, "bulk")):
            one, two = test_offload.Receiver(), test_offload.Receiver()
            for port in (
                listen_datagrams(reactor, 0, one, HOST),
                adopt_datagrams(reactor, self.bound(), two),
            ):
                self.assertIsInstance(port, RingBatchingPort)
                self.bound().sendto(b"x", self.address(port))
            self.until(lambda one=one, two=two: one.datagrams and two.datagrams)

    def test_batches_come_whole_and_end_once(self) -> None:
        sender, _ = self.listen()
        port, receiver = self.listen()
        for _ in range(4):
            sender.write_segments(bytes(2500), 1000, self.address(port))
        self.until(lambda: len(receiver.datagrams) == 12)
        if port.gro:
            self.assertEqual(receiver.batches, [(1000, 2500)] * 4)
        self.assertEqual(receiver.ended, 1)
        self.assertEqual(self.lent(), 0)

    def test_stopped_within_a_batch(self) -> None:
        sender, _ = self.listen()
        port, receiver = self.listen()
        stopped: list[Any] = []
        take = receiver.datagrams_received
        receiver.datagrams_received = lambda *batch: (  # type: ignore[method-assign]
            take(*batch),
            port.stopListening().addCallback(stopped.append),
        )
        port._take_batch = receiver.datagrams_received
        for _ in range(3):
            sender.write_segments(bytes(2500), 1000, self.address(port))
        self.until(lambda: stopped)
        self.assertEqual((len(receiver.datagrams), self.lent()), (3, 0))

    def test_the_error_of_a_socket_that_is_not_ends_the_port(self) -> None:
        port, _ = self.listen()
        with mock.patch.object(port, "connectionLost", wraps=port.connectionLost) as lost:
            self.reactor._ring_events.append((port, 4, errno.EBADF))  # READ_FAILED
            self.until(lambda: lost.called)

    def test_many_errors_are_told_over_several_turns(self) -> None:
        port, receiver = self.listen()
        nobody = [self.bound() for _ in range(100)]
        addresses = [handle.getsockname() for handle in nobody]
        for handle in nobody:
            handle.close()
        for address in addresses:
            port.write(b"x", address)
        self.until(lambda: port._errors.count >= 100)
        self.assertGreaterEqual(len(receiver.errors), 64)  # told a second


# What test_offload asks of all reactors.
if REASON is None:

    class RingTransferTests(test_offload.TransferTests):
        default = UringReactor

    class RingReactorTests(test_offload.ReactorTests):
        default = UringReactor
        reactors = (UringReactor,)

    class RingLifeTests(test_offload.LifeTests):
        default = UringReactor


if __name__ == "__main__":
    unittest.main()
