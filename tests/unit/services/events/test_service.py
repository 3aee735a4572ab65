"""The service, its client and its broker together, in virtual time."""

from __future__ import annotations

from jetstreamproto.errors import EventError, NotAllowed
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.event import Policy, Receipt, Start
from tests.doubles import noise
from tests.unit.services.events.server import COMMIT, EventCase


class LiveTests(EventCase):
    def test_what_is_published_comes_to_all_whose_patterns_match(self) -> None:
        everything = self.run_now(self.client.subscribe(">"))
        some = self.run_now(self.client.subscribe("a.*"))
        for topic in ("a.b", "a.b.c", "x"):
            self.assertEqual(self.run_now(self.client.publish(topic, topic)), Receipt(0))
        self.assertEqual([e.topic for e in self.take(everything, 3)], ["a.b", "a.b.c", "x"])
        event = self.take(some, 1)[0]
        self.assertEqual((event.topic, event.payload, event.sequence), ("a.b", b"a.b", 0))
        self.waits(some.get())

    def test_events_of_one_turn_travel_in_one_message_and_keep_their_order(self) -> None:
        subscription = self.run_now(self.client.subscribe("a.>"))
        topics = [f"a.{number % 3}" for number in range(300)]
        receipts = self.run_now(self.client.publish_many([(t, t.encode()) for t in topics]))
        self.assertEqual(receipts, [Receipt(0)] * 300)
        events = self.run_now(subscription.get_many())
        self.assertEqual([event.topic for event in events], topics)

    def test_an_event_leaves_before_the_reactor_waits_again(self) -> None:
        """Whoever is subscribed in another session is sent it at once, not by a timer."""
        other = self.server.pair(latency=0.01)
        subscription = self.run_now(EventClient(other.client).subscribe("a"))
        before = self.clock.seconds()
        self.client.publish("a", b"")
        self.run_now(subscription.get())
        self.assertAlmostEqual(self.clock.seconds() - before, 0.02)

    def test_a_group_shares_and_others_get_all(self) -> None:
        members = [self.run_now(self.client.subscribe("a", group="g")) for _ in range(3)]
        whole = self.run_now(self.client.subscribe("a"))
        self.run_now(self.client.publish_many([("a", bytes([n])) for n in range(9)]))
        self.assertEqual(len(self.run_now(whole.get_many())), 9)
        parts = [self.run_now(member.get_many()) for member in members]
        self.assertEqual([len(part) for part in parts], [3, 3, 3])
        self.assertEqual(
            sorted(e.payload for part in parts for e in part), [bytes([n]) for n in range(9)]
        )
        members.pop().close()
        self.advance(1)
        self.run_now(self.client.publish_many([("a", b"")] * 4))
        self.assertEqual([len(self.run_now(m.get_many())) for m in members], [2, 2])

    def test_closing_ends_the_subscription_at_the_server(self) -> None:
        subscription = self.run_now(self.client.subscribe("a"))
        subscription.close()
        self.advance(1)
        self.assertEqual(self.pair.server.channels, ())
        self.assertEqual(self.server.broker._targets.match("a"), ())


