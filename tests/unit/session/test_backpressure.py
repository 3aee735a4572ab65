"""Backpressure: queues have bounds, producers are paused, and what is slow stops only itself."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from jetstreamproto.errors import ChannelReset, MessageTooLarge, QueueFull
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import MIN_WINDOW, PACKET_COST, ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import KIB, MIB, Recorder, Registry, make_pair, noise, windows


@implementer(IPushProducer)
class Push:
    """Sends while it is not paused, whenever `work` is called."""

    def __init__(self, channel: Channel, size: int = 1000) -> None:
        self.calls: list[str] = []
        self.going = True
        self.sent = 0
        self._channel = channel
        self._size = size

    def work(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.going:
                return
            self._channel.write(noise(self._size, self.sent))
            self.sent += 1

    def pauseProducing(self) -> None:
        self.calls.append("pause")
        self.going = False

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        self.going = True

    def stopProducing(self) -> None:
        self.calls.append("stop")
        self.going = False


@implementer(IPullProducer)
class Pull:
    """Sends one message whenever it is asked to, `count` in all, then ends the channel."""

    def __init__(self, channel: Channel, count: int, size: int = 10_000) -> None:
        self.sent = 0
        self.stopped = 0
        self._channel = channel
        self._count = count
        self._size = size

    def resumeProducing(self) -> None:
        self._channel.send(noise(self._size, self.sent))
        self.sent += 1
        if self.sent == self._count:
            self._channel.unregisterProducer()
            self._channel.end()

    def stopProducing(self) -> None:
        self.stopped += 1


class BackpressureCase(SynchronousTestCase):
    def join(self, service: Any = Recorder, **options: Any) -> tuple[SessionPair, Recorder, Any]:
        registry = Registry(service)
        pair = make_pair({"service": registry}, **options)
        mine = pair.run(pair.client.open("service", Recorder(stay=True)))
        return pair, mine, registry.made[0]


class ProducerTests(BackpressureCase):
    def test_a_push_producer_is_paused_at_the_mark_and_resumed_at_half_of_it(self) -> None:
        pair, mine, theirs = self.join(settings=SessionSettings(high_water=100_000))
        producer = Push(mine.channel)
        mine.channel.registerProducer(producer, True)
        producer.work()
        self.assertEqual(producer.calls, ["pause"])
        self.assertTrue(100_000 <= mine.channel.queued < 102_000)
        pair.run_until(lambda: producer.going)
        self.assertEqual(producer.calls, ["pause", "resume"])
        self.assertLessEqual(mine.channel.queued, 50_000)
        for _ in range(20):
            producer.work()
            self.assertLess(mine.channel.queued, 102_000)
            pair.run_until(lambda: producer.going)
        self.assertEqual(producer.calls, ["pause", "resume"] * 21)
        mine.channel.unregisterProducer()
        pair.run_until(lambda: len(theirs.messages) == producer.sent)
        self.assertTrue(theirs.messages == [noise(1000, n) for n in range(producer.sent)])

    def test_a_paused_peer_pauses_the_producer_for_good(self) -> None:
        pair, mine, theirs = self.join(settings=windows(200_000, 800_000, high_water=100_000))
        theirs.channel.pauseProducing()
        producer = Push(mine.channel)
        mine.channel.registerProducer(producer, True)
        for _ in range(100):
            producer.work()
            pair.advance(0.1)
        self.assertFalse(producer.going)
        self.assertLess(producer.sent * 1000, 200_000 + 102_000)
        theirs.channel.resumeProducing()
        pair.run_until(lambda: producer.going)

    def test_a_pull_producer_is_asked_until_it_is_done(self) -> None:
        for latency in (0.0, 0.05):
            with self.subTest(latency=latency):
                pair, mine, theirs = self.join(latency=latency)
                producer = Pull(mine.channel, 500)
                mine.channel.registerProducer(producer, False)
                pair.run_until(lambda theirs=theirs: "end" in theirs.events)
                self.assertEqual((len(theirs.messages), producer.sent), (500, 500))
                self.assertEqual(producer.stopped, 0)

    def test_a_pull_producer_waits_while_the_peer_is_paused(self) -> None:
        pair, mine, theirs = self.join(settings=windows(200_000, 800_000, high_water=50_000))
        theirs.channel.pauseProducing()
        producer = Pull(mine.channel, 100)
        mine.channel.registerProducer(producer, False)
        pair.advance(10)
        self.assertLess(producer.sent * 10_000, 200_000 + 60_000)
        theirs.channel.resumeProducing()
        pair.run_until(lambda: "end" in theirs.events)
        self.assertEqual(len(theirs.messages), 100)

    def test_producers_are_stopped_when_the_channel_breaks(self) -> None:
        for how in ("reset here", "reset there", "cut"):
            with self.subTest(how):
                pair, mine, theirs = self.join()
                producer = Push(mine.channel)
                mine.channel.registerProducer(producer, True)
                if how == "cut":
                    pair.cut()
                else:
                    (mine if how == "reset here" else theirs).channel.reset()
                pair.run_until(lambda mine=mine: "closed" in mine.events)
                self.assertEqual(producer.calls, ["stop"])

    def test_a_second_producer_is_refused_and_one_on_a_closed_channel_stopped(self) -> None:
        _, mine, _ = self.join()
        mine.channel.registerProducer(Push(mine.channel), True)
        self.assertRaises(RuntimeError, mine.channel.registerProducer, Push(mine.channel), True)
        mine.channel.unregisterProducer()
        mine.channel.registerProducer(Push(mine.channel), True)
        mine.channel.reset()
        late = Push(mine.channel)
        mine.channel.registerProducer(late, True)
        self.assertEqual(late.calls, ["stop"])

    def test_a_channel_can_feed_another_without_memory(self) -> None:
        class Relay(Recorder):
            """Passes on what it receives, no faster than the far end takes it."""

            def __init__(self, to: Channel) -> None:
                super().__init__()
                self.to = to

            def channel_opened(self) -> None:
                self.to.registerProducer(self.channel, True)

            def message_received(self, message: bytes) -> None:
                self.to.write(message)

            def end_received(self) -> None:
                self.to.unregisterProducer()
                self.to.end()
                super().end_received()

        settings = windows(200_000, 800_000, high_water=100_000)
        second, out, sink = self.join(settings=settings)
        relay = Relay(out.channel)
        first = make_pair({"relay": lambda: relay}, settings=settings, clock=second.clock)
        source = first.run(first.client.open("relay", Recorder(stay=True)))
        sink.channel.pauseProducing()
        for number in range(200):
            source.channel.send(noise(10_000, number))
        source.channel.end()
        first.advance(5)
        self.assertLess(out.channel.queued, 200_000)
        self.assertGreater(source.channel.queued, 1_000_000)
        sink.channel.resumeProducing()
        first.run_until(lambda: "end" in sink.events)
        self.assertTrue(sink.messages == [noise(10_000, n) for n in range(200)])

    def test_a_reset_as_the_queue_drains_is_no_clean_end(self) -> None:
        served = Registry(lambda: Recorder(stay=True))
        pair = make_pair({"sink": served})
        mine = pair.run(pair.client.open("sink", Recorder(stay=True)))
        for _ in range(40):
            mine.channel.send(bytes(60_000))
        mine.channel.drained().addCallback(lambda _: mine.channel.reset(1))
        mine.channel.end()
        pair.advance(5)
        self.assertNotIn("end", served.made[0].events)
        self.assertIsInstance(served.made[0].reason, ChannelReset)

    def test_drained_fires_though_the_channel_ends_with_the_last_bytes(self) -> None:
        pair, mine, theirs = self.join(settings=SessionSettings(high_water=10))
        theirs.channel.end()
        pair.run_until(lambda: "end" in mine.events)
        mine.channel.send(b"the last message")
        mine.channel.end()
        self.assertIsNone(pair.run(mine.channel.drained()))

    def test_one_waiter_may_cancel_another(self) -> None:
        pair, mine, _ = self.join(settings=SessionSettings(high_water=1000))
        mine.channel.send(noise(10_000))
        first, second = mine.channel.drained(), mine.channel.drained()
        second.addErrback(lambda _: None)
        first.addCallback(lambda _: second.cancel())
        self.assertIsNone(pair.run(first))


class FailingProducerTests(BackpressureCase):
    """A producer is the application's: what it raises may cost its channel, never the session."""

    def check_only_the_channel_failed(self, pair: SessionPair, mine: Recorder, kind: type) -> None:
        pair.advance(1)
        self.flushLoggedErrors(kind)
        self.assertIsNone(pair.client.close_reason)
        self.assertIsNone(pair.server.close_reason)
        other = pair.run(pair.client.open("service"))
        other.channel.end()
        pair.run(other.channel.when_closed())
        self.assertIsInstance(mine.reason, ChannelReset)

    def test_a_pull_producer_that_sends_too_much(self) -> None:
        class TooLarge(Pull):
            def resumeProducing(self) -> None:
                if self.sent:
                    self._size = 200_000
                super().resumeProducing()

        pair, mine, _ = self.join(settings=SessionSettings(max_message=100_000))
        mine.channel.registerProducer(TooLarge(mine.channel, 10), False)
        self.check_only_the_channel_failed(pair, mine, MessageTooLarge)

    def test_a_pull_producer_that_goes_on_after_the_end(self) -> None:
        pair, mine, _ = self.join()
        mine.channel.registerProducer(Pull(mine.channel, 10), False)
        mine.channel.end()
        pair.advance(1)
        self.flushLoggedErrors()
        self.assertIsNone(pair.client.close_reason)
        pair.run(pair.client.open("service"))

    def test_a_push_producer_that_cannot_resume(self) -> None:
        class Stuck(Push):
            def resumeProducing(self) -> None:
                raise LookupError("the file is gone")

        pair, mine, _ = self.join(settings=SessionSettings(high_water=10_000))
        producer = Stuck(mine.channel)
        mine.channel.registerProducer(producer, True)
        producer.work()
        self.check_only_the_channel_failed(pair, mine, LookupError)

    def test_a_producer_that_cannot_stop_keeps_nobody_from_being_told(self) -> None:
        class Unstoppable(Push):
            def stopProducing(self) -> None:
                raise LookupError("never")

        for how in ("reset", "cut"):
            with self.subTest(how):
                pair, mine, theirs = self.join()
                other = pair.run(pair.client.open("service", Recorder()))
                mine.channel.registerProducer(Unstoppable(mine.channel), True)
                waiting = [mine.channel.when_closed(), other.channel.when_closed()]
                gone = pair.client.when_closed()
                for one in waiting:
                    one.addErrback(lambda _: None)
                if how == "reset":
                    theirs.channel.reset()
                    pair.advance(1)
                    self.assertIsNone(pair.client.close_reason)
                else:
                    pair.client_transport.lose(ConnectionError("cut"))
                    self.successResultOf(gone)
                    self.successResultOf(waiting[1])
                    self.assertEqual(other.events[-1], "closed")
                self.flushLoggedErrors(LookupError)
                self.successResultOf(waiting[0])
                self.assertEqual(mine.events[-1], "closed")


