"""Sessions on Twisted's own TCP transports, above simulated sockets (see tests/kernel.py).

The link writes to such a transport's socket at once, past its buffer; so what matters here is what
happens when a write takes a part, or nothing, or fails, and how the connection is closed then.
"""

from __future__ import annotations

import errno
import random
from typing import Any
from unittest import TestCase

from jetstreamproto.errors import (
    ChannelClosed,
    HandshakeError,
    JetStreamError,
    NotJetStream,
    ProtocolViolation,
    SessionCut,
)
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.records import RecordLimits
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import SessionState
from tests.certificates import NOW
from tests.kernel import StockPair
from tests.scenarios.test_tcp_sessions import PATIENT, PLAIN, Flood, violate

SERVER = Identity.create(NOW)
ALL = 1 << 30
SERVICES = {"echo": Echo, "flood": Flood}


def stock_pair(**options: Any) -> StockPair:
    options.setdefault("settings", PLAIN)
    return StockPair(SERVICES, identity=SERVER, **options)


def close(pair: StockPair) -> tuple[JetStreamError | None, JetStreamError | None]:
    pair.client.close()
    pair.run(pair.client.when_closed())
    pair.run(pair.server.when_closed())
    return pair.client.close_reason, pair.server.close_reason


class StockTestCase(TestCase):
    def quiet(self, pair: StockPair) -> None:
        """Nothing is left in the reactor."""
        pair.kernel.settle()
        self.assertEqual(pair.kernel.getDelayedCalls(), [])
        self.assertEqual((pair.kernel._reading, pair.kernel._writing), ({}, {}))
        self.assertTrue(pair.client_socket.closed and pair.server_socket.closed)

    def talk(self, pair: StockPair, generator: random.Random, sizes: tuple[int, ...]) -> None:
        inbox = pair.run(pair.client.open("echo"))
        for size in sizes:
            message = generator.randbytes(size)
            inbox.channel.send(message)
            self.assertEqual(pair.run(inbox.get()), message)
        inbox.channel.end()


class PartialWriteTests(StockTestCase):
    def test_small_buffers(self) -> None:
        for capacity in (1, 7, 100, 1000, 10_000, 70_000):
            pair = stock_pair(capacity=capacity)
            sizes = (0, 1, 1000) if capacity < 100 else (0, 10_000, 300_000)
            self.talk(pair, random.Random(capacity), sizes)
            self.assertEqual(close(pair), (None, None))
            self.quiet(pair)

    def test_writes_that_take_what_they_like(self) -> None:
        for seed in range(30):
            generator = random.Random(seed)

            def prepare(pair: StockPair, generator: random.Random = generator) -> None:
                for end in (pair.client_socket, pair.server_socket):
                    end.plan.extend(
                        generator.choice((0, 0, 1, 2, 3, 19, 500, ALL)) for _ in range(500)
                    )

            options = {"record_limits": RecordLimits(records=3, hard_records=3)}
            pair = stock_pair(
                prepare=prepare, client_options=options, server_options=options, capacity=1 << 16
            )
            with self.subTest(seed=seed):
                self.talk(pair, generator, (0, 1, 500, 5000, 50_000))
                self.assertEqual(close(pair), (None, None))
                self.quiet(pair)

    def test_any_one_write_is_partial(self) -> None:
        """Whichever write it is, of the handshake, of data or of the end."""
        for side in ("client", "server"):
            for taken in (0, 1, 5, 19):
                for number in range(100):

                    def prepare(
                        pair: StockPair, side: str = side, taken: int = taken, number: int = number
                    ) -> None:
                        end = getattr(pair, f"{side}_socket")
                        end.plan.extend([ALL] * number + [taken])

                    pair = stock_pair(prepare=prepare)
                    with self.subTest(side=side, taken=taken, number=number):
                        self.talk(pair, random.Random(1), (10, 1000))
                        self.assertEqual(close(pair), (None, None))
                        self.quiet(pair)
                    if getattr(pair, f"{side}_socket").plan:
                        break
                self.assertGreaterEqual(number, 4)

    def test_any_one_write_fails(self) -> None:
        """It is a cut (or a failed handshake) for both, and never an exception."""
        for side in ("client", "server"):
            for code in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT):
                for number in range(100):

                    def prepare(
                        pair: StockPair, side: str = side, code: int = code, number: int = number
                    ) -> None:
                        end = getattr(pair, f"{side}_socket")
                        end.plan.extend([ALL] * number + [OSError(code, "failed")] * 5)

                    pair = stock_pair(prepare=prepare, connect=False)
                    planned = getattr(pair, f"{side}_socket").plan
                    with self.subTest(side=side, number=number):
                        self.live(pair)
                        reasons = {
                            "client": pair.client.close_reason,
                            "server": pair.server.close_reason,
                        }
                        other = reasons.pop("server" if side == "client" else "client")
                        (reason,) = reasons.values()
                        if len(planned) != 5:  # it has met the failure
                            self.assertIsInstance(other, SessionCut | HandshakeError)
                            for found in (reason, other):
                                self.assertIsInstance(found, JetStreamError | None)
                        self.quiet(pair)
                    if len(planned) >= 5:
                        break
                self.assertGreaterEqual(number, 4)

    def live(self, pair: StockPair) -> None:
        """A short session, as far as it goes."""

        def ignore(_: object) -> None: ...

        def connected(session: Any) -> None:
            session.open("echo").addCallbacks(opened, ignore)

        def opened(inbox: Any) -> None:
            inbox.channel.send(b"hello")
            inbox.get().addCallbacks(lambda _: pair.client.close(), ignore)

        pair.client.when_connected().addCallbacks(connected, ignore)
        pair.server.when_connected().addErrback(ignore)
        pair.kernel.run_until(lambda: pair.client.state is pair.server.state is SessionState.CLOSED)

    def test_a_write_that_keeps_failing_to_go(self) -> None:
        """No progress for a while, then all of it."""
        pair = stock_pair()
        inbox = pair.run(pair.client.open("echo"))
        for end in (pair.client_socket, pair.server_socket):
            end.plan.extend([0] * 200)
        message = random.Random(2).randbytes(500_000)
        inbox.channel.send(message)
        self.assertEqual(pair.run(inbox.get()), message)


