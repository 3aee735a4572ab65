"""What survives lost sessions and restarts of the server: publishes, subscriptions, consumers."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from jetstreamproto.errors import SessionClosed
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.model.event import Event, Receipt, Start
from tests.unit.services.events.server import EventCase


class ReconnectingTests(EventCase):
    def setUp(self) -> None:
        super().setUp()
        self.run_now(self.client.add_stream("s", ["s.>"]))
        self.service = self.reconnecting()
        self.run_now(self.service.when_connected())
        self.client = EventClient(self.service.when_connected, clock=self.clock)

    def test_a_live_subscription_comes_back(self) -> None:
        subscription = self.run_now(self.client.subscribe("a"))
        self.pair.cut()
        self.advance(5)
        self.assertEqual(subscription.reconnects, 1)
        self.run_now(self.client.publish("a", b"x"))
        self.assertEqual(self.take(subscription, 1)[0].payload, b"x")

    def test_a_reader_goes_on_where_it_was(self) -> None:
        subscription = self.run_now(self.client.subscribe("s.*", start=Start.ALL))
        for number in range(10):
            self.run_now(self.client.publish("s.a", bytes([number])))
            if number % 3 == 1:
                self.pair.cut()
        found = self.take(subscription, 10)
        self.assertEqual([e.payload for e in found], [bytes([n]) for n in range(10)])
        self.waits(subscription.get())

    def test_a_publish_whose_answer_was_lost_is_taken_once(self) -> None:
        self.server.journal.held = True
        waiting = self.client.publish("s.a", b"x")
        self.advance(0.1)  # it is with the journal
        self.pair.cut()
        self.server.journal.release()
        self.advance(5)
        self.assertEqual(self.successResultOf(waiting), Receipt(0, duplicate=True))
        self.assertEqual(len(self.server.broker.read("s", 1, 9)), 1)

    def test_a_live_publish_whose_answer_was_lost_is_delivered_once(self) -> None:
        found: list[Any] = []
        self.server.broker.subscribe("a", found.extend)
        waiting = self.client.publish("a", b"x")
        self.pair.run_until(lambda: bool(found))
        self.pair.cut()
        self.advance(5)
        self.assertEqual(self.successResultOf(waiting), Receipt(0, duplicate=True))
        self.assertEqual(len(found), 1)

    def test_a_publisher_with_an_id_of_its_own_is_recognised_by_the_next_process(self) -> None:
        for expected in (Receipt(1), Receipt(0, duplicate=True)):
            client = EventClient(
                self.service.when_connected, clock=self.clock, publisher=b"me", number=7
            )
            self.assertEqual(self.run_now(client.publish("s.a", b"x")), expected)
            self.restart()

    def test_a_session_that_does_not_come_back_ends_in_an_error(self) -> None:
        self.pair.cut()
        client = EventClient(Deferred, clock=self.clock, timeout=3.0)
        waiting, subscribing = client.publish("a", b""), client.subscribe("a")
        self.advance(4)
        self.failureResultOf(waiting, SessionClosed)
        self.failureResultOf(subscribing, SessionClosed)

    def test_a_session_of_its_own_is_not_waited_for(self) -> None:
        client = EventClient(self.pair.client)
        subscription = self.run_now(client.subscribe("a"))
        self.pair.cut()
        self.advance(1)
        with self.assertRaises(Exception) as raised:
            self.run_now(subscription.get())
        self.assertNotIsInstance(raised.exception, AssertionError)
        with self.assertRaises(Exception) as raised:
            self.run_now(client.publish("a", b""))
        self.assertNotIsInstance(raised.exception, AssertionError)

    def test_what_is_acknowledged_after_a_reconnect_does_not_come_again(self) -> None:
        """It was delivered again meanwhile, and waits here."""
        self.run_now(self.client.publish_many([("s.a", b"1"), ("s.a", b"2")]))
        consuming = self.client.subscribe("s.a", durable="d", start=Start.ALL)
        subscription = self.run_now(consuming)
        first, second = self.take(subscription, 2)
        self.pair.cut()
        self.advance(5)
        self.assertEqual([e.attempt for e in subscription._events], [2, 2])
        self.run_now(subscription.ack(first))
        again = self.take(subscription, 1)[0]
        self.assertEqual((again.payload, again.attempt), (second.payload, 2))
        self.waits(subscription.get())

    def test_what_comes_again_while_its_acknowledgement_is_under_way_is_dropped(self) -> None:
        self.run_now(self.client.publish("s.a", b"1"))
        consuming = self.client.subscribe("s.a", durable="d", start=Start.ALL, ack_wait=2.0)
        subscription = self.run_now(consuming)
        event = self.take(subscription, 1)[0]
        self.advance(1.99)
        acknowledging = subscription.ack(event)  # it arrives 10 ms too late
        self.waits(subscription.get())
        self.assertIsNone(self.successResultOf(acknowledging))

    def test_closing_waits_for_what_is_not_confirmed(self) -> None:
        waiting = self.client.publish("s.a", b"x")
        self.run_now(self.client.close())
        self.assertEqual(self.successResultOf(waiting), Receipt(1))
        self.assertRaises(SessionClosed, self.client.publish, "s.a", b"y")


class ConsumerModelTests(EventCase):
    """Random cuts, restarts and answers; what was acknowledged comes once, everything else too."""

    @given(seed=st.integers(0, 1 << 32))
    @settings(max_examples=25, deadline=None)
    def test_nothing_is_lost_and_nothing_acknowledged_comes_again(self, seed: int) -> None:
        self.server.crash()
        self.setUp()
        rng = random.Random(seed)
        self.run_now(self.client.add_stream("s", ["s.>"]))
        service = self.reconnecting()
        self.run_now(service.when_connected())
        client = EventClient(service.when_connected, clock=self.clock)
        consuming = client.subscribe("s.a", durable="d", start=Start.ALL, ack_wait=3.0)
        subscription = self.run_now(consuming)
        worked, confirmed, published = set(), set(), 0

        def work(events: list[Event]) -> None:
            for event in events:
                self.assertNotIn(event.payload, confirmed, f"seed {seed}: came again")
                if rng.random() < 0.2:
                    subscription.nak(event, delay=rng.random()).addErrback(lambda _: None)
                elif rng.random() < 0.9:
                    worked.add(event.payload)
                    done = subscription.ack(event)
                    done.addCallbacks(lambda _, e=event: confirmed.add(e.payload), lambda _: None)
            subscription.get_many().addCallbacks(work, lambda _: None)

        subscription.get_many().addCallbacks(work, lambda _: None)
        for _ in range(rng.randrange(5, 30)):
            action = rng.random()
            if action < 0.5:
                count = rng.randrange(1, 30)
                topics = [rng.choice(["s.a", "s.b"]) for _ in range(count)]
                events = []
                for topic in topics:
                    published += topic == "s.a"
                    name = f"{published}" if topic == "s.a" else "other"
                    events.append((topic, name.encode()))
                client.publish_many(events).addErrback(self.fail)
            elif action < 0.7:
                self.pair.cut()
            elif action < 0.8:
                self.restart()
            self.advance(rng.random())
        self.advance(30)
        expected = {f"{number}".encode() for number in range(1, published + 1)}
        self.assertEqual(worked, expected, f"seed {seed}")
        self.assertEqual(confirmed, expected, f"seed {seed}")
        stored = [e for e in self.server.broker.read("s", 1, 10_000) if e.topic == "s.a"]
        self.assertEqual(
            [e.payload for e in stored],
            [f"{n}".encode() for n in range(1, published + 1)],
            f"seed {seed}: published once and in order",
        )
        state = self.server.broker.stream("s").consumers["d"].state
        self.assertEqual(state.outstanding, 0)
        subscription.close()
        service.stopService()