class WindowTests(BackpressureCase):
    """How the windows of channels and the session's window get on with each other."""

    def paused(self, count: int, channel: int, session: int) -> tuple[SessionPair, Registry]:
        """`count` channels whose servers are paused and hold a full window each."""
        service = Registry()
        pair = make_pair({"service": service, "echo": Echo}, settings=windows(channel, session))
        for _ in range(count):
            mine = pair.run(pair.client.open("service", Recorder()))
            service.made[-1].channel.pauseProducing()
            for number in range(2 * channel // (64 * KIB)):
                mine.channel.send(noise(64 * KIB, number))
        pair.advance(1)
        return pair, service

    def test_others_go_on_while_paused_channels_hold_part_of_the_sessions_window(self) -> None:
        for count in (1, 2, 3):
            with self.subTest(f"{count} of 4 quarters held"):
                pair, _ = self.paused(count, 256 * KIB, MIB)
                other = pair.run(pair.client.open("service", Recorder()))
                for number in range(40):
                    other.channel.send(noise(100 * KIB, number))
                other.channel.end()
                pair.run_until(lambda other=other: "closed" in other.events)
                self.assertIsNone(other.reason)

    def test_a_held_half_and_a_bit_does_not_stop_the_rest(self) -> None:
        for held in (5, 6, 7):
            with self.subTest(f"{held} of 8 held"):
                pair, _ = self.paused(held, 256 * KIB, 2 * MIB)
                other = pair.run(pair.client.open("echo"))
                for number in range(20):
                    other.channel.send(noise(200 * KIB, number))
                    self.assertTrue(pair.run(other.get()) == noise(200 * KIB, number))

    def test_with_the_sessions_window_full_control_still_flows(self) -> None:
        pair, service = self.paused(8, 256 * KIB, MIB)
        self.assertEqual(pair.run(pair.client.ping()), 0.0)
        extra = pair.run(pair.client.open("service", Recorder(stay=True)))
        theirs = service.made[-1]
        theirs.channel.send(b"the other direction is free")
        pair.run_until(lambda: bool(extra.messages))
        extra.channel.reset(9, "never mind")
        pair.run_until(lambda: "closed" in theirs.events)
        self.assertEqual(theirs.reason.code, 9)

    def test_with_the_sessions_window_full_a_channel_can_still_end(self) -> None:
        pair, service = self.paused(8, 256 * KIB, MIB)
        extra = pair.run(pair.client.open("service", Recorder(stay=True)))
        extra.channel.end()
        pair.advance(5)
        self.assertIn("end", service.made[-1].events)
        self.assertEqual(extra.events[-1], "closed")

    def test_a_full_session_window_frees_itself_when_a_reader_resumes_or_resets(self) -> None:
        for how in ("resume", "reset", "reset by sender"):
            with self.subTest(how):
                pair, service = self.paused(8, 256 * KIB, MIB)
                last = pair.client.channels[-1]
                for theirs in service.made[:7]:
                    if how == "resume":
                        theirs.channel.resumeProducing()
                    elif how == "reset":
                        theirs.channel.reset()
                    else:
                        next(
                            channel
                            for channel in pair.client.channels
                            if channel.id == theirs.channel.id
                        ).reset()
                pair.advance(1)
                self.assertLess(last.queued, 2 * 256 * KIB)
                service.made[7].channel.resumeProducing()
                pair.run_until(lambda last=last: last.queued == 0)
                pair.advance(1)
                self.assertEqual(len(service.made[7].messages), 8)

    def test_a_message_larger_than_all_windows_passes(self) -> None:
        pair, mine, theirs = self.join(settings=windows(140_000, 150_000))
        mine.channel.send(noise(3 * MIB))
        pair.run_until(lambda: bool(theirs.messages))
        self.assertTrue(theirs.messages[0] == noise(3 * MIB))

    def test_odd_sizes_around_the_window_never_get_stuck(self) -> None:
        for size in (
            *range(1, 4),
            *range(1022, 1027),
            *range(MIN_WINDOW - PACKET_COST - 2, MIN_WINDOW - PACKET_COST + 3),
            *range(MIN_WINDOW - 1100, MIN_WINDOW - 1080, 5),
            MIN_WINDOW,
            MIN_WINDOW + 1,
            64 * KIB - PACKET_COST,
        ):
            with self.subTest(size=size):
                pair, mine, theirs = self.join(settings=windows(MIN_WINDOW, MIN_WINDOW))
                for number in range(6):
                    mine.channel.send(noise(size, number))
                pair.run_until(lambda theirs=theirs: len(theirs.messages) == 6)

    def test_windows_grow_no_further_than_their_maximum(self) -> None:
        settings = SessionSettings(
            channel_window=200_000,
            max_channel_window=500_000,
            session_window=400_000,
            max_session_window=800_000,
        )
        pair, mine, theirs = self.join(settings=settings, latency=0.05)
        for number in range(200):
            mine.channel.send(noise(50_000, number))
        pair.run_until(lambda: len(theirs.messages) > 150)
        theirs.channel.pauseProducing()
        queued, seen = mine.channel.queued, theirs.received
        pair.advance(10)
        in_flight = queued - mine.channel.queued - (theirs.received - seen)
        self.assertLessEqual(in_flight, 500_000)
        theirs.channel.resumeProducing()
        pair.run_until(lambda: len(theirs.messages) == 200)


class SlowClientTests(BackpressureCase):
    def test_echo_holds_little_for_a_client_that_does_not_read(self) -> None:
        settings = windows(256 * KIB, MIB, high_water=128 * KIB, send_limit=256 * MIB)
        echoes = Registry(Echo)
        pair = make_pair({"echo": echoes}, settings=settings)
        mine = pair.run(pair.client.open("echo", Recorder()))
        mine.channel.pauseProducing()
        message = noise(32 * KIB)
        for _ in range(2000):
            mine.channel.send(message)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            pair.advance(10)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.assertLess(echoes.made[0].channel.queued, 2 * 128 * KIB)
        self.assertLess(grown, 2 * MIB)
        mine.channel.resumeProducing()
        mine.channel.end()
        pair.run_until(lambda: "closed" in mine.events)
        self.assertEqual(mine.received, 2000 * 32 * KIB)

    def test_compressed_data_is_bounded_by_the_mark_after_it_is_expanded(self) -> None:
        settings = windows(256 * KIB, MIB, high_water=128 * KIB, send_limit=256 * MIB)
        echoes = Registry(Echo)
        pair = make_pair({"echo": echoes}, settings=settings)
        mine = pair.run(pair.client.open("echo", Recorder()))
        mine.channel.pauseProducing()
        for _ in range(200):
            mine.channel.send(bytes(MIB))
        pair.advance(10)
        # Blocks of one message come in packets that cost little: the queue may have one mark and
        # what the peer's window takes, never the hundreds of megabytes that were sent.
        self.assertLess(echoes.made[0].channel.queued, 2 * MIB)

    def test_an_inbox_nobody_reads_stops_its_sender(self) -> None:
        boxes = Registry(lambda: Inbox(high_water=100_000))
        pair = make_pair({"inbox": boxes}, settings=windows(200_000, 800_000))
        mine = pair.run(pair.client.open("inbox", Recorder()))
        for number in range(100):
            mine.channel.send(noise(10_000, number))
        pair.advance(10)
        self.assertGreater(mine.channel.queued, 1_000_000 - 320_000)
        for number in range(100):
            self.assertTrue(pair.run(boxes.made[0].get()) == noise(10_000, number))

    def test_queue_full_is_for_one_channel(self) -> None:
        pair, mine, theirs = self.join(
            settings=windows(200_000, 800_000, send_limit=300_000, high_water=100_000)
        )
        theirs.channel.pauseProducing()
        other = pair.run(pair.client.open("service", Recorder()))
        with self.assertRaises(QueueFull):
            for number in range(1000):
                mine.channel.send(noise(10_000, number))
        other.channel.send(b"free")
        pair.advance(1)
        with self.assertRaises(QueueFull):
            for number in range(1000):
                mine.channel.send(noise(10_000, number))
        mine.channel.reset()
        pair.run_until(lambda: "closed" in theirs.events)
        self.assertEqual(theirs.reason.code, ResetCode.CANCELLED)
