"""The batching UDP port on real sockets, under each of Twisted's reactors that Linux has."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import asyncioreactor, epollreactor, pollreactor, selectreactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from jetstreamproto.sockets.figures import datagram_figures, datagram_settings
from jetstreamproto.sockets.offload import BatchingPort, adopt_datagrams, listen_datagrams
from jetstreamproto.sockets.options import Outcome
from tests.ports import free_port

DEADLINE = 60.0
LOOPBACK = "127.0.0.1"


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def asyncio_reactor() -> Any:
    return asyncioreactor.AsyncioSelectorReactor(asyncio.new_event_loop())


REACTORS: tuple[Callable[[], Any], ...] = (
    epollreactor.EPollReactor,
    pollreactor.PollReactor,
    selectreactor.SelectReactor,
    asyncio_reactor,
)


class Receiver(DatagramProtocol):
    """Keeps each datagram, and the batches' sizes."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.addresses: set[Any] = set()
        self.batches: list[tuple[int, int]] = []
        self.ended = 0
        self.errors: list[tuple[Any, int, int]] = []

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: tuple[str, int]
    ) -> None:
        self.batches.append((segment_size, length))
        self.addresses.add(address)
        for start in range(0, length, segment_size):
            self.datagrams.append(bytes(buffer[start : min(start + segment_size, length)]))

    def batch_ended(self) -> None:
        self.ended += 1

    def datagram_error(self, address: tuple[str, int], code: int, info: int) -> None:
        self.errors.append((address, code, info))