class SlowReaderTests(StockTestCase):
    def test_a_large_backlog_arrives_before_the_clean_end(self) -> None:
        """Our end waits behind what the peer has not read; it must not be thrown away with it."""
        for capacity in (1000, 50_000):
            pair = stock_pair(capacity=capacity)
            collector = Collector()
            pair.run(pair.client.open("echo"))  # so that the session has more than one channel
            channel = pair.run(pair.client.open("flood", collector)).channel
            pair.client_socket.frozen = True
            channel.send(b"go")
            pair.kernel.settle()
            pair.server.close()
            pair.kernel.settle()
            pair.client_socket.frozen = False
            for open_channel in pair.client.channels:
                open_channel.end()
            pair.run(pair.client.when_closed())
            pair.run(pair.server.when_closed())
            self.assertEqual(collector.size, 60 * 60_000)
            self.assertEqual((pair.client.close_reason, pair.server.close_reason), (None, None))
            self.quiet(pair)

    def test_a_peer_that_reads_its_end_late(self) -> None:
        """Both have ended, and ours cannot leave yet."""
        for capacity in (40, 100, 200):
            pair = stock_pair(capacity=capacity)
            self.talk(pair, random.Random(3), (100,))
            pair.kernel.settle()
            pair.client.close()
            pair.client_socket.frozen = True
            pair.kernel.settle()
            pair.kernel.advance(3)
            pair.kernel.settle()
            pair.client_socket.frozen = False
            pair.run(pair.client.when_closed())
            pair.run(pair.server.when_closed())
            self.assertEqual((pair.client.close_reason, pair.server.close_reason), (None, None))
            self.quiet(pair)

    def test_a_peer_that_never_reads_its_end(self) -> None:
        """Both have ended; ours is waited for no longer than the deadline."""
        pair = stock_pair()
        self.talk(pair, random.Random(3), (100,))
        pair.kernel.settle()
        pair.server_socket.capacity = 0
        pair.client.close()
        for _ in range(9):
            pair.kernel.settle()
            pair.kernel.advance(1)
        self.assertFalse(pair.server_socket.closed)
        for _ in range(2):
            pair.kernel.settle()
            pair.kernel.advance(1)
        pair.kernel.settle()
        self.assertTrue(pair.server_socket.closed)
        for session in (pair.client, pair.server):
            self.assertIsInstance(session.close_reason, SessionCut)
        self.quiet(pair)

    def test_every_way_to_end_with_a_peer_that_does_not_read(self) -> None:
        for name, act in (
            ("close", lambda pair: pair.server.close()),
            ("drain", lambda pair: pair.server_factory.drain()),
            ("abort", lambda pair: pair.server.abort()),
            ("violation", lambda pair: violate(pair.client)),
            ("close, then violation", lambda pair: (pair.server.close(), violate(pair.client))),
            ("violation, then close", lambda pair: (violate(pair.client), pair.server.close())),
            ("loseConnection", lambda pair: pair.server_transport.loseConnection()),
            ("abortConnection", lambda pair: pair.server_transport.abortConnection()),
            ("nothing", lambda pair: None),
        ):
            with self.subTest(name):
                pair = stock_pair(client_settings=PATIENT, capacity=2000)
                channel = pair.run(pair.client.open("flood")).channel
                pair.client_socket.frozen = True
                channel.send(b"go")
                pair.kernel.settle()
                self.assertFalse(pair.server.link.writable)
                act(pair)
                for _ in range(62):
                    pair.kernel.settle()
                    pair.kernel.advance(1)
                pair.kernel.settle()
                self.assertIs(pair.server.state, SessionState.CLOSED)
                self.assertIsInstance(pair.server.close_reason, JetStreamError)
                self.assertTrue(pair.server_socket.closed)
                self.assertNotIn(pair.server_transport, pair.kernel._writing)
                pair.client_socket.frozen = False
                pair.kernel.settle()
                self.assertIs(pair.client.state, SessionState.CLOSED)
                self.quiet(pair)


