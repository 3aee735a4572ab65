"""Tests that what jetstreamproto.reliability.outgoing sends arrives at an `Incoming`."""

from __future__ import annotations

from random import Random
from unittest import TestCase

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.reliability.frames import Frame
from jetstreamproto.reliability.incoming import Incoming
from jetstreamproto.wire.packet import Flag, Kind
from tests.unit.reliability.test_outgoing import FIRST_LIMIT, Sender, arrive, untimed


class DeliveryTests(TestCase):
    """Everything arrives at an `Incoming` in the end, whatever the network does."""

    @untimed
    @given(st.integers(0, 1 << 32), st.sampled_from([0.0, 0.1, 0.5]))
    def test_over_any_network(self, seed: int, loss: float) -> None:
        random, sender, incoming = Random(seed), Sender(), Incoming(FIRST_LIMIT)
        expected: dict[tuple[int, int], bytes] = {}
        expiring = set[tuple[int, int]]()
        plan = [random.choice(("stream", "message", "expiring")) for _ in range(4)]
        for channel in range(4):
            sender.open_data(channel)
        under_way: list[tuple[int, list[Frame]]] = []
        received = set[int]()
        taken: dict[tuple[int, int], tuple[int, bytes]] = {}
        left = random.randint(1, 60)
        seq = 0
        for _ in range(3000):
            sender.now += 0.01
            if left:
                left -= 1
                seq += 1
                channel = random.randrange(4)
                payload = random.randbytes(random.choice((0, 10, 300, 2000, 5000, 20000)))
                expected[channel, seq] = payload
                if plan[channel] == "stream":
                    sender.write(channel, seq, payload)
                elif plan[channel] == "message":
                    sender.write_message(channel, seq, payload)
                else:
                    expiring.add((channel, seq))
                    expires_at = sender.now + random.choice((0.02, 0.1, 5.0))
                    sender.write_message(channel, seq, payload, expires_at)
                if not left:
                    for each in range(4):
                        sender.outgoing.end_stream(each)
                        incoming.leave(each)
            sender.outgoing.expire(sender.now)
            flight, packets = sender.build(budget=random.choice((1, 5000, 50000)))
            if flight is not None:
                under_way += enumerate(packets, flight.first)
            for number, packet in random.sample(under_way, min(len(under_way), 12)):
                under_way.remove((number, packet))
                if random.random() >= loss:
                    arrive(incoming, packet)
                    received.add(number)
            for parts in incoming.take():
                if parts[2] == Kind.DATA:
                    self.assertNotIn((parts[1], parts[0]), taken)
                    taken[parts[1], parts[0]] = parts[3], bytes(parts[5])
            if incoming.window_due:
                incoming.window_due = False
                sender.outgoing.limit_received(incoming.granted)
            if received and random.random() < 0.5:
                sender.acknowledge(*(n for n in received if n >= max(received) - 2000))
                sender.log.detect_losses(sender.now, 0.3)
            if not left and sender.outgoing.idle and not under_way:
                if not sender.log.in_flight:
                    break
                arrive(incoming, sender.acknowledge_next())
                received.add(sender.sealer.number - 1)
                sender.now += 1.0
                sender.lose_the_rest()
        else:
            self.fail("it never ends")
        for key, payload in expected.items():
            flags, content = taken.pop(key)
            if flags & Flag.DROPPED:
                self.assertIn(key, expiring)
                self.assertEqual(int.from_bytes(content, "little"), len(payload))
            else:
                self.assertEqual(content, payload)
        self.assertEqual(taken, {})
        self.assertEqual(sender.outgoing.streams, {})
        self.assertEqual((incoming._channels, incoming._cost), ({}, 0))
        self.assertEqual(sender.outgoing.unsent, 0)