class PlainReceiver(DatagramProtocol):
    """One of Twisted's."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.datagrams.append(datagram)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


DATA = bytes(number % 251 for number in range(100_000))


class Case(SynchronousTestCase):
    default: Callable[[], Any] = epollreactor.EPollReactor
    reactors = REACTORS

    def start(self, make: Callable[[], Any] | None = None) -> None:
        self.reactor = (make or type(self).default)()
        self.addCleanup(self.stop, self.reactor)

    def stop(self, reactor: Any) -> None:
        """Close all that a reactor has, which never ran."""
        reactor.disconnectAll()
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        reactor._internalReaders.clear()
        getattr(reactor, "beforeDaemonize", lambda: None)()
        for name in ("_poller", "_asyncioEventloop"):
            if hasattr(getattr(reactor, name, None), "close"):
                getattr(reactor, name).close()

    def listen(
        self, protocol: Any, interface: str = LOOPBACK, number: int = 0, **options: Any
    ) -> BatchingPort:
        return listen_datagrams(self.reactor, number, protocol, interface, **options)

    def address(self, port: BatchingPort) -> tuple[str, int]:
        host = port.getHost()
        return host.host, host.port

    def wait(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), end, "it never happened")
            self.reactor.iterate(0.01)

    def pair(self, **options: Any) -> tuple[BatchingPort, BatchingPort, Receiver]:
        receiver = Receiver()
        return self.listen(Receiver(), **options), self.listen(receiver, **options), receiver


class TransferTests(Case):
    def transfer(self, data: bytes, size: int, **options: Any) -> Receiver:
        self.start()
        sender, port, receiver = self.pair(**options)
        self.assertTrue(sender.write_segments(memoryview(data), size, self.address(port)))
        expected = cut(data, size)
        self.wait(lambda: len(receiver.datagrams) >= len(expected))
        self.assertEqual(receiver.datagrams, expected)
        self.assertEqual(receiver.addresses, {self.address(sender)})
        self.assertEqual(sender.stats.datagrams_out, port.stats.datagrams_in)
        self.assertEqual((sender.stats.bytes_out, port.stats.bytes_in), (len(data), len(data)))
        self.assertGreaterEqual(receiver.ended, 1)
        return receiver

    def test_batches(self) -> None:
        receiver = self.transfer(DATA, 1200)
        if self.offloaded():
            self.assertLess(len(receiver.batches), len(receiver.datagrams))

    def offloaded(self) -> bool:
        port = self.listen(Receiver())
        return port.gso and port.gro

    def test_odd_last_segments(self) -> None:
        for length in (1, 1199, 1200, 1201, 2399, 2400, 2401, 64 * 1200 - 1, 64 * 1200 + 1):
            with self.subTest(length):
                self.transfer(DATA[:length], 1200)

    def test_segment_sizes(self) -> None:
        for size in (1, 13, 508, 1452, 9000, 40_000, 65_507):
            with self.subTest(size):
                self.transfer(DATA[: 70 * size], size)

    def test_without_splitting(self) -> None:
        self.transfer(DATA, 1200, gso=False)

    def test_without_joining(self) -> None:
        receiver = self.transfer(DATA, 1200, gro=False)
        self.assertEqual(len(receiver.batches), len(receiver.datagrams))

    def test_with_neither(self) -> None:
        self.transfer(DATA, 1200, gso=False, gro=False)

    def test_ipv6(self) -> None:
        if not has_ipv6():
            self.skipTest("no IPv6 here")
        receiver = self.transfer(DATA, 1200, interface="::1")
        self.assertEqual({host for host, _ in receiver.addresses}, {"::1"})

    def test_ipv4_to_a_port_of_both_families(self) -> None:
        if not has_ipv6():
            self.skipTest("no IPv6 here")
        self.start()
        both, alone = Receiver(), Receiver()
        port, client = self.listen(both, "::"), self.listen(alone)
        client.write_segments(DATA[:5000], 1200, (LOOPBACK, port.getHost().port))
        self.wait(lambda: len(both.datagrams) == 5)
        (address,) = both.addresses
        self.assertTrue(port.write_segments(DATA[:5000], 1000, address))
        self.assertTrue(port.write_segments(DATA[:5000], 1000, self.address(client)))
        self.wait(lambda: len(alone.datagrams) == 10)

    def test_a_kernel_that_cannot_split_after_all(self) -> None:
        self.start()
        sender, port, receiver = self.pair()
        kernel = sender.socket

        class Unable:
            """The port's socket, of which every call to split fails."""

            def sendmsg(self, *arguments: Any) -> int:
                raise OSError(errno.EIO, "cannot")

            def __getattr__(self, name: str) -> Any:
                return getattr(kernel, name)

        sender.socket = Unable()  # type: ignore[assignment]
        sender.gso = True
        for _ in range(2):
            self.assertTrue(sender.write_segments(DATA[:50_000], 1000, self.address(port)))
        self.assertFalse(sender.gso)
        self.wait(lambda: len(receiver.datagrams) >= 100)
        self.assertEqual(receiver.datagrams, 2 * cut(DATA[:50_000], 1000))

    def test_a_plain_protocol(self) -> None:
        self.start()
        receiver = PlainReceiver()
        sender, port = self.listen(PlainReceiver()), self.listen(receiver)
        sender.write_segments(DATA[:10_500], 1000, self.address(port))
        sender.write(b"", self.address(port))
        sender.write(b"one", self.address(port))
        self.wait(lambda: len(receiver.datagrams) == 13)
        self.assertEqual(receiver.datagrams, [*cut(DATA[:10_500], 1000), b"", b"one"])


