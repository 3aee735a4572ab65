"""The model of a link: each option does what it says, and the seed decides everything."""

from __future__ import annotations

import unittest
from dataclasses import replace
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.testing.linkmodel import (
    UDP_OVERHEAD,
    Fate,
    LinkModel,
    LinkOptions,
    Outages,
    flip_bit,
)

PACKET = bytes(1200)


def send(
    options: LinkOptions, count: int = 20_000, gap: float = 0.001, size: int = 1200
) -> tuple[LinkModel, list[tuple[float, list[tuple[float, bytes]]]]]:
    """Offer `count` packets, one every `gap` seconds: when, and what arrived."""
    link = LinkModel(options)
    packet = bytes(size)
    return link, [(i * gap, link.offer(i * gap, packet)) for i in range(count)]


fractions = st.floats(0, 1)
times = st.floats(0, 2)
options = st.builds(
    LinkOptions,
    rate=st.none() | st.floats(1e4, 1e9),
    delay=times,
    jitter=times,
    keep_order=st.booleans(),
    loss=fractions,
    burst_loss=st.floats(0, 0.5),
    burst_length=st.floats(1, 50),
    duplicate=fractions,
    reorder=fractions,
    reorder_delay=st.none() | times,
    corrupt=fractions,
    queue=times,
    mtu=st.none() | st.integers(0, 2000),
    overhead=st.integers(0, 60),
    blackholes=st.just(()) | st.just(((0.5, 1.0),)) | st.just(Outages(1.0, 0.25)),
    seed=st.none() | st.integers(),
)
packets = st.lists(st.tuples(st.floats(0, 0.1), st.binary(max_size=1500)), max_size=60)


untimed = settings(deadline=None)


class PropertyTests(unittest.TestCase):
    @untimed
    @given(options, packets)
    def test_the_seed_decides(self, chosen: LinkOptions, sent: list[tuple[float, bytes]]) -> None:
        results = []
        for _ in range(2):
            now, link, arrived = 0.0, LinkModel(chosen), []
            for gap, data in sent:
                now += gap
                arrived.append((link.offer(now, data), link.fate))
            results.append((arrived, link.counters))
        self.assertEqual(results[0], results[1])

    @untimed
    @given(options, packets)
    def test_every_packet_is_accounted_for(
        self, chosen: LinkOptions, sent: list[tuple[float, bytes]]
    ) -> None:
        now, link, arrived = 0.0, LinkModel(chosen), 0
        for gap, data in sent:
            now += gap
            arrivals = link.offer(now, data)
            arrived += len(arrivals)
            self.assertEqual(bool(arrivals), link.fate is Fate.CARRIED)
            for when, carried in arrivals:
                self.assertGreaterEqual(when, now)
                self.assertEqual(len(carried), len(data))
        counters = link.counters
        self.assertEqual(counters.offered, len(sent))
        self.assertEqual(counters.delivered, arrived)
        self.assertEqual(
            counters.offered + counters.duplicated,
            counters.delivered + counters.lost + counters.overflowed + counters.too_big,
        )

    @untimed
    @given(options, packets)
    def test_the_line_is_never_faster_than_its_rate(
        self, chosen: LinkOptions, sent: list[tuple[float, bytes]]
    ) -> None:
        chosen = replace(chosen, rate=1e6, jitter=0.0, reorder=0.0, duplicate=0.0)
        now, link, arrivals = 0.0, LinkModel(chosen), []
        for gap, data in sent:
            now += gap
            arrivals += link.offer(now, data)
        for (earlier, _), (later, data) in pairwise(arrivals):
            least = (len(data) + chosen.overhead) * 8 / 1e6
            self.assertGreaterEqual(later - earlier, least * (1 - 1e-6) - 1e-9)