class RefusalTests(EventCase):
    def test_what_is_wrong_is_a_typed_error_and_the_session_lives(self) -> None:
        for topic in (
            "",
            "a..b",
            "a.*",
            ">",
            "a b",
            "a\x1b[2J",
            "$dead.x",
            "x" * 256,
            "a." * 16 + "a",
        ):
            with self.subTest(topic), self.assertRaises(EventError) as raised:
                self.client.publish(topic, b"")
            self.assertEqual(raised.exception.code, EventCode.BAD_TOPIC)
        for pattern in ("", "a.>.b", "a*", ".a"):
            with self.subTest(pattern), self.assertRaises(EventError):
                self.run_now(self.client.subscribe(pattern))
        self.assertEqual(self.run_now(self.client.publish("a", b"")), Receipt(0))

    def test_denied_access(self) -> None:
        self.server.granted = {"publish": ("mine.>",), "subscribe": ("mine.*",), "streams": ()}
        self.run_now(self.client.publish("mine.a", b""))
        self.run_now(self.client.subscribe("mine.*"))
        for denied in (
            self.client.publish("yours", b""),
            self.client.subscribe("mine.>"),
            self.client.subscribe(">"),
            self.client.add_stream("s", ["mine.>"]),
        ):
            with self.assertRaises(NotAllowed):
                self.run_now(denied)
        self.assertEqual(self.run_now(self.client.publish("mine.a", b"")), Receipt(0))
        self.assertEqual(self.run_now(self.client.streams()), ())

    def test_a_refused_event_does_not_take_the_others_of_its_turn_with_it_unnoticed(self) -> None:
        self.server.granted = {"publish": ("mine",)}
        good = self.client.publish("mine", b"")
        bad = self.client.publish("yours", b"")
        for batch in (good, bad):  # they travelled together
            with self.assertRaises(NotAllowed):
                self.run_now(batch)
        self.assertEqual(self.run_now(self.client.publish("mine", b"")), Receipt(0))

    def test_streams_that_cannot_be(self) -> None:
        self.run_now(self.client.add_stream("orders", ["orders.>"]))
        for name, topics, code in (
            ("other", ["orders.new"], EventCode.STREAM_CONFLICT),
            ("other", ["*.new"], EventCode.STREAM_CONFLICT),
            ("$dead", ["x"], EventCode.BAD_TOPIC),
            ("a.b", ["x"], EventCode.BAD_TOPIC),
            ("none", [], EventCode.LIMIT),
            ("none", ["$dead.>"], EventCode.BAD_TOPIC),
        ):
            with self.subTest(name=name, topics=topics):
                with self.assertRaises(EventError) as raised:
                    self.run_now(self.client.add_stream(name, topics))
                self.assertEqual(raised.exception.code, code)
        for asked in (
            self.client.remove_stream("none"),
            self.client.stream("none"),
            self.client.subscribe("x", start=Start.ALL),
            self.client.subscribe("x", policy=Policy.PAUSE),
        ):
            with self.assertRaises(EventError) as raised:
                self.run_now(asked)
            self.assertEqual(raised.exception.code, EventCode.NO_STREAM)