class ReactorTests(Case):
    def test_every_reactor(self) -> None:
        for make in self.reactors:
            with self.subTest(make.__name__):
                self.start(make)
                sender, port, receiver = self.pair()
                sender.write_segments(DATA, 1200, self.address(port))
                self.wait(lambda receiver=receiver: len(receiver.datagrams) == 84)
                port.write_segments(DATA, 1200, self.address(sender))
                self.wait(lambda sender=sender: len(sender.protocol.datagrams) == 84)

    def test_port_unreachable_does_not_kill_the_port(self) -> None:
        for make in self.reactors:
            with self.subTest(make.__name__):
                self.start(make)
                sender, port, receiver = self.pair()
                nobody = (LOOPBACK, free_port())
                sender.write_segments(b"anybody?", 1200, nobody)
                self.wait(lambda sender=sender: sender.protocol.errors)
                self.assertEqual(sender.protocol.errors, [(nobody, errno.ECONNREFUSED, 0)])
                self.assertIn(sender, self.reactor.getReaders())
                sender.write_segments(DATA, 1200, self.address(port))
                self.wait(lambda receiver=receiver: len(receiver.datagrams) == 84)
                port.write_segments(DATA, 1200, self.address(sender))
                self.wait(lambda sender=sender: len(sender.protocol.datagrams) == 84)

    def test_the_refusal_of_one_peer_costs_another_nothing(self) -> None:
        self.start()
        sender, port, receiver = self.pair()
        nobody = (LOOPBACK, free_port())
        for number in range(50):
            self.assertTrue(sender.write_segments(b"anybody?", 1200, nobody))
            self.assertTrue(sender.write_segments(b"%d" % number, 1200, self.address(port)))
        self.wait(lambda: len(receiver.datagrams) == 50)
        self.wait(lambda: sender.protocol.errors)
        self.assertEqual(
            {error[:2] for error in sender.protocol.errors}, {(nobody, errno.ECONNREFUSED)}
        )

    def test_the_reactor_rests_after_an_error(self) -> None:
        for make in self.reactors:
            with self.subTest(make.__name__):
                self.start(make)
                sender = self.listen(PlainReceiver())
                for _ in range(3):
                    sender.write_segments(b"anybody?", 1200, (LOOPBACK, free_port()))
                self.wait(lambda sender=sender: sender._errors.count >= 3)
                with self.count_reads(sender) as reads:
                    self.reactor.iterate(0)
                    self.reactor.iterate(0)
                self.assertEqual(reads, [])

    def count_reads(self, port: BatchingPort) -> Any:
        """While it lasts: a list with an entry for each time the reactor wakes the port."""
        case = self

        class Counting:
            def __enter__(self) -> list[int]:
                reads: list[int] = []
                case.patch(port, "doRead", lambda: reads.append(1))
                case.patch(port, "readConnectionLost", lambda reason: reads.append(1))
                if hasattr(port, "completed"):  # of the ring
                    case.patch(port, "completed", lambda *event: reads.append(1))
                return reads

            def __exit__(self, *_: object) -> None: ...

        return Counting()

    def test_too_long_for_the_device(self) -> None:
        self.start()
        sender, port, _ = self.pair()
        self.assertFalse(sender.write_segments(bytes(65_508), 65_508, self.address(port)))
        self.wait(lambda: sender.protocol.errors)
        address, code, _ = sender.protocol.errors[0]
        self.assertEqual((address, code), (self.address(port), errno.EMSGSIZE))


class FloodTests(Case):
    def test_a_flood_of_empty_datagrams_starves_nobody(self) -> None:
        for make in self.reactors:
            with self.subTest(make.__name__):
                self.start(make)
                port = self.listen(Receiver())
                reads: list[int] = []

                class Endless:
                    """The port's socket, which always has another empty datagram."""

                    def recvmsg_into(self, *arguments: Any, reads: list[int] = reads) -> Any:
                        reads.append(1)
                        return 0, [], 0, (LOOPBACK, 9)

                    def __getattr__(self, name: str, kernel: Any = port.socket) -> Any:
                        return getattr(kernel, name)

                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
                    flooder.sendto(b"", self.address(port))
                port.socket = Endless()  # type: ignore[assignment]
                called: list[int] = []
                self.reactor.callLater(0, called.append, 1)
                self.wait(lambda called=called: called)
                self.wait(lambda reads=reads: reads)
                self.assertEqual(len(reads) % port.packets_per_turn, 0)


