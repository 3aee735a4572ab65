from __future__ import annotations

import json
from typing import Any

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.topics import check_topic
from jetstreamproto.services.kv.announcing import change_topic
from jetstreamproto.services.kv.client import KeyValueClient
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY
from tests.unit.services.kv.house import KeyValueCase


class TopicTests(KeyValueCase):
    def test_topics(self) -> None:
        for key, expected in (
            ("al", "$kv.b.al"),
            ("orders/7", "$kv.b.orders.7"),
            ("a.b*c>d e", "$kv.b.a%2Eb%2Ac%3Ed%20e"),
            ("ä", "$kv.b.%C3%A4"),
            ("/a", "$kv.b.%"),
            ("a//b", "$kv.b.%"),
            ("k" * 300, "$kv.b.%"),
            ("k/" * 20 + "k", "$kv.b.%"),
        ):
            self.assertEqual(change_topic("b", key), expected)
            check_topic(change_topic("b", key), system=True)
        self.assertEqual(change_topic("a.b", "k"), "$kv.a%2Eb.k")


class AnnouncingTests(KeyValueCase):
    def setUp(self) -> None:
        super().setUp()
        self.told: list[tuple[str, Any]] = []
        self.error: Exception | None = None

    def publish(self, topic: str, payload: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.told.append((topic, json.loads(payload)))

    def test_changes_are_published_once_they_are_on_disk(self) -> None:
        offer = self.offer(publish=self.publish)
        pair = SessionPair(offer.services, identity=IDENTITY, clock=self.clock)
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        self.disk.slow = True
        done = b.batch().set("k", b"v", ttl=5).set("x/y", b"").send()
        pair.advance(1)
        self.assertEqual(self.told, [])
        self.disk.slow = False
        self.disk.finish()
        pair.run(done)
        pair.run(b.delete("x/y"))
        pair.run(b.delete("none"))
        pair.advance(6)
        kinds = [(topic, change["kind"], change["revision"]) for topic, change in self.told]
        self.assertEqual(
            kinds,
            [
                ("$kv.b.k", "put", 1),
                ("$kv.b.x.y", "put", 1),
                ("$kv.b.x.y", "deleted", 2),
                ("$kv.b.k", "expired", 3),
            ],
        )
        self.assertEqual(set(self.told[0][1]), {"kind", "bucket", "key", "revision"})

    def test_who_fails_to_hear_does_no_harm(self) -> None:
        offer = self.offer(publish=self.publish)
        pair = SessionPair(offer.services, identity=IDENTITY, clock=self.clock)
        b = KeyValueClient(pair.client, clock=self.clock).bucket("b")
        self.error = EventError(EventCode.LIMIT, "too much")
        self.assertEqual(pair.run(b.set("k", b"1")), 1)
        self.error = RuntimeError("a bug")
        self.assertEqual(pair.run(b.set("k", b"2")), 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(pair.run(b.get("k")), b"2")
