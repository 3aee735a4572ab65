"""Tests for jetstreamproto.sockets.offload, against a simulated socket."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import InvalidAddressError, MessageLengthError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.sockets.offload import MAX_SEGMENTS, BatchingPort, listen_datagrams
from tests.unit.sockets.kernel_socket import ADDRESS, KernelSocket, failure

untimed = settings(deadline=None, derandomize=True, database=None)

DATA = bytes(range(256)) * 40  # 10240 bytes
Batch = tuple[int, bytes, Any]


class Receiver(DatagramProtocol):
    """Keeps what it is given, in batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.ended = 0
        self.errors: list[tuple[Any, int, int]] = []
        self.during: Callable[[], object] = lambda: None

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: tuple[str, int]
    ) -> None:
        self.batches.append((segment_size, bytes(buffer[:length]), address))
        self.during()

    def batch_ended(self) -> None:
        self.ended += 1

    def datagram_error(self, address: tuple[str, int], code: int, info: int) -> None:
        self.errors.append((address, code, info))


class PlainReceiver(DatagramProtocol):
    """One of Twisted's."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.during: Callable[[], object] = lambda: None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.datagrams.append(datagram)
        self.during()


class Case(SynchronousTestCase):
    def listen(
        self, protocol: Any = None, interface: str = "", unknown: Any = (), **options: Any
    ) -> BatchingPort:
        self.reactor: Any = MemoryReactorClock()
        self.protocol = protocol or Receiver()
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self.handle = KernelSocket(family)
        self.handle.unknown = set(unknown)
        with mock.patch("twisted.internet.base.BasePort.createInternetSocket") as create:
            create.return_value = self.handle
            return listen_datagrams(self.reactor, 4433, self.protocol, interface, **options)


class ReceiveTests(Case):
    def test_joined_datagrams_come_in_one_call(self) -> None:
        port = self.listen()
        self.handle.arrive(DATA, 1000)
        self.handle.arrive(DATA[:3000], 1000)
        port.doRead()
        self.assertEqual(
            self.protocol.batches, [(1000, DATA, ADDRESS), (1000, DATA[:3000], ADDRESS)]
        )
        self.assertEqual(self.protocol.ended, 1)
        stats = port.stats
        self.assertEqual((stats.datagrams_in, stats.bytes_in, stats.reads), (14, 13240, 2))

    def test_a_datagram_alone(self) -> None:
        port = self.listen()
        self.handle.arrive(b"alone")
        port.doRead()
        self.assertEqual(self.protocol.batches, [(5, b"alone", ADDRESS)])

    def test_nothing_is_no_batch(self) -> None:
        port = self.listen()
        port.doRead()
        self.assertEqual((self.protocol.batches, self.protocol.ended), ([], 0))

    def test_a_plain_protocol_gets_each_datagram(self) -> None:
        protocol = PlainReceiver()
        port = self.listen(protocol)
        self.handle.arrive(b"aaaabbbbcc", 4)
        self.handle.arrive(b"")
        self.handle.arrive(b"d")
        port.doRead()
        self.assertEqual(protocol.datagrams, [b"aaaa", b"bbbb", b"cc", b"", b"d"])

    def test_without_recvmsg(self) -> None:
        port = self.listen()

        class OtherSocket:
            def recvfrom_into(other, buffer: memoryview) -> tuple[int, Any]:
                length, _, _, address = self.handle.recvmsg_into([buffer], 0)
                return length, address

        self.handle.arrive(b"one")
        self.handle.arrive(b"two")
        port.socket = OtherSocket()  # type: ignore[assignment]
        with mock.patch.object(port, "_errors"):
            port.doRead()
        self.assertEqual([data for _, data, _ in self.protocol.batches], [b"one", b"two"])

    def test_packets_of_a_turn_are_bounded(self) -> None:
        port = self.listen()
        for _ in range(2000):
            self.handle.arrive(b"x")
        port.doRead()
        self.assertEqual(len(self.protocol.batches), 512)
        port.doRead()
        self.assertEqual(len(self.protocol.batches), 1024)

    def test_joined_packets_count_each(self) -> None:
        port = self.listen()
        for _ in range(100):
            self.handle.arrive(bytes(64), 1)
        port.doRead()
        self.assertEqual(len(self.protocol.batches), 8)

    def test_bytes_of_a_turn_are_bounded(self) -> None:
        port = self.listen()
        for _ in range(100):
            self.handle.arrive(bytes(1 << 16), 1 << 15)
        port.doRead()
        self.assertEqual(len(self.protocol.batches), 16)

    def test_empty_datagrams_and_errors_count_as_well(self) -> None:
        port = self.listen()
        for _ in range(1000):
            self.handle.arrive(b"")
        port.doRead()
        self.assertEqual(len(self.handle.incoming), 1000 - 512)
        self.assertEqual(self.protocol.batches, [])
        self.assertEqual(port.stats.discarded, 512)
        self.handle.incoming.clear()
        self.handle.incoming.extend(failure(errno.ECONNREFUSED) for _ in range(1000))
        port.doRead()
        self.assertEqual(len(self.handle.incoming), 1000 - 512)

    def test_too_long_datagrams_are_discarded(self) -> None:
        port = self.listen(max_packet_size=100)
        self.handle.arrive(bytes(101))
        self.handle.arrive(bytes(500), 200)
        self.handle.arrive(bytes(400), 100)
        self.handle.incoming.append((b"cut", [], socket.MSG_TRUNC, ADDRESS))
        port.doRead()
        self.assertEqual([size for size, _, _ in self.protocol.batches], [100])
        self.assertEqual(port.stats.discarded, 5)

    def test_other_ancillary_data_is_ignored(self) -> None:
        port = self.listen()
        strange = [(1, 29, b"12345678"), (17, 104, b"1"), (17, 104, bytes(4))]
        self.handle.incoming.append((b"data", strange, 0, ADDRESS))
        port.doRead()
        self.assertEqual(self.protocol.batches, [(4, b"data", ADDRESS)])

    def test_the_addresses_of_ipv6(self) -> None:
        port = self.listen(interface="::")
        self.handle.arrive(b"a", address=("2001:db8::1", 5, 9, 0))
        self.handle.arrive(b"b", address=("fe80::1", 5, 0, 2))
        port.doRead()
        addresses = [address for _, _, address in self.protocol.batches]
        self.assertEqual(addresses, [("2001:db8::1", 5), ("fe80::1%2", 5)])

    def test_a_protocol_that_fails_is_logged_and_goes_on(self) -> None:
        for protocol in (Receiver(), PlainReceiver()):
            port = self.listen(protocol)
            protocol.during = lambda: 1 // 0
            self.handle.arrive(b"ab", 1)
            self.handle.arrive(b"c")
            port.doRead()
            self.assertEqual(port.stats.datagrams_in, 3)
            self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_nothing_more_once_it_was_stopped(self) -> None:
        for protocol in (Receiver(), PlainReceiver()):
            port = self.listen(protocol)
            protocol.during = port.stopListening
            self.handle.arrive(b"ab", 1)
            self.handle.arrive(b"c")
            port.doRead()
            kept = protocol.batches if isinstance(protocol, Receiver) else protocol.datagrams
            self.assertEqual(len(kept), 1)
            self.assertEqual(len(self.reactor.readers), 0)
            self.reactor.advance(0)
            self.assertTrue(self.handle.closed)

    def test_a_socket_that_is_gone(self) -> None:
        port = self.listen()
        self.handle.incoming.append(failure(errno.EBADF))
        self.assertRaises(OSError, port.doRead)


class ErrorTests(Case):
    def test_an_icmp_error_goes_to_the_protocol(self) -> None:
        port = self.listen()
        self.handle.arrive(b"data")
        self.handle.bounce(errno.ECONNREFUSED)
        port.doRead()
        self.assertEqual(self.protocol.errors, [(ADDRESS, errno.ECONNREFUSED, 0)])
        self.assertEqual(len(self.protocol.batches), 1)

    def test_errors_alone_are_read_when_the_reactor_wakes_the_port(self) -> None:
        port = self.listen()
        self.handle.queue_error(errno.EMSGSIZE, 1400)
        port.doRead()
        self.assertEqual(self.protocol.errors, [(ADDRESS, errno.EMSGSIZE, 1400)])

    def test_epoll_takes_an_error_for_the_end(self) -> None:
        port = self.listen()
        self.reactor.removeReader(port)
        self.handle.queue_error(errno.ECONNREFUSED)
        port.readConnectionLost(mock.sentinel.failure)
        self.assertEqual(self.protocol.errors, [(ADDRESS, errno.ECONNREFUSED, 0)])
        self.assertEqual(len(self.reactor.readers), 1)

    def test_epoll_takes_an_error_for_the_end_of_a_stopped_port(self) -> None:
        port = self.listen()
        port.stopListening()
        port.readConnectionLost(mock.sentinel.failure)
        self.assertEqual(len(self.reactor.readers), 0)

    def test_a_port_may_be_stopped_for_an_error(self) -> None:
        port = self.listen()
        self.protocol.datagram_error = None
        stopped: list[int] = []

        def stop(address: Any, code: int, info: int) -> None:
            stopped.append(code)
            port.stopListening()

        port._take_error = stop
        self.handle.queue_error(errno.ECONNREFUSED)
        self.handle.queue_error(errno.EHOSTUNREACH)
        port.readConnectionLost(mock.sentinel.failure)
        self.assertEqual(stopped, [errno.ECONNREFUSED])
        self.assertEqual(len(self.reactor.readers), 0)

    def test_a_plain_protocol_never_hears_of_them(self) -> None:
        port = self.listen(PlainReceiver())
        self.handle.bounce(errno.ECONNREFUSED)
        port.doRead()
        self.assertFalse(port.write_segments(b"x", 9, ADDRESS) and self.handle.error_queue)

    def test_a_protocol_that_fails_at_it(self) -> None:
        port = self.listen()
        port._take_error = lambda *error: 1 // 0
        self.handle.bounce(errno.ECONNREFUSED)
        port.doRead()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class SendTests(Case):
    def sent(self) -> list[tuple[int, int]]:
        """Length and segment size of each call."""
        return [(len(data), size) for data, size, _ in self.handle.sent]

    def datagrams(self) -> list[bytes]:
        """What goes over the wire."""
        out: list[bytes] = []
        for data, size, _ in self.handle.sent:
            out += [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
        return out

    def test_segments_go_with_one_call(self) -> None:
        port = self.listen()
        self.assertTrue(port.write_segments(memoryview(DATA), 1000, ADDRESS))
        self.assertEqual(self.handle.sent, [(DATA, 1000, ADDRESS)])
        stats = port.stats
        self.assertEqual((stats.datagrams_out, stats.bytes_out, stats.writes), (11, 10240, 1))

    def test_one_segment_needs_no_splitting(self) -> None:
        port = self.listen()
        for size in (1000, 1001, 65535):
            self.assertTrue(port.write_segments(DATA[:1000], size, ADDRESS))
        self.assertTrue(port.write_segments(b"", 0, ADDRESS))
        self.assertEqual(self.sent(), [(1000, 0)] * 3 + [(0, 0)])

    def test_a_call_has_64_segments_and_65507_bytes_at_most(self) -> None:
        port = self.listen()
        data = bytes(200_000)
        for size in (1, 100, 1400, 9000, 40_000):
            self.handle.sent.clear()
            self.assertTrue(port.write_segments(data[: 100 * size], size, ADDRESS))
            for length, segment in self.sent():
                self.assertLessEqual(length, 65507)
                self.assertLessEqual(-(-length // (segment or length)), MAX_SEGMENTS)
            self.assertEqual({len(one) for one in self.datagrams()[:-1]}, {size})

    @untimed
    @given(st.binary(max_size=2000), st.integers(1, 300), st.booleans())
    def test_the_datagrams_are_the_same_with_and_without(
        self, data: bytes, size: int, gso: bool
    ) -> None:
        port = self.listen(gso=gso)
        self.assertTrue(port.write_segments(data, size, ADDRESS))
        expected = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        self.assertEqual(self.datagrams(), expected)
        self.assertEqual(port.stats.datagrams_out, len(expected))

    def test_switched_off(self) -> None:
        port = self.listen(gso=False, gro=False)
        self.assertEqual((port.gso, port.gro), (False, False))
        self.assertNotIn((17, 104), self.handle.options)
        self.assertTrue(port.write_segments(DATA, 1000, ADDRESS))
        self.assertEqual(self.sent(), [(1000, 0)] * 10 + [(240, 0)])

    def test_a_kernel_that_cannot(self) -> None:
        port = self.listen(unknown=[(17, 103), (17, 104)])
        self.assertEqual((port.gso, port.gro), (False, False))
        self.assertTrue(port.write_segments(DATA, 1000, ADDRESS))
        self.assertEqual(len(self.sent()), 11)

    def test_it_falls_back_once_the_kernel_cannot_after_all(self) -> None:
        for code in (errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EMSGSIZE):
            port = self.listen()
            self.handle.refuse = lambda data, size, code=code: code if size else 0
            self.assertTrue(port.gso)
            self.assertTrue(port.write_segments(bytes(100_000), 1000, ADDRESS))
            self.assertEqual(self.sent(), [(1000, 0)] * 100)
            self.assertFalse(port.gso)
            attempts = self.handle.attempts
            self.assertTrue(port.write_segments(DATA, 1000, ADDRESS))
            self.assertEqual(self.handle.attempts, attempts + 11, "it is not tried again")
            self.assertEqual((port.stats.dropped, self.protocol.errors), (0, []))

    def test_too_long_for_the_device_is_not_the_fault_of_splitting(self) -> None:
        port = self.listen()
        limit = 1400
        self.handle.refuse = lambda data, size: errno.EMSGSIZE if (size or len(data)) > limit else 0
        self.assertFalse(port.write_segments(DATA, 2000, ADDRESS))
        self.assertTrue(port.gso)
        self.assertEqual(port.stats.dropped, 6)
        self.assertEqual(self.protocol.errors, [], "not while it is sending")
        self.reactor.advance(0)
        self.assertEqual(self.protocol.errors, [(ADDRESS, errno.EMSGSIZE, 0)])
        self.assertTrue(port.write_segments(DATA, 1400, ADDRESS))

    def test_no_room_is_a_loss_and_no_error(self) -> None:
        for code in (errno.EAGAIN, errno.ENOBUFS):
            for gso in (True, False):
                port = self.listen(gso=gso)
                self.handle.refuse = lambda data, size, code=code: code
                self.assertFalse(port.write_segments(bytes(100_000), 1000, ADDRESS))
                self.assertFalse(port.write_segments(b"one", 1000, ADDRESS))
                self.assertEqual(port.stats.dropped, 101)
                self.assertEqual(self.handle.attempts, 2)
                port.write(b"one", ADDRESS)
                self.reactor.advance(0)
                self.assertEqual(self.protocol.errors, [])
                self.assertEqual(port.gso, gso)

    def test_room_for_a_part(self) -> None:
        port = self.listen(gso=False)
        self.handle.refuse = lambda data, size: errno.EAGAIN if len(self.handle.sent) == 4 else 0
        self.assertFalse(port.write_segments(DATA, 1000, ADDRESS))
        self.assertEqual((port.stats.datagrams_out, port.stats.dropped), (4, 7))

    def test_an_error_of_an_earlier_datagram_costs_this_one_nothing(self) -> None:
        for data in (DATA, b"one"):
            port = self.listen()
            codes = [errno.ECONNREFUSED, 0]
            self.handle.refuse = lambda data, size, codes=codes: codes.pop(0)
            self.assertTrue(port.write_segments(data, 1000, ADDRESS))
            self.assertEqual(port.stats.dropped, 0)
            self.reactor.advance(0)
            self.assertEqual(self.protocol.errors, [], "the queue will tell of it")

    def test_no_route(self) -> None:
        port = self.listen()
        self.handle.refuse = lambda data, size: errno.ENETUNREACH
        for _ in range(3):
            self.assertFalse(port.write_segments(DATA, 1000, ADDRESS))
            port.write(b"one", ADDRESS)
        self.assertEqual(self.protocol.errors, [])
        self.reactor.advance(0)
        self.assertEqual(self.protocol.errors, [(ADDRESS, errno.ENETUNREACH, 0)])
        self.assertEqual(port.stats.dropped, 36)

    def test_write_raises_for_what_is_too_long_as_twisteds_does(self) -> None:
        port = self.listen()
        self.handle.refuse = lambda data, size: errno.EMSGSIZE
        self.assertRaises(MessageLengthError, port.write, bytes(70_000), ADDRESS)

    def test_write(self) -> None:
        port = self.listen()
        port.write(b"one", ADDRESS)
        port.writeSequence([b"t", b"wo"], ADDRESS)
        self.assertEqual(self.datagrams(), [b"one", b"two"])

    def test_names_are_never_looked_up(self) -> None:
        for interface in ("", "::"):
            port = self.listen(interface=interface)
            with self.assertRaises(InvalidAddressError):
                port.write(b"x", ("localhost", 9))
            with self.assertRaises(InvalidAddressError):
                port.write_segments(b"x", 9, ("localhost", 9))
        port = self.listen()
        self.assertRaises(InvalidAddressError, port.write, b"x", ("::1", 9))

    def test_addresses_for_an_ipv6_socket(self) -> None:
        port = self.listen(interface="::")
        with mock.patch("socket.if_nametoindex", {"eth7": 7}.__getitem__):
            for host in ("2001:db8::1", "fe80::1%2", "fe80::1%eth7", "192.0.2.1"):
                self.assertTrue(port.write_segments(b"x", 9, (host, 5)))
        self.assertEqual(
            [address for _, _, address in self.handle.sent],
            [
                ("2001:db8::1", 5, 0, 0),
                ("fe80::1", 5, 0, 2),
                ("fe80::1", 5, 0, 7),
                ("::ffff:192.0.2.1", 5, 0, 0),
            ],
        )

    def test_what_is_remembered_is_bounded(self) -> None:
        port = self.listen()
        for number in range(10_000):
            port.write_segments(b"xyz" * (number + 1), number + 1, ("192.0.2.1", number))
        self.assertLessEqual(len(port._targets), 4096)
        self.assertLessEqual(len(port._ancillary), 256)

    def test_after_the_end_everything_is_lost_quietly(self) -> None:
        port = self.listen()
        port.stopListening()
        self.assertFalse(port.write_segments(DATA, 1000, ADDRESS))
        self.reactor.advance(0)
        self.assertFalse(port.write_segments(DATA, 1000, ADDRESS))
        port.write(b"one", ADDRESS)
        self.reactor.advance(1)
        self.assertEqual(self.handle.sent, [])

    def test_an_error_noted_just_before_the_end(self) -> None:
        port = self.listen()
        self.handle.refuse = lambda data, size: errno.ENETUNREACH
        port.write_segments(DATA, 1000, ADDRESS)
        port.stopListening()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.errors, [])

    def test_a_segment_of_nothing(self) -> None:
        port = self.listen()
        self.assertRaises(ValueError, port.write_segments, b"x", 0, ADDRESS)
        self.assertRaises(ValueError, port.write_segments, b"x", -1, ADDRESS)
