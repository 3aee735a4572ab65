"""Subscribers that do not read: what waits is bounded, counted and told, and others go on."""

from __future__ import annotations

from typing import Any

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.event import Policy
from jetstreamproto.services.events.model.limits import EventLimits
from tests.doubles import noise
from tests.unit.services.events.server import EventCase


class SlowTests(EventCase):
    limits = EventLimits(queue_bytes=1 << 20, total_queue=4 << 20)

    def flood(self, count: int) -> None:
        """So many events of 50 kB, no faster than they are taken."""
        for number in range(count):
            payload = number.to_bytes(4, "big") + noise(50_000, number % 7)
            self.run_now(self.client.publish("a", payload))

    def slow(self, **options: Any) -> Any:
        """A subscription of another session, that takes nothing until it is asked to."""
        pair = self.server.pair(latency=0.01)
        return self.run_now(EventClient(pair.client).subscribe("a", **options))

    def test_drop_loses_the_oldest_and_tells_how_many(self) -> None:
        slow, quick = self.slow(), self.slow()
        found = []
        for _ in range(20):
            self.flood(10)
            self.advance(0.1)
            found += self.run_now(quick.get_many())
        self.assertEqual(len(found), 200)
        numbers = []
        while not numbers or numbers[-1] != 9 or len(numbers) + slow.missed < 200:
            numbers += [int.from_bytes(e.payload[:4], "big") for e in self.run_now(slow.get_many())]
        self.assertEqual(len(numbers) + slow.missed, 200)
        self.assertGreater(slow.missed, 50)
        self.assertEqual(quick.missed, 0)
        self.assertEqual(self.server.broker.queues.missed, slow.missed)
        self.assertEqual(self.server.broker.queues.size, 0)

    def test_a_queue_of_a_few_events(self) -> None:
        slow = self.slow(queue_events=2)
        for _ in range(10):
            self.flood(10)
        held = self.server.broker._targets.match("a")[0]
        self.assertEqual(held._events, 2)
        self.assertLessEqual(held._size, 101_000)
        slow.close()
        self.advance(1)
        self.assertEqual(self.server.broker.queues.size, 0)

    def test_disconnect_ends_the_subscription_only(self) -> None:
        slow = self.slow(policy=Policy.DISCONNECT)
        self.flood(150)
        with self.assertRaises(EventError) as raised:
            while True:
                self.run_now(slow.get())
        self.assertEqual(raised.exception.code, EventCode.TOO_SLOW)
        self.assertEqual(self.server.broker._targets.match("a"), ())
        self.run_now(self.client.publish("a", b""))

    def test_all_queues_together_are_bounded(self) -> None:
        subscriptions = [self.slow() for _ in range(8)]
        for _ in range(10):
            self.flood(15)
            self.assertLessEqual(self.server.broker.queues.size, self.limits.total_queue)
        for subscription in subscriptions:
            subscription.close()
        self.advance(1)
        self.assertEqual(self.server.broker.queues.size, 0)

    def test_a_publisher_waits_for_the_disk(self) -> None:
        self.run_now(self.client.add_stream("s", ["a"]))
        self.server.broker.limits = EventLimits(journal_bytes=1 << 20)
        self.server.journal.held = True
        waiting = [self.client.publish("a", noise(100_000, n)) for n in range(60)]
        self.advance(5)
        self.assertLess(self.server.journal.waiting, 2 << 20)
        self.server.journal.release()
        self.assertEqual([self.run_now(one).sequence for one in waiting], list(range(1, 61)))


class DirectTests(EventCase):
    def test_a_listener_of_the_process(self) -> None:
        found: list[Any] = []
        stop = self.server.broker.subscribe("$kv.>", found.extend)
        broken = self.server.broker.subscribe("$kv.>", lambda _: 1 / 0)
        taking = self.server.broker.publish("$kv.bucket.key", b"value")
        self.assertEqual(self.successResultOf(taking).sequence, 0)
        self.assertEqual([(e.topic, e.payload) for e in found], [("$kv.bucket.key", b"value")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        stop()
        stop()
        broken()
        self.server.broker.publish("$kv.bucket.key", b"again")
        self.assertEqual(len(found), 1)
