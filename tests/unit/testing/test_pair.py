"""The pair itself: what applications' tests rely on."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import SessionCut
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.session import SessionState
from jetstreamproto.testing import SessionPair
from jetstreamproto.testing.pair import MemoryTransport
from tests.doubles import IDENTITY, KIB, make_pair, noise


class Log(Protocol):
    """Notes what arrives, and when."""

    def __init__(self, clock: Clock) -> None:
        self.seen: list[tuple[float, bytes]] = []
        self.lost = 0
        self._clock = clock

    def dataReceived(self, data: bytes) -> None:
        self.seen.append((round(self._clock.seconds(), 6), data))

    def connectionLost(self, reason: object = None) -> None:
        self.lost += 1


class MemoryTransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = SimpleNamespace(clock=self.clock, latency=0.05, chop=0)
        self.ends = [MemoryTransport(self.wire, 1, 2), MemoryTransport(self.wire, 2, 1)]  # type: ignore[arg-type]
        self.logs = [Log(self.clock), Log(self.clock)]
        for end, log, other in zip(self.ends, self.logs, reversed(self.ends), strict=True):
            end.connect(log, other)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            self.clock.advance(0.01)

    def test_every_byte_takes_the_latency(self) -> None:
        self.ends[0].write(b"first")
        self.pass_time(0.03)
        self.ends[0].write(b"second")
        self.pass_time(1)
        self.assertEqual(self.logs[1].seen, [(0.05, b"first"), (0.08, b"second")])

    def test_an_empty_write_is_nothing(self) -> None:
        self.ends[0].write(b"")
        self.ends[0].writeSequence([b"a", b"", b"b"])
        self.pass_time(1)
        self.assertEqual([data for _, data in self.logs[1].seen if data], [b"ab"])

    def test_chops(self) -> None:
        self.wire.chop = 2
        self.ends[0].write(b"abcde")
        self.pass_time(1)
        self.assertEqual([data for _, data in self.logs[1].seen], [b"ab", b"cd", b"e"])

    def test_paused_bytes_wait_and_are_all_there_later(self) -> None:
        self.ends[0].pause()
        self.ends[0].write(b"a")
        self.ends[0].write(b"b")
        self.pass_time(1)
        self.assertEqual(self.logs[1].seen, [])
        self.ends[0].resume()
        self.pass_time(1)
        self.assertEqual(b"".join(data for _, data in self.logs[1].seen), b"ab")

    def test_losing_the_connection_delivers_what_was_written(self) -> None:
        self.ends[0].write(b"last words")
        self.ends[0].loseConnection()
        self.ends[0].write(b"nobody hears this")
        self.pass_time(1)
        self.assertEqual([data for _, data in self.logs[1].seen], [b"last words"])
        self.assertEqual([log.lost for log in self.logs], [1, 1])

    def test_aborting_delivers_nothing_more(self) -> None:
        self.ends[0].write(b"x")
        self.ends[0].abortConnection()
        self.ends[0].write(b"y")
        self.pass_time(1)
        self.assertEqual([log.lost for log in self.logs], [1, 1])
        self.assertEqual(self.logs[1].seen, [])


class SessionPairTests(SynchronousTestCase):
    def test_the_example_of_its_documentation(self) -> None:
        pair = SessionPair(services={"echo": Echo})
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(b"hello")
        self.assertEqual(pair.run(inbox.get()), b"hello")

    def test_it_comes_connected_unless_told_otherwise(self) -> None:
        pair = make_pair({})
        self.assertIs(pair.client.state, SessionState.OPEN)
        self.assertIs(pair.server.state, SessionState.OPEN)
        self.assertEqual(pair.server.peer_hello.version, 1)
        pair = make_pair({}, connect=False)
        self.assertIs(pair.client.state, SessionState.CONNECTING)
        pair.run(pair.client.when_connected())

    def test_peers_know_each_other(self) -> None:
        pair = make_pair({})
        self.assertEqual(pair.client.peer.fingerprint, IDENTITY.fingerprint)
        self.assertEqual(pair.client.peer.address, "127.0.0.1:9000")
        self.assertEqual(pair.server.peer.address, "127.0.0.1:50000")
        self.assertIsNone(pair.server.peer.fingerprint)

    def test_run_raises_what_a_deferred_fails_with(self) -> None:
        pair = make_pair({})
        failing: Deferred[None] = Deferred()
        pair.clock.callLater(3, failing.errback, LookupError("later"))
        before = pair.clock.seconds()
        self.assertRaises(LookupError, pair.run, failing)
        self.assertEqual(pair.clock.seconds() - before, 3)

    def test_run_gives_up_when_nothing_can_happen_any_more(self) -> None:
        pair = make_pair({})
        pair.cut()
        self.assertRaises(AssertionError, pair.run, Deferred())

    def test_advance_moves_by_exactly_that_much(self) -> None:
        pair = make_pair({})
        before = pair.clock.seconds()
        for step in (0.0, 0.001, 14.999, 100.0):
            pair.advance(step)
            before += step
            self.assertAlmostEqual(pair.clock.seconds(), before)

    def test_latency_is_that_of_a_line_and_not_of_a_ferry(self) -> None:
        """What is sent while other bytes are on their way need not wait for their arrival."""
        pair = make_pair({"echo": Echo}, latency=0.1)
        inbox = pair.run(pair.client.open("echo"))
        before = pair.clock.seconds()
        for number in range(64):
            inbox.channel.send(noise(16 * KIB, number))
        for _ in range(64):
            self.assertEqual(len(pair.run(inbox.get())), 16 * KIB)
        self.assertLess(pair.clock.seconds() - before, 0.5)

    def test_a_cut_is_seen_by_both(self) -> None:
        pair = make_pair({})
        pair.cut()
        for side in (pair.client, pair.server):
            self.assertIsInstance(side.close_reason, SessionCut)
        pair.advance(1)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_two_pairs_can_share_a_clock(self) -> None:
        first = make_pair({"echo": Echo}, latency=0.1)
        second = make_pair({"echo": Echo}, latency=0.1, clock=first.clock)
        for pair in (first, second):
            inbox = first.run(pair.client.open("echo"))
            inbox.channel.send(b"x")
            self.assertEqual(second.run(inbox.get()), b"x")
