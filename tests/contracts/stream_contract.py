"""What the transport of a byte stream owes its protocol, whatever carries its session.

Mix `StreamContract` into a trial `SynchronousTestCase` and say in `connect` how the sessions come
together. It is the contract of Twisted's TCP transports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    ILoggingContext,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from jetstreamproto.address import JetStreamAddress
from jetstreamproto.errors import ChannelReset
from tests.doubles import KIB, MIB, Registry, noise, windows
from tests.streams import HalfNotes, Joined, Notes, PullProducer, PushProducer

_Case = SynchronousTestCase if TYPE_CHECKING else object


class StreamContract(_Case):
    """The tests. `large` is the size of what they call large."""

    large = 5 * MIB
    name = "tcp"

    def connect(self, services: Any = None, **options: Any) -> Any:
        """Two connected sessions, with what moves them. Takes what `SessionPair` does."""
        raise NotImplementedError

    def join(self, mine: Any = None, theirs: Any = None, **options: Any) -> Joined:
        return Joined(self.connect, mine, theirs, **options)

    def check_done(self, *protocols: Notes) -> None:
        for protocol in protocols:
            self.assertEqual(protocol.events.count("lost"), 1)
            assert protocol.reason is not None
            self.assertIs(protocol.reason.type, ConnectionDone)

    # --- interfaces and addresses ---------------------

    def test_it_provides_what_twisted_asks_for(self) -> None:
        joined = self.join()
        for interface in (ITransport, ITCPTransport, IConsumer, IPushProducer, ILoggingContext):
            self.assertTrue(verifyObject(interface, joined.mine.transport))

    def test_addresses(self) -> None:
        joined = self.join()
        host = joined.theirs.transport.getHost()
        self.assertEqual(host, JetStreamAddress("server", 9000, self.name, "stream"))
        self.assertEqual(hash(host), hash(JetStreamAddress("server", 9000, self.name, "stream")))
        peer = joined.mine.transport.getPeer()
        self.assertEqual((peer.transport, peer.service), (self.name, "stream"))
        self.assertEqual(peer.fingerprint, joined.pair.server_factory.identity.fingerprint)
        self.assertEqual(peer.port, 9000)
        self.assertNotEqual(peer, host)
        self.assertIsNone(joined.theirs.transport.getPeer().fingerprint)

    def test_options_of_tcp_do_no_harm(self) -> None:
        transport = self.join().mine.transport
        for value in (True, False):
            transport.setTcpNoDelay(value)
            transport.setTcpKeepAlive(value)
            self.assertIs(transport.getTcpNoDelay(), value)
            self.assertIs(transport.getTcpKeepAlive(), value)

    # --- writing ---------------------

    def test_bytes_of_all_sizes_arrive_in_order_both_ways(self) -> None:
        joined = self.join()
        sizes = (1, 0, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, self.large, 3, 200_000)
        up = [noise(size, 1) for size in sizes]
        down = [noise(size, 2) for size in reversed(sizes)]
        for data in up:
            joined.mine.transport.write(data)
        joined.theirs.transport.writeSequence(iter(down))
        joined.until(lambda: joined.theirs.size == sum(sizes))
        joined.until(lambda: joined.mine.size == sum(sizes))
        self.assertTrue(joined.theirs.received == b"".join(up))
        self.assertTrue(joined.mine.received == b"".join(down))
        self.assertTrue(all(type(piece) is bytes and piece for piece in joined.mine.pieces))

    def test_small_writes_of_one_turn_go_together(self) -> None:
        joined = self.join()
        for number in range(1000):
            joined.mine.transport.write(b"%03d," % number)
        joined.mine.transport.writeSequence([b"x"] * 1000)
        joined.until(lambda: joined.theirs.size == 5000)
        self.assertEqual(len(joined.theirs.pieces), 1)

    def test_only_bytes_can_be_written(self) -> None:
        transport = self.join().mine.transport
        for wrong in ("text", bytearray(b"x"), memoryview(b"x"), None, 3):
            error = self.assertRaises(TypeError, transport.write, wrong)
            self.assertIn("bytes", str(error))
            self.assertRaises(TypeError, transport.writeSequence, [b"x", wrong])
        transport.writeSequence([])
        transport.write(b"")

    def test_nothing_is_received_from_within_a_call(self) -> None:
        joined = self.join()
        inside: list[str] = []
        within = False

        def answer(data: bytes) -> None:
            nonlocal within
            if within:
                inside.append("received within a call")
            if joined.mine.size < 100:
                within = True
                joined.mine.transport.write(b"again")
                joined.mine.transport.pauseProducing()
                joined.mine.transport.resumeProducing()
                within = False

        joined.mine.on_data = answer
        joined.theirs.on_data = lambda data: joined.theirs.transport.write(data)
        joined.mine.transport.write(b"first")
        joined.until(lambda: joined.mine.size >= 100)
        self.assertEqual(inside, [])

    def test_writes_after_the_end_are_ignored(self) -> None:
        joined = self.join()
        joined.mine.transport.loseConnection()
        joined.until_lost()
        for protocol in (joined.mine, joined.theirs):
            transport = protocol.transport
            transport.write(b"too late")
            transport.writeSequence([b"too", b"late"])
            transport.loseConnection()
            transport.loseWriteConnection()
            transport.abortConnection()
            transport.pauseProducing()
            transport.resumeProducing()
            transport.stopProducing()
        joined.pair.advance(10)
        self.check_done(joined.mine, joined.theirs)

    # --- ends ---------------------

    def test_lose_connection_sends_everything_first(self) -> None:
        joined = self.join()
        data = noise(self.large)
        joined.mine.transport.write(data)
        joined.mine.transport.loseConnection()
        self.assertTrue(joined.mine.transport.disconnecting)
        self.assertEqual(joined.mine.events, ["made"])
        joined.until_lost()
        self.assertTrue(joined.theirs.received == data)
        self.check_done(joined.mine, joined.theirs)
        joined.until(lambda: not joined.pair.client.channels and not joined.pair.server.channels)

    def test_lose_connection_calls_nothing_back_at_once(self) -> None:
        joined = self.join()
        joined.mine.transport.loseConnection()
        self.assertEqual(joined.mine.events, ["made"])
        joined.until_lost()
        self.check_done(joined.mine, joined.theirs)

    def test_nothing_is_received_after_lose_connection(self) -> None:
        joined = self.join()
        joined.theirs.transport.write(noise(3 * 64 * KIB))
        joined.mine.on_data = lambda data: joined.mine.transport.loseConnection()
        joined.until_lost()
        self.assertEqual(joined.mine.events, ["made", "data", "lost"])
        self.assertEqual(len(joined.mine.pieces), 1)

    def test_what_is_written_while_disconnecting_is_sent(self) -> None:
        joined = self.join()
        joined.mine.transport.loseConnection()
        joined.mine.transport.write(b"famous last words")
        joined.until_lost()
        self.assertEqual(joined.theirs.received, b"famous last words")

    def test_both_sides_lose_the_connection_at_once(self) -> None:
        joined = self.join()
        for protocol in (joined.mine, joined.theirs):
            protocol.transport.write(b"bye")
            protocol.transport.loseConnection()
        joined.until_lost()
        self.check_done(joined.mine, joined.theirs)
        joined.until(lambda: not joined.pair.client.channels and not joined.pair.server.channels)

    def test_lose_connection_when_it_is_made(self) -> None:
        mine = Notes()
        mine.on_made = lambda: (mine.transport.write(b"hi"), mine.transport.loseConnection())
        joined = self.join(mine)
        joined.until_lost()
        self.assertEqual(joined.theirs.received, b"hi")
        self.check_done(joined.mine, joined.theirs)

    def test_abort_is_a_cut(self) -> None:
        joined = self.join()
        joined.mine.transport.write(b"never mind")
        joined.mine.transport.abortConnection()
        self.assertEqual(joined.mine.events, ["made"])
        joined.until_lost()
        assert joined.mine.reason is not None and joined.theirs.reason is not None
        self.assertIs(joined.mine.reason.type, ConnectionAborted)
        self.assertIs(joined.theirs.reason.type, ConnectionLost)
        self.assertIsInstance(joined.theirs.reason.value.__cause__, ChannelReset)
        self.assertEqual(joined.theirs.received, b"")

    def test_abort_overtakes_lose_connection(self) -> None:
        joined = self.join()
        joined.theirs.transport.pauseProducing()
        joined.mine.transport.write(noise(40 * MIB))
        joined.mine.transport.loseConnection()
        joined.pair.advance(1)
        self.assertFalse(joined.mine.lost)
        joined.mine.transport.abortConnection()
        joined.until_lost()
        assert joined.mine.reason is not None
        self.assertIs(joined.mine.reason.type, ConnectionAborted)

    def test_nothing_is_received_after_abort(self) -> None:
        joined = self.join()
        joined.theirs.transport.write(noise(3 * 64 * KIB))
        joined.mine.on_data = lambda data: joined.mine.transport.abortConnection()
        joined.until_lost()
        self.assertEqual(len(joined.mine.pieces), 1)

    def test_a_session_that_is_cut_loses_its_connections(self) -> None:
        joined = self.join()
        joined.pair.client.abort()
        joined.until_lost()
        for protocol in (joined.mine, joined.theirs):
            assert protocol.reason is not None
            self.assertIs(protocol.reason.type, ConnectionLost)

    def test_a_session_that_is_closed_from_elsewhere(self) -> None:
        joined = self.join()
        joined.mine.transport.write(noise(20 * MIB))
        joined.pair.advance(0.01)
        joined.pair.client.close()
        joined.mine.transport.write(b"more")
        joined.until_lost()
        joined.pair.advance(60)
        self.assertEqual(joined.mine.events.count("lost"), 1)

    def test_exceptions_in_data_received_cost_the_connection(self) -> None:
        joined = self.join()

        def fail(data: bytes) -> None:
            raise ZeroDivisionError("in the application")

        joined.theirs.on_data = fail
        joined.mine.transport.write(noise(3 * 64 * KIB))
        joined.until_lost()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        assert joined.theirs.reason is not None and joined.mine.reason is not None
        self.assertIs(joined.theirs.reason.type, ZeroDivisionError)
        self.assertIs(joined.mine.reason.type, ConnectionLost)
        self.assertEqual(len(joined.theirs.pieces), 1)
        self.assertFalse(joined.pair.server.close_reason)

    def test_exceptions_elsewhere_are_logged(self) -> None:
        theirs = HalfNotes()
        joined = self.join(None, theirs)

        def fail() -> None:
            raise ZeroDivisionError("in the application")

        theirs.on_read_lost = fail
        theirs.on_lost = fail
        joined.mine.transport.loseConnection()
        joined.until_lost()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(theirs.events, ["made", "read lost", "lost"])

    def test_an_exception_when_it_is_made(self) -> None:
        theirs = Notes()

        def fail() -> None:
            raise ZeroDivisionError("in the application")

        theirs.on_made = fail
        joined = self.join(None, theirs)
        joined.until_lost()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    # --- half-closed connections ----------------------------------------------------------------

    def test_half_close_one_way_and_then_the_other(self) -> None:
        joined = self.join(HalfNotes(), HalfNotes())
        data = noise(self.large)
        joined.mine.transport.write(data)
        joined.mine.transport.loseWriteConnection()
        joined.until(lambda: "read lost" in joined.theirs.events)
        self.assertTrue(joined.theirs.received == data)
        self.assertEqual(joined.mine.events, ["made", "write lost"])
        joined.mine.transport.write(b"ignored")
        joined.theirs.transport.write(b"an answer")
        joined.until(lambda: joined.mine.received == b"an answer")
        joined.theirs.transport.loseConnection()
        joined.until_lost()
        self.assertEqual(joined.mine.events, ["made", "write lost", "data", "read lost", "lost"])
        self.assertEqual(joined.theirs.events, ["made", "data", "read lost", "lost"])
        self.check_done(joined.mine, joined.theirs)

    def test_both_half_closes_are_the_end(self) -> None:
        joined = self.join(HalfNotes(), HalfNotes())
        for protocol in (joined.mine, joined.theirs):
            protocol.transport.write(b"bye")
            protocol.transport.loseWriteConnection()
        joined.until_lost()
        self.check_done(joined.mine, joined.theirs)
        for protocol in (joined.mine, joined.theirs):
            self.assertEqual(protocol.received, b"bye")
            self.assertEqual(protocol.events.count("read lost"), 1)
            self.assertEqual(protocol.events.count("write lost"), 1)

    def test_a_half_close_ends_the_connection_of_those_who_do_not_know_it(self) -> None:
        joined = self.join(HalfNotes(), Notes())
        joined.theirs.transport.write(noise(self.large))
        joined.mine.transport.write(b"a request")
        joined.mine.transport.loseWriteConnection()
        joined.until_lost()
        self.assertEqual(joined.theirs.received, b"a request")
        self.check_done(joined.mine, joined.theirs)
        self.assertTrue(joined.mine.received == noise(self.large))  # it was written before

    def test_lose_connection_after_a_half_close(self) -> None:
        joined = self.join(HalfNotes(), HalfNotes())
        joined.mine.transport.loseWriteConnection()
        joined.until(lambda: "write lost" in joined.mine.events)
        joined.mine.transport.loseConnection()
        self.assertFalse(joined.mine.lost)
        joined.until(lambda: joined.mine.lost)
        self.check_done(joined.mine)
        self.assertFalse(joined.theirs.lost)

    def test_half_close_from_within_its_notice(self) -> None:
        theirs = HalfNotes()
        joined = self.join(HalfNotes(), theirs)
        theirs.on_read_lost = lambda: (
            theirs.transport.write(b"the sum"),
            theirs.transport.loseWriteConnection(),
        )
        joined.mine.transport.loseWriteConnection()
        joined.until_lost()
        self.assertEqual(joined.mine.received, b"the sum")
        self.check_done(joined.mine, joined.theirs)

    # --- producers that are registered ---------------------

    def test_a_push_producer_is_paused_and_resumed(self) -> None:
        joined = self.join(settings=windows(256 * KIB, MIB))
        joined.theirs.transport.pauseProducing()
        piece = noise(50_000)
        producer = PushProducer(joined.clock, joined.mine.transport, piece, 100)
        producer.start()
        joined.until(lambda: producer.paused)
        joined.pair.advance(5)
        self.assertGreater(producer.left, 0)
        joined.theirs.transport.resumeProducing()
        joined.until(lambda: joined.theirs.size == 100 * len(piece))
        self.assertTrue(joined.theirs.received == 100 * piece)
        calls = set(zip(producer.calls[::2], producer.calls[1::2], strict=False))
        self.assertEqual(calls, {("pause", "resume")})

    def test_a_pull_producer_is_asked_as_there_is_room(self) -> None:
        joined = self.join()
        piece = noise(20_000)
        producer = PullProducer(joined.mine.transport, piece, 200)
        producer.start()
        self.assertEqual(producer.calls, ["resume"])
        joined.until(lambda: joined.theirs.size == 200 * len(piece))
        self.assertTrue(joined.theirs.received == 200 * piece)
        self.assertEqual(producer.calls, ["resume"] * 200)

    def test_a_pull_producer_does_not_fill_the_memory(self) -> None:
        joined = self.join(settings=windows(256 * KIB, MIB))
        joined.theirs.transport.pauseProducing()
        producer = PullProducer(joined.mine.transport, noise(20_000), 1000)
        producer.start()
        joined.pair.advance(14)
        self.assertGreater(producer.left, 950)

    def test_lose_connection_waits_for_producers(self) -> None:
        for streaming in (True, False):
            with self.subTest(streaming=streaming):
                joined = self.join()
                transport = joined.mine.transport
                producer: Any
                if streaming:
                    producer = PushProducer(joined.clock, transport, noise(9999), 100)
                else:
                    producer = PullProducer(transport, noise(9999), 100)
                producer.start()
                transport.loseConnection()
                joined.until_lost()
                self.assertTrue(joined.theirs.received == 100 * noise(9999))
                self.check_done(joined.mine, joined.theirs)
                self.assertNotIn("stop", producer.calls)

    def test_lose_connection_goes_on_when_the_peer_half_closes(self) -> None:
        joined = self.join(HalfNotes(), Notes())
        piece = noise(9999)
        PullProducer(joined.theirs.transport, piece, 50).start()
        joined.theirs.transport.loseConnection()
        joined.mine.transport.loseWriteConnection()
        joined.until_lost()
        self.assertTrue(joined.mine.received == 50 * piece)
        self.check_done(joined.mine, joined.theirs)

    def test_lose_connection_waits_for_room(self) -> None:
        joined = self.join(settings=windows(256 * KIB, MIB))
        joined.theirs.transport.pauseProducing()
        joined.mine.transport.write(noise(400_000))
        joined.mine.transport.loseConnection()
        joined.pair.advance(5)
        self.assertFalse(joined.mine.lost)
        joined.theirs.transport.resumeProducing()
        joined.until_lost()
        self.assertEqual(joined.theirs.size, 400_000)

    def test_lose_connection_waits_for_an_idle_producer(self) -> None:
        class Idle:
            def resumeProducing(self) -> None: ...
            def pauseProducing(self) -> None: ...
            def stopProducing(self) -> None: ...

        for streaming in (True, False):
            joined = self.join()
            joined.mine.transport.registerProducer(Idle(), streaming)
            joined.mine.transport.loseConnection()
            joined.pair.advance(3)
            self.assertFalse(joined.mine.lost)
            joined.mine.transport.unregisterProducer()
            joined.until_lost()
            self.check_done(joined.mine, joined.theirs)

    def test_one_producer_at_a_time(self) -> None:
        joined = self.join()
        first, second = (
            PushProducer(joined.clock, joined.mine.transport, b"x", 1) for _ in range(2)
        )
        joined.mine.transport.registerProducer(first, True)
        self.assertRaises(RuntimeError, joined.mine.transport.registerProducer, second, True)
        joined.mine.transport.unregisterProducer()
        joined.mine.transport.registerProducer(second, True)
        joined.theirs.transport.loseConnection()
        joined.until_lost()
        self.assertEqual((first.calls, second.calls), ([], ["stop"]))
        joined.mine.transport.registerProducer(first, True)
        self.assertEqual(first.calls, ["stop"])

    def test_a_producer_that_fails_costs_the_connection(self) -> None:
        joined = self.join()

        class Broken(PullProducer):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                if self.left == 5:
                    raise ZeroDivisionError("in the producer")

        Broken(joined.mine.transport, b"x" * 30_000, 10).start()
        joined.until_lost()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stop_consuming(self) -> None:
        joined = self.join()
        producer = PushProducer(joined.clock, joined.mine.transport, b"x", 1)
        joined.mine.transport.registerProducer(producer, True)
        joined.mine.transport.stopConsuming()
        joined.until_lost()
        self.check_done(joined.mine, joined.theirs)

    # --- the transport as a producer ---------------------

    def test_nothing_is_received_while_paused(self) -> None:
        joined = self.join()
        data = noise(300_000)
        joined.theirs.transport.pauseProducing()
        joined.mine.transport.write(data)
        joined.pair.advance(2)
        self.assertEqual(joined.theirs.received, b"")
        joined.theirs.transport.resumeProducing()
        self.assertEqual(joined.theirs.received, b"")
        joined.until(lambda: joined.theirs.received == data)

    def test_paused_from_within_data_received(self) -> None:
        joined = self.join()
        data = noise(5 * 64 * KIB)
        transport = joined.theirs.transport
        joined.theirs.on_data = lambda _: (
            transport.pauseProducing(),
            joined.clock.callLater(1, transport.resumeProducing),
        )
        started = joined.clock.seconds()
        joined.mine.transport.write(data)
        joined.until(lambda: joined.theirs.received == data)
        self.assertGreaterEqual(joined.clock.seconds() - started, 3.99)

    def test_paused_again_before_it_resumed(self) -> None:
        joined = self.join()
        transport = joined.theirs.transport
        transport.pauseProducing()
        joined.mine.transport.write(b"data")
        joined.pair.advance(1)
        transport.resumeProducing()
        transport.pauseProducing()
        joined.pair.advance(1)
        self.assertEqual(joined.theirs.received, b"")
        transport.resumeProducing()
        joined.until(lambda: joined.theirs.received == b"data")

    def test_the_end_waits_for_one_who_is_paused(self) -> None:
        joined = self.join()
        joined.theirs.transport.pauseProducing()
        joined.mine.transport.write(b"the last")
        joined.mine.transport.loseConnection()
        joined.pair.advance(20)
        self.check_done(joined.mine)
        self.assertEqual(joined.theirs.events, ["made"])
        joined.theirs.transport.resumeProducing()
        joined.until_lost()
        self.assertEqual(joined.theirs.received, b"the last")
        self.check_done(joined.theirs)

    def test_lose_connection_while_paused(self) -> None:
        joined = self.join()
        joined.theirs.transport.pauseProducing()
        joined.mine.transport.write(noise(MIB))
        joined.pair.advance(1)
        joined.theirs.transport.write(b"bye")
        joined.theirs.transport.loseConnection()
        joined.until_lost()
        self.assertEqual((joined.theirs.received, joined.mine.received), (b"", b"bye"))
        self.check_done(joined.mine, joined.theirs)
        joined.until(lambda: not joined.pair.client.channels and not joined.pair.server.channels)

    def test_stop_producing_loses_the_connection(self) -> None:
        joined = self.join()
        joined.mine.transport.stopProducing()
        joined.until_lost()
        self.check_done(joined.mine, joined.theirs)

    def test_two_connections_as_each_others_producers(self) -> None:
        """A proxy between two connections slows the source down."""
        joined = self.join()
        transport = joined.theirs.transport
        transport.registerProducer(transport, True)
        joined.theirs.on_data = transport.write
        data = noise(self.large)
        joined.mine.transport.write(data)
        joined.until(lambda: joined.mine.size == len(data))
        self.assertTrue(joined.mine.received == data)

    # --- one that goes on sending to a closed connection ---------------------

    def test_a_peer_that_does_not_stop_is_reset(self) -> None:
        mine = HalfNotes()
        joined = self.join(mine, Notes())
        joined.theirs.transport.write(b"the answer")
        joined.theirs.transport.loseConnection()
        joined.until(lambda: "read lost" in mine.events and joined.theirs.lost)
        mine.transport.write(b"on its way")
        joined.pair.advance(2)
        self.assertFalse(mine.lost)
        joined.pair.advance(10)
        mine.transport.write(b"still not stopped")
        joined.until(lambda: mine.lost)
        assert mine.reason is not None
        self.assertIs(mine.reason.type, ConnectionLost)
        self.assertEqual(joined.theirs.received, b"")

    def test_the_log_says_whose_connection_it_is(self) -> None:
        class Named(Notes):
            def logPrefix(self) -> str:
                return "Custom"

        joined = self.join(None, Named())
        self.assertEqual(joined.theirs.transport.logPrefix(), "Custom,stream")
        self.assertEqual(joined.mine.transport.logPrefix(), "Notes,stream")
        systems: list[Any] = []
        observer = lambda event: systems.append(event.get("log_system", event.get("system")))  # noqa: E731

        def log_something(data: bytes) -> None:
            from twisted.python import log

            log.msg("something")

        joined.theirs.on_data = log_something
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        joined.mine.transport.write(b"data")
        joined.until(lambda: bool(joined.theirs.received))
        self.assertIn("Custom,stream", systems)

    # --- refused ---------------------

    def test_a_factory_that_makes_no_protocol(self) -> None:
        from jetstreamproto.bytestream import ChannelTransport

        pair = self.connect({"stream": Registry(lambda: ChannelTransport(lambda address: None))})
        mine = Notes()
        pair.run(pair.client.open("stream", ChannelTransport(lambda address: mine)))
        pair.run_until(lambda: mine.lost)
        self.assertEqual(mine.events, ["made", "lost"])
