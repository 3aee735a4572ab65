"""What the service events does over any transport."""

from __future__ import annotations

from typing import Any

from jetstreamproto.services.events.model.event import Policy, Start
from tests.doubles import noise
from tests.unit.services.events.server import EventCase


class EventContract(EventCase):
    """Override `connect` for another transport."""

    large = 1_000_000

    def test_live(self) -> None:
        subscription = self.run_now(self.client.subscribe("a.>"))
        payloads = [noise(size, size) for size in (0, 1, 1000, self.large)]
        for payload in payloads:
            self.run_now(self.client.publish("a.b", payload))
        found = [event.payload for event in self.take(subscription, len(payloads))]
        self.assertTrue(found == payloads)

    def test_durable(self) -> None:
        self.run_now(self.client.add_stream("s", ["s.>"]))
        events = [(f"s.{n % 3}", noise(200, n)) for n in range(400)]
        receipts = self.run_now(self.client.publish_many(events))
        self.assertEqual([r.sequence for r in receipts], list(range(1, 401)))
        reading = self.run_now(self.client.subscribe("s.*", start=Start.ALL))
        self.assertTrue([e[:2] for e in self.take(reading, 400)] == events)
        options: dict[str, Any] = {"durable": "d", "start": Start.ALL, "max_pending": 50}
        consuming = self.run_now(self.client.subscribe("s.0", **options))
        done: list[int] = []
        while len(done) < 134:
            some = self.run_now(consuming.get_many())
            self.run_now(consuming.ack(*some))
            done += [event.sequence for event in some]
        self.assertEqual(done, list(range(1, 401, 3)))

    def test_a_slow_reader_and_a_quick_one(self) -> None:
        self.run_now(self.client.add_stream("s", ["s"]))
        slow = self.run_now(self.client.subscribe("s", policy=Policy.PAUSE))
        quick = self.run_now(self.client.subscribe("s", policy=Policy.PAUSE))
        payloads = [noise(10_000, n) for n in range(300)]
        found = []
        for start in range(0, 300, 50):
            waiting = self.client.publish_many([("s", p) for p in payloads[start : start + 50]])
            self.run_now(waiting)
            found += [event.payload for event in self.take(quick, 50)]
        self.assertTrue(found == payloads)
        self.assertTrue([event.payload for event in self.take(slow, 300)] == payloads)