class StreamTests(EventCase):
    def setUp(self) -> None:
        super().setUp()
        self.run_now(self.client.add_stream("orders", ["orders.>"]))

    def publish(self, *payloads: bytes, topic: str = "orders.new") -> list[Receipt]:
        return self.run_now(self.client.publish_many([(topic, p) for p in payloads]))

    def test_a_receipt_comes_after_the_commit_and_events_too(self) -> None:
        subscription = self.run_now(self.client.subscribe("orders.*"))
        self.server.journal.held = True
        publishing = self.client.publish("orders.new", b"1")
        self.advance(1)
        self.assertNoResult(publishing)
        getting = subscription.get()
        self.assertNoResult(getting)
        self.server.journal.release()
        self.assertEqual(self.run_now(publishing), Receipt(1))
        self.assertEqual(self.run_now(getting).sequence, 1)

    def test_one_commit_carries_what_came_meanwhile(self) -> None:
        others = [self.server.pair(latency=0.01) for _ in range(20)]
        before = self.server.journal.commits
        waiting = [EventClient(pair.client).publish("orders.new", b"x") for pair in others]
        receipts = [self.run_now(one) for one in waiting]
        self.assertEqual(sorted(r.sequence for r in receipts), list(range(1, 21)))
        self.assertEqual(self.server.journal.commits, before + 1)
        self.assertGreater(COMMIT, 0)

    def test_reading_from_everywhere(self) -> None:
        self.publish(b"1", b"2", b"3")
        self.advance(10)
        self.publish(b"4", b"5")
        time = self.server.wall() - 5_000_000
        subscriptions = []
        for options, expected in (
            ({"start": Start.ALL}, b"12345"),
            ({"start": Start.LAST}, b"5"),
            ({"start": Start.SEQUENCE, "origin": 3}, b"345"),
            ({"start": Start.TIME, "origin": time}, b"45"),
            ({"start": Start.TIME, "origin": 0}, b"12345"),
            ({"policy": Policy.PAUSE}, b""),
        ):
            with self.subTest(options):
                subscription = self.run_now(self.client.subscribe("orders.>", **options))
                self.assertEqual(subscription.stream, "orders")
                found = self.take(subscription, len(expected))
                self.assertEqual(b"".join(event.payload for event in found), expected)
                subscriptions.append(subscription)
        self.publish(b"6")
        for subscription in subscriptions:
            self.assertEqual(self.take(subscription, 1)[0].payload, b"6")

    def test_a_slow_reader_falls_back_on_the_stream_and_misses_nothing(self) -> None:
        subscription = self.run_now(self.client.subscribe("orders.*", start=Start.ALL))
        for number in range(60):
            self.publish(*[number.to_bytes(2, "big") + noise(8000, number)] * 10)
        self.assertFalse(self.server.broker._targets.match("orders.new")[0]._tailing)
        found = [int.from_bytes(e.payload[:2], "big") for e in self.take(subscription, 600)]
        self.assertEqual(found, [number for number in range(60) for _ in range(10)])
        self.publish(b"last")
        self.assertEqual(self.take(subscription, 1)[0].payload, b"last")

    def test_retention_by_count_bytes_and_age(self) -> None:
        for limit, expected in (
            ({"max_count": 3}, [8, 9, 10]),
            ({"max_bytes": 2 * (len("orders.new") + 100)}, [9, 10]),
        ):
            with self.subTest(limit):
                self.run_now(self.client.remove_stream("orders"))
                self.run_now(self.client.add_stream("orders", ["orders.>"], **limit))
                for _ in range(10):
                    self.publish(bytes(100))
                events = self.server.broker.read("orders", 1, 100)
                self.assertEqual([event.sequence for event in events], expected)
                info = self.run_now(self.client.stream("orders"))
                self.assertEqual(
                    (info.first, info.last, info.events), (expected[0], 10, len(expected))
                )
                self.assertEqual(info.size, len(expected) * (100 + len("orders.new")))
        self.run_now(self.client.remove_stream("orders"))
        self.run_now(self.client.add_stream("orders", ["orders.>"], max_age=60))
        self.publish(b"1")
        self.advance(50)
        self.publish(b"2")
        self.advance(25)
        self.assertEqual([e.payload for e in self.server.broker.read("orders", 1, 9)], [b"2"])

    def test_everything_is_there_after_a_crash(self) -> None:
        self.publish(b"1", b"2")
        self.restart()
        self.assertEqual([e.payload for e in self.server.broker.read("orders", 1, 9)], [b"1", b"2"])
        self.assertEqual([s.info.events for s in self.server.broker.streams()], [2])


