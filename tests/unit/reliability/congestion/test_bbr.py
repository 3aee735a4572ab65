"""BBR on the model of a bottleneck. Goodputs are Mbit/s of payload: 95 of 100 on the wire."""

from __future__ import annotations

import unittest
from statistics import mean
from typing import Any

from jetstreamproto.reliability.congestion.base import AckSample, Congestion
from jetstreamproto.reliability.congestion.bbr import Bbr
from jetstreamproto.reliability.congestion.cubic import Cubic
from tests.unit.reliability.congestion.bottleneck import (
    DATAGRAM,
    Bottleneck,
    Clock,
    Flow,
    compete,
    mbit,
    transfer,
)
from tests.unit.reliability.congestion.samples import SIZE, Rounds

SIZE_30_MB = 30_000_000
SEEDS = range(1, 6)


def link(rate: float = 100, rtt: float = 0.05, queue: float = 1.0, **options: Any) -> Bottleneck:
    """`rate` in Mbit/s, `queue` in products of rate and round trip."""
    speed = mbit(rate)
    return Bottleneck(speed, rtt / 2, queue * speed * rtt, **options)


class Misled(Bbr):
    """Is told a wrong rate by the first burst."""

    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        super().__init__(DATAGRAM)
        self.factor = factor

    def acked(self, sample: AckSample) -> None:
        if sample.train_rate:
            sample.train_rate *= self.factor
        super().acked(sample)


class TransferTests(unittest.TestCase):
    """30 MB, start-up and tail included."""

    def check(
        self, least: float, average: float = 0.0, most_dropped: float = 1.0, **options: Any
    ) -> None:
        """Every seed reaches `least`, all together `average`, and few packets overflow a queue."""
        goodputs = []
        for seed in SEEDS:
            with self.subTest(seed=seed, **options):
                path = link(seed=seed, **options)
                goodput, flow = transfer(Bbr(DATAGRAM), path, SIZE_30_MB)
                self.assertGreaterEqual(goodput, least)
                self.assertLessEqual(path.dropped / flow.sent_packets, most_dropped)
                goodputs.append(goodput)
        self.assertGreaterEqual(mean(goodputs), average, options)

    def test_no_loss(self) -> None:
        self.check(91, most_dropped=0.0)

    def test_random_loss(self) -> None:
        self.check(86, 88, loss=0.02)
        self.check(84, 87, loss=0.05)
        self.check(75, 80, loss=0.1)

    def test_random_loss_behind_the_queue(self) -> None:
        """What is lost there has used the link: 85.6 is what remains at 10%."""
        self.check(66, 72, loss=0.1, loses_first=False)

    def test_a_third_lost(self) -> None:
        self.check(40, 55, loss=0.3)

    def test_far_away(self) -> None:
        self.check(38, 39.5, rate=50, rtt=0.2, loss=0.05)

    def test_bursts_of_losses(self) -> None:
        self.check(74, 82, loss=0.02, burst=4)
        self.check(70, 80, loss=0.05, burst=10)

    def test_shallow_queues(self) -> None:
        self.check(80, most_dropped=0.05, queue=0.05)
        self.check(80, most_dropped=0.04, queue=0.1)
        self.check(75, most_dropped=0.04, queue=0.1, loss=0.02)

    def test_jitter_and_reordering(self) -> None:
        self.check(80, jitter=0.005, most_dropped=0.03)
        self.check(78, jitter=0.005, loss=0.02, most_dropped=0.03)

    def test_acknowledgements_in_bunches_or_lost(self) -> None:
        self.check(85, slot=0.01)
        self.check(70, slot=0.03, loss=0.02)
        self.check(85, ack_loss=0.5)

    def test_wrong_first_impressions(self) -> None:
        for factor, loss, least in (
            (10, 0.0, 85),
            (10, 0.02, 75),
            (0.1, 0.0, 70),
            (0.1, 0.02, 60),
        ):
            for seed in SEEDS:
                with self.subTest(factor=factor, loss=loss, seed=seed):
                    path = link(seed=seed, loss=loss)
                    goodput, flow = transfer(Misled(factor), path, SIZE_30_MB)
                    self.assertGreaterEqual(goodput, least)
                    self.assertLess(path.dropped / flow.sent_packets, 0.06)