class OptionTests(unittest.TestCase):
    def test_a_plain_link_delivers_everything_at_once(self) -> None:
        link = LinkModel()
        self.assertEqual(link.offer(3.0, b"data"), [(3.0, b"data")])
        self.assertIs(link.fate, Fate.CARRIED)

    def test_delay(self) -> None:
        self.assertEqual(LinkModel(LinkOptions(delay=0.25)).offer(1.0, b"x"), [(1.25, b"x")])

    def test_rate_counts_the_overhead(self) -> None:
        for overhead in (0, UDP_OVERHEAD, 48):
            link = LinkModel(LinkOptions(rate=8000, overhead=overhead, queue=100))
            for i in range(1, 4):
                [(arrival, _)] = link.offer(0.0, bytes(1000))
                self.assertAlmostEqual(arrival, i * (1000 + overhead) / 1000)

    def test_an_idle_line_is_free(self) -> None:
        link = LinkModel(LinkOptions(rate=8000, overhead=0))
        self.assertEqual(link.offer(0.0, bytes(100))[0][0], 0.1)
        self.assertAlmostEqual(link.offer(5.0, bytes(100))[0][0], 5.1)

    def test_a_full_queue_drops_what_comes_last(self) -> None:
        link = LinkModel(LinkOptions(rate=8000, overhead=0, queue=0.35))
        arrivals = [link.offer(0.0, bytes(100)) for _ in range(6)]
        self.assertEqual([bool(a) for a in arrivals], [True] * 4 + [False] * 2)
        self.assertEqual(link.counters.overflowed, 2)
        self.assertIs(link.fate, Fate.OVERFLOWED)
        self.assertTrue(link.offer(0.1, bytes(100)))

    def test_without_a_queue_packets_need_a_free_line(self) -> None:
        link = LinkModel(LinkOptions(rate=8000, overhead=0, queue=0))
        self.assertTrue(link.offer(0.0, bytes(100)))
        self.assertFalse(link.offer(0.05, bytes(100)))
        self.assertTrue(link.offer(0.1, bytes(100)))

    def test_the_rate_is_reached(self) -> None:
        _, sent = send(LinkOptions(rate=5e6), gap=0.0005)
        arrivals = [arrivals[0][0] for _, arrivals in sent if arrivals]
        rate = (len(arrivals) - 1) * (1200 + UDP_OVERHEAD) * 8 / (arrivals[-1] - arrivals[0])
        self.assertAlmostEqual(rate / 5e6, 1.0, places=3)

    def test_jitter_is_spread_evenly_and_lets_packets_overtake(self) -> None:
        _, sent = send(LinkOptions(delay=0.1, jitter=0.04))
        delays = [arrivals[0][0] - now for now, arrivals in sent]
        self.assertGreaterEqual(min(delays), 0.1 - 1e-9)
        self.assertLess(max(delays), 0.14 + 1e-9)
        self.assertAlmostEqual(sum(delays) / len(delays), 0.12, delta=0.001)
        arrivals = [arrivals[0][0] for _, arrivals in sent]
        self.assertNotEqual(arrivals, sorted(arrivals))

    def test_jitter_may_keep_the_order(self) -> None:
        _, sent = send(LinkOptions(delay=0.1, jitter=0.04, keep_order=True))
        arrivals = [arrivals[0][0] for _, arrivals in sent]
        self.assertEqual(arrivals, sorted(arrivals))
        self.assertTrue(all(0.1 - 1e-9 <= a[0][0] - now <= 0.14 + 1e-9 for now, a in sent))

    def test_loss(self) -> None:
        link, _ = send(LinkOptions(loss=0.05))
        self.assertAlmostEqual(link.counters.lost / 20_000, 0.05, delta=0.005)

    def test_burst_loss_has_its_fraction_and_length(self) -> None:
        link, sent = send(LinkOptions(burst_loss=0.1, burst_length=5), count=100_000)
        self.assertAlmostEqual(link.counters.lost / 100_000, 0.1, delta=0.01)
        lost = [not arrivals for _, arrivals in sent]
        bursts = sum(1 for before, now in pairwise([False, *lost]) if now and not before)
        self.assertAlmostEqual(link.counters.lost / bursts, 5, delta=0.3)

    def test_both_kinds_of_loss_add_up(self) -> None:
        link, _ = send(LinkOptions(loss=0.1, burst_loss=0.1), count=100_000)
        self.assertAlmostEqual(link.counters.lost / 100_000, 0.19, delta=0.01)

    def test_duplicates(self) -> None:
        link, sent = send(LinkOptions(delay=0.1, duplicate=0.1))
        twice = [arrivals for _, arrivals in sent if len(arrivals) == 2]
        self.assertEqual(len(twice), link.counters.duplicated)
        self.assertAlmostEqual(len(twice) / 20_000, 0.1, delta=0.01)
        self.assertTrue(all(one == other for one, other in twice))

    def test_reordered_packets_come_early(self) -> None:
        link, sent = send(LinkOptions(delay=0.1, reorder=0.1, rate=1e8))
        early = {now for now, arrivals in sent if arrivals[0][0] < now + 0.1}
        self.assertEqual(len(early), link.counters.reordered)
        self.assertAlmostEqual(len(early) / 20_000, 0.1, delta=0.01)
        self.assertTrue(all(a[0][0] == now + 0.05 for now, a in sent if now in early))

    def test_or_late(self) -> None:
        link, sent = send(LinkOptions(delay=0.1, reorder=0.1, reorder_delay=0.03))
        late = sum(1 for now, arrivals in sent if arrivals[0][0] > now + 0.12)
        self.assertEqual(late, link.counters.reordered)
        self.assertAlmostEqual(late / 20_000, 0.1, delta=0.01)

    def test_corruption_flips_one_bit(self) -> None:
        link, sent = send(LinkOptions(corrupt=0.2), size=40)
        damaged = [a[0][1] for _, a in sent if a[0][1] != bytes(40)]
        self.assertEqual(len(damaged), link.counters.corrupted)
        self.assertAlmostEqual(len(damaged) / 20_000, 0.2, delta=0.02)
        self.assertTrue(all(int.from_bytes(data, "big").bit_count() == 1 for data in damaged))
        hit = {(i, data[i]) for data in damaged for i in range(40) if data[i]}
        self.assertEqual(len(hit), 40 * 8)

    def test_an_empty_packet_has_nothing_to_flip(self) -> None:
        self.assertEqual(flip_bit(b"", Random(1)), b"")
        self.assertEqual(LinkModel(LinkOptions(corrupt=1)).offer(0, b""), [(0, b"")])

    def test_damage_may_be_of_another_kind(self) -> None:
        link = LinkModel(LinkOptions(corrupt=1), damage=lambda data, random: data[::-1])
        self.assertEqual(link.offer(0, b"abc"), [(0, b"cba")])

    def test_the_mtu_counts_the_overhead(self) -> None:
        link = LinkModel(LinkOptions(mtu=1500))
        self.assertTrue(link.offer(0, bytes(1472)))
        self.assertFalse(link.offer(0, bytes(1473)))
        self.assertIs(link.fate, Fate.TOO_BIG)
        self.assertEqual(link.counters.too_big, 1)

    def test_blackholes_at_given_times(self) -> None:
        link = LinkModel(LinkOptions(blackholes=((1.0, 2.0), (4.0, 5.0))))
        self.assertEqual(
            [now for now in range(8) if link.offer(float(now), b"x")], [0, 2, 3, 5, 6, 7]
        )
        self.assertEqual(link.counters.lost, 2)

    def test_blackholes_that_repeat(self) -> None:
        link = LinkModel(LinkOptions(blackholes=Outages(every=4, length=2, first=1)))
        passed = [now for now in range(10) if link.offer(float(now), b"x")]
        self.assertEqual(passed, [0, 3, 4, 7, 8])


