"""The io_uring reactor on real sockets: what its shape makes hard, each by itself."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorDaemonize
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Factory, Protocol
from zope.interface.verify import verifyObject

from jetstreamproto.reactors import uring
from jetstreamproto.reactors.uring import why_not
from tests.ports import free_port

REASON = why_not()
if REASON is None:
    from jetstreamproto.reactors.ring_streams import RingServer
    from jetstreamproto.reactors.uring import UringReactor

ROOT = Path(__file__).resolve().parents[2]
_DEADLINE = 60.0


class Recorder(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.reads = 0
        self.reason: Any = None
        self.on_data: Callable[[bytes], None] = lambda data: None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self.on_data(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


class EchoProtocol(Recorder):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class Accepting(Factory):
    """Keeps its protocols."""

    noisy = False

    def __init__(self, make: Callable[[], Recorder] = Recorder) -> None:
        self.make = make
        self.protocols: list[Recorder] = []

    def buildProtocol(self, addr: Any) -> Recorder:
        protocol = self.make()
        self.protocols.append(protocol)
        return protocol


@unittest.skipIf(REASON, f"no io_uring: {REASON}")
class UringTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.reactor = UringReactor()
        self.addCleanup(self.end, self.reactor)

    def end(self, reactor: Any) -> None:
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        reactor._internalReaders.clear()
        reactor.disconnectAll()
        reactor.beforeDaemonize()

    def until(self, condition: Callable[[], Any], reactor: Any = None) -> Any:
        deadline = time.monotonic() + _DEADLINE
        while not (found := condition()):
            self.assertLess(time.monotonic(), deadline, "it took too long")
            (reactor or self.reactor).iterate(0.02)
        return found

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.reactor.iterate(0.001)

    def listen(
        self, make: Callable[[], Recorder] = Recorder, number: int = 0, **options: Any
    ) -> tuple[Any, Any]:
        factory = Accepting(make)
        port = self.reactor.listenTCP(number, factory, interface="127.0.0.1", **options)
        return port, factory

    def peer(self, port: Any) -> socket.socket:
        handle = socket.create_connection((port.getHost().host, port.getHost().port))
        handle.settimeout(_DEADLINE)
        self.addCleanup(handle.close)
        return handle

    def connected(self, make: Callable[[], Recorder] = Recorder) -> tuple[Any, socket.socket]:
        """A protocol of ours and the raw socket of its peer."""
        port, factory = self.listen(make)
        self.turns()
        peer = self.peer(port)
        self.until(lambda: factory.protocols)
        self.turns()
        return factory.protocols[0], peer

    def stopped(self, port: Any) -> None:
        done: list[Any] = []
        port.stopListening().addCallback(done.append)
        self.until(lambda: done)


class PortTests(UringTestCase):
    def test_a_port_can_be_bound_again_at_once(self) -> None:
        port, _ = self.listen(number=free_port())
        self.turns()
        address = port.getHost().host, port.getHost().port
        self.stopped(port)
        with socket.socket() as handle:  # without SO_REUSEADDR
            handle.bind(address)
            handle.listen()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)

    def test_stopped_before_the_first_turn(self) -> None:
        port, _ = self.listen()
        self.stopped(port)
        self.assertFalse(self.reactor.getReaders() and port in self.reactor.getReaders())

    def test_a_paused_port_accepts_later(self) -> None:
        port, factory = self.listen()
        self.turns()
        port.stopReading()
        self.turns()
        self.peer(port)
        self.turns(10)
        self.assertEqual(factory.protocols, [])
        port.startReading()
        self.until(lambda: factory.protocols)

    def test_a_factory_that_refuses_or_fails(self) -> None:
        for build in (lambda: None, lambda: 1 / 0):
            port, _factory = self.listen(build)  # type: ignore[arg-type]
            with mock.patch("jetstreamproto.reactors.ring_ports.log.deferr") as logged:
                peer = self.peer(port)
                self.turns()
                self.assertEqual(peer.recv(1), b"")
            self.assertEqual(logged.called, build() is not None if not logged.called else True)

    def test_no_descriptor_left(self) -> None:
        """Twisted's reserve then takes connections and closes them; and later all is well."""
        port, factory = self.listen()
        self.turns()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        peers = [socket.socket() for _ in range(3)]
        for peer in peers:
            self.addCleanup(peer.close)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        free = set(range(used)) - {int(name) for name in os.listdir("/proc/self/fd")}
        fill = [os.open(os.devnull, os.O_RDONLY) for _ in free]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        try:
            for peer in peers:
                peer.connect((port.getHost().host, port.getHost().port))
                peer.settimeout(_DEADLINE)
            self.turns(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in fill:
                os.close(descriptor)
        for peer in peers[1:]:
            self.assertIn(peer.recv(1) if not factory.protocols else b"", [b""])
        before = len(factory.protocols)
        self.peer(port)
        self.until(lambda: len(factory.protocols) > before)


class ConnectionTests(UringTestCase):
    def test_abort_resets_while_a_receive_is_pending(self) -> None:
        ours, peer = self.connected()
        self.assertIsInstance(ours.transport, RingServer)
        self.assertEqual(self.reactor.ring.state()["outstanding"], 2)  # the port's and this
        ours.transport.abortConnection()
        self.until(lambda: ours.reason)
        self.assertTrue(ours.reason.check(ConnectionAborted))
        with self.assertRaises(ConnectionResetError):
            peer.recv(1)

    def test_abort_resets_while_sending(self) -> None:
        ours, peer = self.connected()
        ours.transport.write(bytes(20_000_000))
        self.turns()
        ours.transport.abortConnection()
        self.until(lambda: ours.reason)
        self.assertTrue(ours.reason.check(ConnectionAborted))
        with self.assertRaises(ConnectionResetError):
            while peer.recv(1 << 20):
                pass

    def test_a_peer_that_resets(self) -> None:
        ours, peer = self.connected()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.until(lambda: ours.reason)
        self.assertTrue(ours.reason.check(ConnectionLost))

    def test_a_peer_that_ends(self) -> None:
        ours, peer = self.connected()
        peer.sendall(b"last words")
        peer.close()
        self.until(lambda: ours.reason)
        self.assertTrue(ours.reason.check(ConnectionDone))
        self.assertEqual(ours.received, b"last words")

    def test_paused_with_data_and_the_end_posted(self) -> None:
        ours, peer = self.connected()
        ours.on_data = lambda data: ours.transport.pauseProducing()
        peer.sendall(b"one")
        self.until(lambda: ours.received)
        # Still armed in this turn: what comes now was not asked for, and must wait.
        peer.sendall(b"two")
        peer.close()
        self.turns(10)
        self.assertEqual((ours.received, ours.reason), (b"one", None))
        ours.transport.resumeProducing()
        self.until(lambda: ours.reads == 2)
        self.turns(10)
        self.assertEqual((ours.received, ours.reason), (b"onetwo", None))
        ours.transport.resumeProducing()
        self.until(lambda: ours.reason)

    def test_paused_from_without_before_the_events_are_acted_on(self) -> None:
        ours, peer = self.connected()
        peer.sendall(b"held")
        peer.close()
        time.sleep(0)
        ring = self.reactor.ring
        events: list[Any] = []
        deadline = time.monotonic() + _DEADLINE
        while len(events) < 2 and time.monotonic() < deadline:
            events += ring.wait(0.01)
        self.reactor._ring_events.extend(events)
        ours.transport.pauseProducing()
        self.turns(10)
        self.assertEqual((ours.received, ours.reason), (b"", None))
        ours.transport.resumeProducing()
        self.until(lambda: ours.reason)
        self.assertEqual(ours.received, b"held")

    def test_everything_arrives_however_it_is_paused(self) -> None:
        ours, peer = self.connected()
        data = os.urandom(3_000_000)
        peer.setblocking(False)
        sent = paused = 0

        def step() -> bool:
            nonlocal sent, paused
            with contextlib.suppress(BlockingIOError):
                sent += peer.send(data[sent : sent + 100_000])
            paused += 1
            (ours.transport.resumeProducing, ours.transport.pauseProducing)[paused % 3 == 0]()
            return len(ours.received) == len(data)

        self.until(step)
        self.assertEqual(ours.received, data)

    def test_closed_when_everything_is_sent(self) -> None:
        ours, peer = self.connected()
        data = os.urandom(5_000_000)
        ours.transport.write(data)
        ours.transport.loseConnection()
        self.turns()
        self.assertIsNone(ours.reason)
        got = bytearray()
        peer.setblocking(False)

        def ended() -> bool:
            try:
                piece = peer.recv(1 << 20)
            except BlockingIOError:
                return False
            got.extend(piece)
            return not piece

        self.until(ended)
        self.assertEqual(bytes(got), data)
        self.until(lambda: ours.reason)
        self.assertTrue(ours.reason.check(ConnectionDone))

    def test_writes_to_the_socket_and_by_the_ring_keep_their_order(self) -> None:
        ours, peer = self.connected()
        transport = ours.transport
        sizes = (10, 20_000, 100, 8192, 9000, 3, 70_000, 5, 5) * 8
        expected = b""
        got = bytearray()
        peer.setblocking(False)
        for number, size in enumerate(sizes):
            piece = bytes([number & 255]) * size
            expected += piece
            taken = transport.writeSomeData(memoryview(piece))
            if taken < size:
                transport.write(piece[taken:])
            if number % 5 == 0:
                self.reactor.iterate(0)

        def arrived() -> bool:
            try:
                got.extend(peer.recv(1 << 20))
            except BlockingIOError:
                return False
            return len(got) >= len(expected)

        self.until(arrived)
        self.assertEqual(bytes(got), expected)

    def test_a_full_buffer_pauses_the_producer(self) -> None:
        ours, peer = self.connected()
        producer = mock.Mock()
        ours.transport.registerProducer(producer, True)
        ours.transport.write(bytes(8_000_000))
        producer.pauseProducing.assert_called_once_with()
        self.turns()
        producer.resumeProducing.assert_not_called()
        peer.setblocking(False)

        def resumed() -> bool:
            with contextlib.suppress(BlockingIOError):
                peer.recv(1 << 20)
            return producer.resumeProducing.called  # type: ignore[no-any-return]

        self.until(resumed)
        ours.transport.unregisterProducer()

    def test_an_exception_of_the_protocol_ends_its_connection_only(self) -> None:
        port, factory = self.listen()
        self.turns()
        first, second = self.peer(port), self.peer(port)
        self.until(lambda: len(factory.protocols) == 2)
        one, two = factory.protocols
        one.on_data = lambda data: 1 / 0  # type: ignore[assignment, return-value]
        with mock.patch("jetstreamproto.reactors.uring.log.err") as logged:
            first.sendall(b"x")
            self.until(lambda: one.reason)
        logged.assert_called()
        self.assertTrue(one.reason.check(ZeroDivisionError))
        second.sendall(b"y")
        self.until(lambda: two.received)

    def test_iterated_from_within(self) -> None:
        """Events are acted on in their order also when a protocol runs the reactor."""
        ours, peer = self.connected()
        seen: list[bytes] = []

        def nested(data: bytes) -> None:
            seen.append(data)
            if len(seen) == 1:
                peer.sendall(b"b")
                for _ in range(10):
                    self.reactor.iterate(0.001)

        ours.on_data = nested
        peer.sendall(b"a")
        self.until(lambda: ours.received == b"ab")
        self.assertEqual(seen, [b"a", b"b"])


class ClientTests(UringTestCase):
    def test_client_and_server(self) -> None:
        port, _ = self.listen(EchoProtocol)
        mine = Recorder()
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: mine  # type: ignore[method-assign]
        self.reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
        self.until(lambda: mine.transport)
        mine.transport.write(b"hello")
        self.until(lambda: mine.received == b"hello")
        mine.transport.loseConnection()
        self.until(lambda: mine.reason)

    def test_nobody_listens(self) -> None:
        address = ("127.0.0.1", free_port())
        failed: list[Any] = []
        factory = ClientFactory()
        factory.clientConnectionFailed = lambda _, why: failed.append(why)  # type: ignore
        self.reactor.connectTCP(*address, factory)
        self.until(lambda: failed)


class LifeTests(UringTestCase):
    def test_iterate_before_run(self) -> None:
        calls: list[int] = []
        self.reactor.callLater(0, calls.append, 1)
        self.turns()
        self.assertEqual(calls, [1])
        port, factory = self.listen()
        self.peer(port)
        self.until(lambda: factory.protocols)

    def test_the_reactor_says_what_it_does_for_daemons(self) -> None:
        verifyObject(IReactorDaemonize, self.reactor)

    def test_connections_outlive_a_ring(self) -> None:
        """As in daemonizing, but in one process."""
        ours, peer = self.connected(EchoProtocol)
        self.reactor.beforeDaemonize()
        self.assertIsNone(self.reactor.ring)
        peer.sendall(b"still there")
        self.reactor.afterDaemonize()
        self.turns()
        self.assertEqual(peer.recv(100), b"still there")
        self.assertIsNotNone(self.reactor.ring)
        self.assertIsNone(ours.reason)

    def test_a_forked_child_has_a_ring_of_its_own(self) -> None:
        port, factory = self.listen(EchoProtocol)
        self.turns()
        parents = self.reactor.ring
        child = os.fork()
        if not child:
            status = 1
            try:
                if self.reactor.ring is None:
                    listening = socket.create_server(("127.0.0.1", 0))
                    listening.setblocking(False)
                    mine = Accepting(EchoProtocol)
                    self.reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, mine)
                    peer = socket.create_connection(listening.getsockname())
                    peer.sendall(b"x")
                    peer.setblocking(False)
                    deadline = time.monotonic() + _DEADLINE
                    while time.monotonic() < deadline and status:
                        self.reactor.iterate(0.01)
                        with contextlib.suppress(BlockingIOError):
                            status = int(peer.recv(1) != b"x")
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)
        self.assertIs(self.reactor.ring, parents)
        peer = self.peer(port)
        self.until(lambda: factory.protocols)
        peer.sendall(b"parent")
        self.turns(10)
        self.assertEqual(peer.recv(10), b"parent")

    def test_a_child_process_does_not_disturb(self) -> None:
        ours, peer = self.connected(EchoProtocol)
        self.assertEqual(subprocess.run([sys.executable, "-c", ""], check=False).returncode, 0)
        peer.sendall(b"x")
        self.turns()
        self.assertEqual(peer.recv(1), b"x")
        self.assertIsNone(ours.reason)

    def test_descriptors_are_used_again(self) -> None:
        port, factory = self.listen(EchoProtocol)
        numbers = set()
        for turn in range(60):
            peer = self.peer(port)
            self.until(lambda turn=turn: len(factory.protocols) == turn + 1)
            ours = factory.protocols[-1]
            numbers.add(ours.transport.fileno())
            word = b"%d" % turn
            peer.sendall(word)
            self.turns(3)
            self.assertEqual(peer.recv(10), word)
            if turn % 2:
                ours.transport.abortConnection()
            else:
                peer.close()
            self.until(lambda ours=ours: ours.reason)
            peer.close()
        self.assertLess(len(numbers), 30)

    def test_nothing_leaks(self) -> None:
        port, factory = self.listen(EchoProtocol, backlog=200)

        def cycle() -> None:
            peers = [self.peer(port) for _ in range(100)]
            self.until(lambda: len(factory.protocols) == 100)
            for number, peer in enumerate(peers):
                peer.sendall(b"x" * (1 + 700 * number))
            self.turns(5)
            for number, protocol in enumerate(factory.protocols):
                if number % 3 == 0:
                    protocol.transport.abortConnection()
                elif number % 3 == 1:
                    protocol.transport.loseConnection()
            for peer in peers:
                peer.close()
            self.until(lambda: all(protocol.reason for protocol in factory.protocols))
            factory.protocols.clear()
            self._cleanups = [one for one in self._cleanups if one[0] == self.end]

        def held() -> tuple[int, int, int]:
            gc.collect()
            return (
                len(os.listdir("/proc/self/fd")),
                sum(isinstance(one, RingServer | Recorder) for one in gc.get_objects()),
                self.reactor.ring.state()["used_slots"],
            )

        cycle()
        before, memory = held(), resident()
        for _ in range(8):
            cycle()
        self.assertEqual(held(), before)
        if "libasan" not in Path("/proc/self/maps").read_text():  # it keeps what is given back
            self.assertLess(resident() - memory, 8 << 20)

    def test_signals_end_the_wait(self) -> None:
        seen: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        self.turns()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        started = time.monotonic()
        self.reactor.doIteration(_DEADLINE)
        self.assertTrue(seen)
        self.assertLess(time.monotonic() - started, _DEADLINE / 2)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@unittest.skipIf(REASON, f"no io_uring: {REASON}")