class ConsumerTests(EventCase):
    def setUp(self) -> None:
        super().setUp()
        self.run_now(self.client.add_stream("jobs", ["jobs.>"]))

    def publish(self, count: int) -> None:
        self.run_now(self.client.publish_many([("jobs.a", bytes([n])) for n in range(count)]))

    def consume(self, **options: object) -> object:
        options.setdefault("start", Start.ALL)
        return self.run_now(self.client.subscribe("jobs.*", durable="worker", **options))

    def test_what_is_acknowledged_never_comes_again(self) -> None:
        self.publish(10)
        subscription = self.consume()
        events = self.take(subscription, 10)
        self.assertEqual([(e.sequence, e.attempt) for e in events], [(n, 1) for n in range(1, 11)])
        self.run_now(subscription.ack(*events[:3], events[5]))
        self.restart()
        self.pair = self.server.pair(latency=0.01)
        self.client = EventClient(self.pair.client)
        rest = self.take(self.consume(), 6)
        self.assertEqual([e.sequence for e in rest], [4, 5, 7, 8, 9, 10])

    def test_what_is_not_acknowledged_in_time_comes_again(self) -> None:
        self.publish(2)
        subscription = self.consume(ack_wait=5.0)
        first, second = self.take(subscription, 2)
        self.run_now(subscription.ack(first))
        self.waits(subscription.get(), 4.5)
        again = self.run_now(subscription.get())
        self.assertEqual((again.sequence, again.attempt), (second.sequence, 2))

    def test_a_nak_with_a_delay(self) -> None:
        self.publish(1)
        subscription = self.consume()
        event = self.take(subscription, 1)[0]
        self.run_now(subscription.nak(event, delay=7.0))
        self.waits(subscription.get(), 6.5)
        self.assertEqual(self.run_now(subscription.get()).attempt, 2)

    def test_too_many_deliveries_end_in_the_dead_letters(self) -> None:
        self.publish(2)
        subscription = self.consume(max_deliver=3, ack_wait=2.0)
        for attempt in (1, 2, 3):
            events = self.take(subscription, 2 if attempt == 1 else 1)
            self.assertEqual(events[0].attempt, attempt)
            if attempt == 1:
                self.run_now(subscription.ack(events[1]))
            self.run_now(subscription.nak(events[0]))
        dead = self.run_now(self.client.subscribe("$dead.jobs.>", start=Start.ALL))
        letter = self.take(dead, 1)[0]
        self.assertEqual((letter.topic, letter.payload), ("$dead.jobs.worker.jobs.a", b"\0"))
        self.waits(subscription.get(), 10)
        self.restart()
        self.assertEqual(len(self.server.broker.read("$dead", 1, 9)), 1)
        consumer = self.server.broker.stream("jobs").consumers["worker"]
        self.assertEqual(consumer.state.floor, 2)

    def test_giving_up_at_once(self) -> None:
        self.publish(1)
        subscription = self.consume()
        self.run_now(subscription.give_up(*self.take(subscription, 1)))
        self.advance(1)
        self.assertEqual(len(self.server.broker.read("$dead", 1, 9)), 1)

    def test_members_of_a_group_share_and_take_over(self) -> None:
        self.publish(10)
        one = self.consume(group="g")
        self.advance(0.1)
        first = self.run_now(one.get_many())
        other = self.consume(group="g")
        self.publish(4)
        self.advance(1)
        mine, theirs = self.run_now(one.get_many()), self.run_now(other.get_many())
        self.assertEqual((len(first), len(mine), len(theirs)), (10, 2, 2))
        one.close()
        again = self.take(other, 12)
        self.assertEqual({e.sequence for e in again}, {e.sequence for e in first + mine})

    def test_without_a_group_the_newest_takes_over(self) -> None:
        self.publish(1)
        old = self.consume()
        self.take(old, 1)
        new = self.consume()
        self.assertEqual(self.take(new, 1)[0].attempt, 2)
        with self.assertRaises(EventError) as raised:
            self.run_now(old.get())
        self.assertEqual(raised.exception.code, EventCode.TAKEN_OVER)

    def test_other_settings_are_a_conflict(self) -> None:
        self.consume(ack_wait=5.0)
        for options in ({"ack_wait": 6.0}, {"group": "g"}):
            with self.assertRaises(EventError) as raised:
                self.consume(**options)
            self.assertEqual(raised.exception.code, EventCode.CONSUMER_CONFLICT)
        self.consume()  # what is not said is as it was

    def test_no_more_than_max_pending_are_delivered(self) -> None:
        self.publish(50)
        subscription = self.consume(max_pending=8)
        events = self.take(subscription, 8)
        self.waits(subscription.get())
        self.run_now(subscription.ack(*events[:5]))
        self.assertEqual([e.sequence for e in self.take(subscription, 5)], [9, 10, 11, 12, 13])

    def test_forgetting(self) -> None:
        subscription = self.consume()
        info = self.run_now(self.client.stream("jobs"))
        self.assertEqual([(c.name, c.members) for c in info.consumers], [("worker", 1)])
        self.run_now(self.client.forget_consumer("jobs", "worker"))
        with self.assertRaises(EventError):
            self.run_now(subscription.get())
        self.restart()
        self.assertEqual(self.server.broker.stream("jobs").consumers, {})