class ChangeTests(unittest.TestCase):
    def test_options_may_change_under_way(self) -> None:
        link = LinkModel(LinkOptions(delay=1.0))
        self.assertEqual(link.offer(0.0, b"x")[0][0], 1.0)
        link.options = replace(link.options, delay=0.1)
        self.assertEqual(link.offer(0.0, b"x")[0][0], 0.1)
        link.options = LinkOptions(loss=1.0)
        self.assertEqual(link.offer(0.0, b"x"), [])
        self.assertEqual(link.counters.offered, 3)

    def test_what_waits_keeps_the_line_busy(self) -> None:
        link = LinkModel(LinkOptions(rate=8000, overhead=0, queue=10))
        link.offer(0.0, bytes(1000))
        link.options = replace(link.options, rate=80_000)
        self.assertAlmostEqual(link.offer(0.0, bytes(1000))[0][0], 1.1)
        link.options = replace(link.options, rate=None)
        self.assertEqual(link.offer(0.0, bytes(1000))[0][0], 0.0)

    def test_a_new_seed_starts_the_sequence_again(self) -> None:
        chosen = LinkOptions(loss=0.5, seed=5)
        one, other = LinkModel(chosen), LinkModel(replace(chosen, seed=6))
        other.options = chosen
        fates = [[bool(link.offer(0, b"x")) for _ in range(64)] for link in (one, other)]
        self.assertEqual(fates[0], fates[1])

    def test_other_changes_do_not(self) -> None:
        chosen = LinkOptions(loss=0.5, seed=5)
        one, other = LinkModel(chosen), LinkModel(chosen)
        fates = []
        for link in (one, other):
            fates.append([bool(link.offer(0, b"x")) for _ in range(32)])
            other.options = replace(chosen, delay=1.0)
            fates[-1] += [bool(link.offer(0, b"x")) for _ in range(32)]
        self.assertEqual(fates[0], fates[1])

    def test_a_generator_may_be_given(self) -> None:
        chosen = LinkOptions(loss=0.5)
        fates = [
            [bool(link.offer(0, b"x")) for _ in range(64)]
            for link in (LinkModel(chosen, Random("a")), LinkModel(chosen, Random("a")))
        ]
        self.assertEqual(fates[0], fates[1])
        link = LinkModel(chosen, Random("b"))
        self.assertNotEqual(fates[0], [bool(link.offer(0, b"x")) for _ in range(64)])


class RefusalTests(unittest.TestCase):
    def test_what_cannot_be(self) -> None:
        for wrong in (
            {"loss": -0.1},
            {"corrupt": 1.1},
            {"rate": 0},
            {"delay": -1},
            {"jitter": -1},
            {"queue": -1},
            {"reorder_delay": -1},
            {"burst_length": 0.5},
            {"burst_loss": 0.9, "burst_length": 4},
        ):
            with self.subTest(wrong), self.assertRaises(ValueError):
                LinkOptions(**wrong)  # type: ignore[arg-type]
        for every, length in ((1, 0), (1, 1), (1, 2)):
            with self.subTest(every), self.assertRaises(ValueError):
                Outages(every, length)