class Collector(ChannelProtocol):
    """Counts what arrives; ends when it is told."""

    def __init__(self) -> None:
        self.size = 0

    def message_received(self, message: bytes) -> None:
        self.size += len(message)

    def end_received(self) -> None:
        self.channel.end()


class ClosingTests(StockTestCase):
    def test_lose_connection(self) -> None:
        """Its contract: what was written leaves first, and the producer does not keep it open."""
        for side in ("client", "server"):
            pair = stock_pair()
            getattr(pair, f"{side}_transport").loseConnection()
            pair.run(pair.client.when_closed())
            pair.run(pair.server.when_closed())
            self.assertEqual(pair.kernel.seconds(), 0)
            for session in (pair.client, pair.server):
                self.assertIsInstance(session.close_reason, SessionCut)
            self.quiet(pair)

    def test_lose_connection_with_output_waiting(self) -> None:
        pair = stock_pair(capacity=5000)
        collector = Collector()
        channel = pair.run(pair.client.open("flood", collector)).channel
        channel.send(b"go")
        pair.client_socket.frozen = True
        pair.kernel.settle()
        before = collector.size
        pair.server_transport.loseConnection()
        pair.kernel.settle()
        self.assertFalse(pair.server_socket.closed, "its buffer is not empty")
        pair.client_socket.frozen = False
        pair.run(pair.server.when_closed())
        pair.run(pair.client.when_closed())
        self.assertGreater(collector.size, before)
        for session in (pair.client, pair.server):
            self.assertIsInstance(session.close_reason, SessionCut)
        self.quiet(pair)

    def test_abort_connection(self) -> None:
        pair = stock_pair()
        pair.client_transport.abortConnection()
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        for session in (pair.client, pair.server):
            self.assertIsInstance(session.close_reason, SessionCut)
        self.quiet(pair)

    def test_a_reset_by_the_peers_kernel(self) -> None:
        pair = stock_pair()
        inbox = pair.run(pair.client.open("echo"))
        pair.client_socket._reset = pair.server_socket._reset = True
        with self.assertRaises(SessionCut):
            pair.run(inbox.get())
        with self.assertRaises(ChannelClosed):
            inbox.channel.send(b"late")
        pair.run(pair.server.when_closed())
        self.quiet(pair)

    def test_a_stranger_is_answered_before_the_close(self) -> None:
        pair = stock_pair(connect=False)
        failures: list[Any] = []
        for session in (pair.client, pair.server):
            session.when_connected().addErrback(failures.append)
        pair.server_socket.received[:] = b"GET / HTTP/1.1\r\n\r\n"
        pair.client_socket._sending.clear()
        pair.kernel.settle()
        self.assertIsInstance(pair.server.close_reason, NotJetStream)
        self.assertIsInstance(pair.client.close_reason, NotJetStream, "HTTP/1.1 400, to a client")
        self.assertEqual(len(failures), 2)
        self.quiet(pair)

    def test_a_violation_is_told_before_the_close(self) -> None:
        pair = stock_pair()
        violate(pair.client)
        pair.run(pair.server.when_closed())
        pair.run(pair.client.when_closed())
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation)
        self.quiet(pair)