class RefusedRingTests(UringTestCase):
    """The kernel may refuse the ring when it comes to it: then epoll does everything."""

    def test_the_first_turn_falls_back(self) -> None:
        port, factory = self.listen(EchoProtocol)
        udp: list[bytes] = []
        protocol = DatagramProtocol()
        protocol.datagramReceived = lambda data, addr: udp.append(data)  # type: ignore
        datagrams = self.reactor.listenUDP(0, protocol, interface="127.0.0.1")
        refusal = mock.Mock(side_effect=OSError(errno.EPERM, "not permitted"))
        with (
            mock.patch.object(uring, "Ring", refusal),
            mock.patch.object(uring._log, "warn") as warned,
        ):
            self.turns()
        self.assertIn("seccomp", warned.call_args.kwargs["reason"])
        peer = self.peer(port)
        peer.sendall(b"x")
        self.until(lambda: factory.protocols)
        self.turns()
        self.assertEqual(peer.recv(1), b"x")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"y", (datagrams.getHost().host, datagrams.getHost().port))
        self.until(lambda: udp)
        peer.close()
        self.until(lambda: factory.protocols[0].reason)
        self.stopped(port)

    def test_too_little_memory_may_be_locked(self) -> None:
        made: list[Any] = []

        def ring(*sizes: int) -> Any:
            made.append(sizes)
            if not sizes:
                raise OSError(errno.ENOMEM, "no memory")
            return whole(*sizes)

        whole = uring.Ring
        port, factory = self.listen(EchoProtocol)
        with mock.patch.object(uring, "Ring", ring):
            self.turns()
        self.assertEqual(len(made), 2)
        peer = self.peer(port)
        self.until(lambda: factory.protocols)
        peer.sendall(b"x")
        self.turns()
        self.assertEqual(peer.recv(1), b"x")
        self.assertTrue(self.reactor.may_use_ring)

    def test_the_reason_is_told(self) -> None:
        for code, word in (
            (errno.EPERM, "seccomp"),
            (errno.ENOSYS, "no io_uring"),
            (errno.EINVAL, "6.1"),
            (errno.EIO, "refuses"),
        ):
            refusal = mock.Mock(side_effect=OSError(code, os.strerror(code)))
            with mock.patch.object(uring, "Ring", refusal):
                self.assertIn(word, why_not() or "")
        with mock.patch.object(uring, "_MISSING", "no module named so"):
            self.assertIn("not built", why_not() or "")
            self.assertRaises(NotImplementedError, UringReactor)