class QueueTests(unittest.TestCase):
    def run_flow(self, path: Bottleneck, seconds: float) -> tuple[Flow, list[float]]:
        """What it delivers in each second, in Mbit/s."""
        clock = Clock()
        flow = Flow(clock, path, Bbr(DATAGRAM), log_every=0.05)
        rates, before = [], 0
        for second in range(int(seconds)):
            clock.run(second + 1.0)
            rates.append((flow.payload_delivered - before) * 8 / 1e6)
            before = flow.payload_delivered
        return flow, rates

    def test_starts_within_three_round_trips(self) -> None:
        clock, path = Clock(), link()
        flow = Flow(clock, path, Bbr(DATAGRAM))
        clock.run(0.2)
        before = flow.payload_delivered
        clock.run(0.5)
        self.assertGreater((flow.payload_delivered - before) * 8 / 0.3 / 1e6, 88)

    def test_deep_queues_stay_short(self) -> None:
        for rate in (10.0, 100.0):
            with self.subTest(rate=rate):
                flow, rates = self.run_flow(link(rate, queue=80), 25)
                queues = sorted(row.queued / mbit(rate) for row in flow.rows)
                self.assertLess(queues[len(queues) // 2], 0.03)
                self.assertLess(queues[-1], 0.1)
                self.assertGreater(min(rates[1:]), 0.85 * rate)  # PROBE_RTT included

    def test_a_path_becomes_slower(self) -> None:
        path = link(changes=[(5.0, mbit(20))])
        flow, rates = self.run_flow(path, 15)
        self.assertGreater(min(rates[6:]), 17)
        late = [row.queued / mbit(20) for row in flow.rows if row.time > 9]
        self.assertLess(max(late), 0.06)

    def test_a_path_becomes_faster(self) -> None:
        path = link(20, queue=5, changes=[(5.0, mbit(100))])
        _, rates = self.run_flow(path, 15)
        self.assertGreater(min(rates[8:]), 85)

    def test_loopback_is_not_held_up_by_pacing(self) -> None:
        clock, path = Clock(), Bottleneck(400e6, 0.0002, 4e6)
        flow = Flow(clock, path, Bbr(DATAGRAM))
        clock.run(0.5)
        before = flow.payload_delivered
        clock.run(1.0)
        self.assertGreater((flow.payload_delivered - before) / 0.5, 300e6)
        self.assertGreaterEqual(flow.congestion.window, 256 << 10)

    def test_an_application_that_sends_little_now_and_then(self) -> None:
        """Its window does not shrink: what it sends at last goes at full speed."""
        clock, path = Clock(), link(seed=1, loss=0.01)
        supply = [(i * 0.1, 5) for i in range(150)] + [(15.0, 7000)]
        flow = Flow(clock, path, Bbr(DATAGRAM), supply)
        clock.run(14.9)
        self.assertLess(flow.smoothed_rtt, 0.06)
        clock.run(30.0, lambda: flow.arrived_at is not None)
        self.assertLess(clock.now - 15.0, 3.0)


class SharingTests(unittest.TestCase):
    """On 100 Mbit/s and 50 ms; the second flow starts as the first is under way, or before it."""

    def share(
        self,
        controls: list[Congestion],
        queue: float,
        starts: tuple[float, ...],
        span: tuple[float, float],
    ) -> list[float]:
        since, until = span
        return compete(controls, link(queue=queue), until, starts, since)[0]

    def test_cubic_keeps_a_third(self) -> None:
        for queue in (0.5, 1.0):
            theirs = []
            for starts in ((0.0, 1.0), (0.0, 5.0), (5.0, 0.0)):
                with self.subTest(queue=queue, starts=starts):
                    controls: list[Congestion] = [Bbr(DATAGRAM), Cubic(DATAGRAM)]
                    bbr, cubic = self.share(controls, queue, starts, (20, 80))
                    self.assertGreater(cubic, 25)
                    self.assertGreater(bbr, 25)
                    self.assertGreater(bbr + cubic, 90)
                    theirs.append(cubic)
            self.assertGreater(mean(theirs), 33, queue)

    def test_two_share_fairly_whoever_comes_later(self) -> None:
        for queue in (0.5, 2.0):
            for starts in ((0.0, 0.3), (0.0, 5.0)):
                with self.subTest(queue=queue, starts=starts):
                    controls: list[Congestion] = [Bbr(DATAGRAM), Bbr(DATAGRAM)]
                    one, other = self.share(controls, queue, starts, (15, 60))
                    jain = (one + other) ** 2 / (2 * (one**2 + other**2))
                    self.assertGreater(jain, 0.9)
                    self.assertGreater(one + other, 88)

    def test_four_share_and_none_starves(self) -> None:
        controls: list[Congestion] = [Bbr(DATAGRAM) for _ in range(4)]
        goodputs = self.share(controls, 1.0, (0.0, 0.3, 0.7, 5.0), (10, 40))
        self.assertGreater(min(goodputs), 8)
        self.assertGreater(sum(goodputs), 88)


class StateTests(unittest.TestCase):
    def test_starts_with_the_initial_window_unpaced(self) -> None:
        bbr = Bbr(SIZE)
        self.assertEqual((bbr.window, bbr.pacing_rate), (32 * SIZE, float("inf")))
        self.assertEqual(bbr.phase, "startup")

    def test_goes_through_its_phases(self) -> None:
        clock, path = Clock(), link()
        flow = Flow(clock, path, Bbr(DATAGRAM), log_every=0.01)
        clock.run(25)
        phases = {row.phase for row in flow.rows}
        self.assertEqual(
            phases,
            {
                "startup",
                "probe bandwidth: up",
                "probe bandwidth: hold",
                "probe bandwidth: down",
                "probe bandwidth: cruise",
                "probe round trip",
            },
        )

    def test_without_a_hint_the_window_doubles(self) -> None:
        bbr = Bbr(SIZE)
        rounds = Rounds(bbr)
        before = rounds.packets
        for _ in range(4):
            rounds.round()
            self.assertGreaterEqual(rounds.packets, 1.5 * before)
            before = rounds.packets

    def test_a_collapse_does_not_last(self) -> None:
        clock, path = Clock(), link()
        flow = Flow(clock, path, Bbr(DATAGRAM))
        clock.run(3.0)
        window = flow.congestion.window
        flow.congestion.collapsed(clock.now)
        self.assertEqual(flow.congestion.window, 4 * DATAGRAM)
        clock.run(3.5)
        self.assertGreater(flow.congestion.window, 0.8 * window)

    def test_the_packet_size_may_change(self) -> None:
        clock, path = Clock(), link()
        flow = Flow(clock, path, Bbr(1200))
        clock.run(1.0)
        flow.congestion.max_datagram = DATAGRAM
        clock.run(2.0)
        self.assertGreater(flow.payload_delivered * 8 / 2 / 1e6, 85)
