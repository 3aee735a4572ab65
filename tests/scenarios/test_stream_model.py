"""Byte streams whose ends write, pause and half-close as chance has it: the same bytes arrive."""

from __future__ import annotations

import unittest
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.doubles import IDENTITY, KIB, QuickClock, make_pair, noise, windows
from tests.streams import HalfNotes, Joined, PullProducer

SETTINGS = windows(140_000, 300_000)

Side = Literal["mine", "theirs"]
sides: st.SearchStrategy[Side] = st.sampled_from(["mine", "theirs"])
sizes = st.one_of(
    st.sampled_from([1, 100, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 300_000]),
    st.integers(1, 100_000),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), sides, sizes),
        st.tuples(st.just("sequence"), sides, st.lists(st.integers(0, 3000), max_size=20)),
        st.tuples(st.just("produce"), sides, st.integers(1, 20)),
        st.tuples(st.just("pause"), sides, st.none()),
        st.tuples(st.just("resume"), sides, st.none()),
        st.tuples(st.just("end"), sides, st.none()),
        st.tuples(st.just("wait"), st.none(), st.sampled_from([0.0, 0.001, 0.03, 1.0])),
    ),
    max_size=25,
)


class StreamModelTests(unittest.TestCase):
    def check(self, joined: Joined, plan: list[Any]) -> None:
        written: dict[str, list[bytes]] = {"mine": [], "theirs": []}
        ended: set[str] = set()
        for number, (action, side, value) in enumerate(plan):
            if action == "wait":
                joined.pair.advance(value)
                continue
            transport = getattr(joined, side).transport
            if action == "pause":
                transport.pauseProducing()
            elif action == "resume":
                transport.resumeProducing()
            elif side in ended:
                continue
            elif action == "end":
                ended.add(side)
                transport.loseWriteConnection()
            elif action == "write":
                written[side].append(noise(value, number))
                transport.write(written[side][-1])
            elif action == "sequence":
                pieces = [noise(size, number) for size in value]
                written[side] += pieces
                transport.writeSequence(pieces)
            elif action == "produce":
                # it must be done before others write, or nobody could say what comes first
                producer = PullProducer(transport, noise(7000, number), value)
                written[side] += [noise(7000, number)] * value
                joined.mine.transport.resumeProducing()
                joined.theirs.transport.resumeProducing()
                producer.start()
                joined.until(lambda producer=producer: not producer.left)  # type: ignore[misc]
        for side in ("mine", "theirs"):
            transport = getattr(joined, side).transport
            transport.resumeProducing()
            if side not in ended:
                transport.loseWriteConnection()
        joined.until_lost()
        self.assertTrue(joined.theirs.received == b"".join(written["mine"]))
        self.assertTrue(joined.mine.received == b"".join(written["theirs"]))
        for protocol in (joined.mine, joined.theirs):
            self.assertEqual(protocol.events[-1], "lost")
            assert protocol.reason is not None
            self.assertEqual(protocol.reason.type.__name__, "ConnectionDone")
            for event in ("read lost", "write lost", "lost"):
                self.assertEqual(protocol.events.count(event), 1)
        joined.until(lambda: not joined.pair.client.channels and not joined.pair.server.channels)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(steps, st.sampled_from([0.0, 0.003, 0.05]), st.sampled_from([0, 1000]))
    def test_over_tcp(self, plan: list[Any], latency: float, chop: int) -> None:
        joined = Joined(
            make_pair, HalfNotes(), HalfNotes(), latency=latency, chop=chop, settings=SETTINGS
        )
        self.check(joined, plan)

    @settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
    @given(steps, st.integers(0, 1 << 32), st.sampled_from([0.0, 0.05, 0.15]))
    def test_over_udp(self, plan: list[Any], seed: int, loss: float) -> None:
        link = LinkOptions(delay=0.01, jitter=0.003, loss=loss, duplicate=0.02, reorder=0.02)
        joined = Joined(
            DatagramPair,
            HalfNotes(),
            HalfNotes(),
            link=link,
            seed=seed,
            identity=IDENTITY,
            clock=QuickClock(),
            settings=SETTINGS,
        )
        self.check(joined, plan)