class ProcessTests(unittest.TestCase):
    """What needs a process of its own."""

    def run_program(self, source: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", source, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_install_falls_back_and_says_why(self) -> None:
        shown = self.run_program(
            """
import sys
from twisted.logger import globalLogPublisher, formatEvent
globalLogPublisher.addObserver(lambda event: print(formatEvent(event)))
sys.modules["jetstreamproto.reactors._uring"] = None
from jetstreamproto.reactors import uring
uring.install()
from twisted.internet import reactor
print(type(reactor).__name__)
"""
        )
        self.assertIn("TunedReactor", shown)
        self.assertIn("the extension was not built", shown)

    @unittest.skipIf(REASON, f"no io_uring: {REASON}")
    def test_install(self) -> None:
        shown = self.run_program(
            """
import jetstreamproto.reactors.uring
jetstreamproto.reactors.uring.install("bulk")
from twisted.internet import reactor
reactor.callWhenRunning(reactor.stop)
reactor.run()
print(type(reactor).__name__, reactor.socket_profile.name, reactor.ring is not None)
"""
        )
        self.assertIn("UringReactor bulk", shown)

    @unittest.skipIf(REASON, f"no io_uring: {REASON}")
    def test_daemonized_after_the_ring_was_made(self) -> None:
        self.run_program(
            """
import os, socket, sys
from twisted.internet.protocol import Factory, Protocol
from jetstreamproto.reactors import uring
uring.install()
from twisted.internet import reactor

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
        self.transport.loseConnection()
        reactor.callLater(0.05, reactor.stop)

port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
for _ in range(3):
    reactor.iterate(0)
address = port.getHost().host, port.getHost().port
reactor.beforeDaemonize()
if child := os.fork():  # the parent stays, as a client
    peer = socket.create_connection(address)
    peer.settimeout(20)
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
else:
    reactor.afterDaemonize()
    reactor.run()
"""
        )

    @unittest.skipIf(REASON, f"no io_uring: {REASON}")
    def test_ten_thousand_connections(self) -> None:
        count = 10_000
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < count + 100:
            self.skipTest(f"{count} file descriptors are more than this process may have: {hard}")
        shown = self.run_program(_CROWD, str(count))
        self.assertEqual(shown.split(), [str(count), str(count), "0"])


_CROWD = """
import os, resource, socket, sys
from twisted.internet.protocol import Factory, Protocol
from jetstreamproto.reactors import uring

count = int(sys.argv[1])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
uring.install()
from twisted.internet import reactor

class Echo(Protocol):
    now = 0
    def connectionMade(self):
        Echo.now += 1
    def dataReceived(self, data):
        self.transport.write(data)
    def connectionLost(self, reason):
        Echo.now -= 1
        if not Echo.now:
            reactor.callLater(0, report)

def report():
    print(reactor.ring.state()["used_slots"] - 1)
    reactor.stop()

port = reactor.listenTCP(0, Factory.forProtocol(Echo), backlog=1024, interface="127.0.0.1")
address = port.getHost().host, port.getHost().port
if os.fork():
    reactor.run()
else:
    peers = []
    for number in range(count):
        peers.append(socket.create_connection(address, 20, (f"127.0.1.{1 + number % 200}", 0)))
    print(len(peers), flush=True)
    for turn in range(2):
        for peer in peers:
            peer.sendall(b"hello")
    answered = 0
    for peer in peers:
        got = b""
        while len(got) < 10:
            got += peer.recv(10)
        answered += got == b"hellohello"
    print(answered, flush=True)
    os._exit(0)
"""


if __name__ == "__main__":
    unittest.main()