class LifeTests(Case):
    def test_empty_datagrams_are_counted(self) -> None:
        self.start()
        sender, port, receiver = self.pair()
        for _ in range(100):
            sender.write(b"", self.address(port))
        self.wait(lambda: port.stats.discarded == 100)
        self.assertEqual(receiver.batches, [])

    def test_stop_listening(self) -> None:
        self.start()
        sender, receiver = self.listen(Receiver()), Receiver()
        port = self.listen(receiver, number=free_port())
        address = self.address(port)
        stopped: list[object] = []
        port.stopListening().addCallback(stopped.append)
        sender.write_segments(DATA, 1200, address)
        self.wait(lambda: stopped)
        self.assertEqual(receiver.datagrams, [])
        self.assertFalse(port.write_segments(DATA, 1200, self.address(sender)))
        self.assertNotIn(port, self.reactor.getReaders())
        again = listen_datagrams(self.reactor, address[1], Receiver(), LOOPBACK)
        self.assertEqual(self.address(again), address)

    def test_a_taken_port(self) -> None:
        self.start()
        port = self.listen(Receiver())
        number = port.getHost().port
        with self.assertRaises(CannotListenError):
            listen_datagrams(self.reactor, number, Receiver(), LOOPBACK)

    def test_a_shared_port(self) -> None:
        self.start()
        first = self.listen(Receiver(), reuse_port=True)
        number = first.getHost().port
        second = listen_datagrams(self.reactor, number, Receiver(), LOOPBACK, reuse_port=True)
        self.assertEqual(second.getHost().port, number)

    def test_a_socket_that_is_bound_already(self) -> None:
        self.start()
        for family, host in ((socket.AF_INET, LOOPBACK), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not has_ipv6():
                continue
            for as_number in (True, False):
                with socket.socket(family, socket.SOCK_DGRAM) as bound:
                    bound.bind((host, 0))
                    receiver = Receiver()
                    given = bound.fileno() if as_number else bound
                    port = adopt_datagrams(self.reactor, given, receiver)
                    number = bound.getsockname()[1]
                self.assertEqual(port.addressFamily, family)
                self.assertEqual(port.getHost().port, number)
                sender = self.listen(Receiver(), host)
                sender.write_segments(DATA, 1200, (host, number))
                self.wait(lambda receiver=receiver: len(receiver.datagrams) == 84)

    def test_buffers_are_as_large_as_the_kernel_grants(self) -> None:
        self.start()
        port = self.listen(Receiver(), receive_buffer=1 << 20, send_buffer=1 << 19)
        settings = {setting.option: setting for setting in port.settings}
        for kind, name, asked in (
            (socket.SO_RCVBUF, "SO_RCVBUF", 1 << 20),
            (socket.SO_SNDBUF, "SO_SNDBUF", 1 << 19),
        ):
            granted = settings[name].granted
            self.assertEqual(port.socket.getsockopt(socket.SOL_SOCKET, kind), 2 * granted)
            self.assertGreater(granted, 0)
            self.assertTrue(granted <= asked or granted < 1 << 22)
            self.assertEqual(datagram_figures(port)[name], granted)
        self.assertEqual(datagram_figures(port)["profile"], "default")
        self.assertEqual(datagram_figures(object()), {})
        self.assertEqual(datagram_settings(object()), ())

    def test_what_became_of_batches_is_told(self) -> None:
        self.start()
        port = self.listen(Receiver(), gso=False)
        kernel = {one.option: one.outcome for one in datagram_settings(port)}
        self.assertNotIn("UDP_SEGMENT", kernel)  # not asked for
        self.assertEqual(kernel["UDP_GRO"] is Outcome.GRANTED, port.gro)
        port = self.listen(Receiver())
        port.gso = False  # the kernel has refused since
        if kernel["UDP_GRO"] is Outcome.GRANTED:
            found = {one.option: one for one in datagram_settings(port)}
            self.assertEqual(found["UDP_SEGMENT"].outcome, Outcome.REFUSED)

    def test_what_the_buffer_does_not_hold_is_a_loss(self) -> None:
        self.start()
        sender, port, receiver = self.pair(receive_buffer=1)
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(200):
            sender.write_segments(DATA[:12_000], 1200, self.address(port))
        self.wait(lambda: receiver.datagrams)
        self.assertLess(len(receiver.datagrams), 2000)


class GlobalReactorTests(TestCase):
    """With the reactor that the process has, as applications use it."""

    timeout = 60

    def test_stop_listening(self) -> Any:
        from twisted.internet import reactor

        port = listen_datagrams(reactor, 0, Receiver(), LOOPBACK)
        port.write_segments(DATA, 1200, (LOOPBACK, port.getHost().port))
        return port.stopListening()
