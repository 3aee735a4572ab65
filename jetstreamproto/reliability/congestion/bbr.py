"""BBR: sends at the path's measured rate, whatever it loses, and keeps its queue short.

After Cardwell et al., "BBR: Congestion-Based Congestion Control" (ACM Queue, 2016) and
draft-cardwell-iccrg-bbr, with the second version's response to overflowing queues. What is added:
the first burst's rate of arrival lets STARTUP jump close to the path's rate, and packets that are
lost at random are sent on top, so that they cost no more than themselves.
"""

from __future__ import annotations

from collections import deque

from jetstreamproto.reliability.congestion.base import (
    INITIAL_WINDOW_PACKETS,
    MIN_WINDOW_PACKETS,
    AckSample,
    LossSample,
)
from jetstreamproto.reliability.congestion.ceiling import Ceiling
from jetstreamproto.reliability.congestion.random_loss import RandomLoss

STARTUP, DRAIN, DOWN, CRUISE, UP, HOLD, PROBE_RTT = range(7)
_PHASES = (
    "startup",
    "drain",
    "probe bandwidth: down",
    "probe bandwidth: cruise",
    "probe bandwidth: up",
    "probe bandwidth: hold",
    "probe round trip",
)
_STARTUP_GAIN = 2.77
_DRAIN_GAIN = 0.5
_UP_GAIN, _DOWN_GAIN = 1.25, 0.75
_WINDOW_GAIN = 2.0
_JUMP = 16
"""How many times the initial window may be under way after the first round trip."""
_JUMP_MARGIN = 1.25
_CONFIRMED = 0.85
_FULL_GROWTH, _FULL_ROUNDS = 1.25, 3
_RATE_ROUNDS, _RATE_TIME = 9, 1.0
_QUEUED = 1.05
_CROWDED_CYCLES = 2
_CRUISE_ROUNDS = 6
_RTT_LIFETIME, _RTT_PROBE_TIME = 10.0, 0.2
_NEAR = 1.25
_MOST_SKIPPED = 1
_TINY_RTT, _TINY_WINDOW = 0.002, 256 << 10
_BETA = 0.7
_AGGREGATED_PACKETS = 20
_BURST_TIME = 0.003
_MOST_DOWN_ROUNDS = 4
_GROWTH = 1.12


class Bbr:
    """Models the path by its rate and its least round trip. Bytes, seconds, bytes per second.

    `max_datagram` may be changed when the path's MTU becomes known.
    """

    __slots__ = (
        "_bdp",
        "_ceiling",
        "_crowded",
        "_cycle_low",
        "_cycle_lost",
        "_cycle_total",
        "_drained_rtt",
        "_full",
        "_full_rounds",
        "_gain",
        "_hint",
        "_hint_rounds",
        "_last_hint",
        "_lost_at_random",
        "_min_rtt",
        "_min_rtt_at",
        "_overflow_at",
        "_past_rates",
        "_peak",
        "_probe_mark",
        "_rate",
        "_rate_mark",
        "_recent_rtt",
        "_round_end",
        "_round_high",
        "_round_lost",
        "_round_low",
        "_round_peak",
        "_round_rate",
        "_round_total",
        "_rounds",
        "_skipped",
        "_state",
        "_state_at",
        "_state_rounds",
        "_successes",
        "max_datagram",
        "pacing_rate",
        "window",
    )

    def __init__(self, max_datagram: int) -> None:
        self.max_datagram = max_datagram
        self.window = INITIAL_WINDOW_PACKETS * max_datagram
        self.pacing_rate = float("inf")
        self._lost_at_random = RandomLoss()
        self._rate = 0.0  # the highest delivery rate lately
        self._past_rates: deque[tuple[float, float]] = deque()
        self._bdp = 0.0
        self._min_rtt = float("inf")
        self._min_rtt_at = 0.0
        self._recent_rtt = float("inf")  # least since `_min_rtt_at`
        self._skipped = 0
        # this round trip
        self._rounds = 0
        self._round_end = 0
        self._round_rate = 0.0
        self._round_low, self._round_high = float("inf"), 0.0
        self._round_lost = self._round_total = 0
        self._round_peak = self._peak = 0
        # the state
        self._state = STARTUP
        self._state_at = 0.0
        self._state_rounds = 0
        self._gain = _STARTUP_GAIN
        self._full = False
        self._full_rounds = 0
        self._rate_mark = self._probe_mark = 0.0
        self._hint = 0.0
        self._last_hint = 0.0
        self._hint_rounds = 0
        self._ceiling = Ceiling()
        self._overflow_at = -float("inf")
        self._successes = 0
        self._crowded = 0
        self._cycle_low = float("inf")
        self._cycle_lost = self._cycle_total = 0
        self._drained_rtt = 0.0

    @property
    def phase(self) -> str:
        return _PHASES[self._state]

    # --- what happens -------------------------------------------------------------------

    def sent(self, now: float, size: int, in_flight: int) -> None:
        if in_flight > self._round_peak:
            self._round_peak = in_flight
        if in_flight == size and self._state in (UP, HOLD, DOWN):  # after an idle time
            self._enter(CRUISE, now)

    def lost(self, sample: LossSample) -> None:
        if sample.sent_at > self._overflow_at:
            self._round_lost += sample.lost
        self._round_total += sample.lost
        self._lost_at_random.lost(sample.lost, sample.sent_at)

    def acked(self, sample: AckSample) -> None:
        now, rtt, rate = sample.now, sample.rtt, sample.rate
        self._round_total += sample.acked
        if rtt is not None:
            if rtt < self._round_low:
                self._round_low = rtt
                if rtt < self._min_rtt:
                    self._min_rtt = rtt
                    self._min_rtt_at = now
                    self._recent_rtt = rtt
            if rtt > self._round_high:
                self._round_high = rtt
            if self._lost_at_random.acked(sample.acked, now - rtt):
                self._lost_at_random.settle(self.max_datagram)
        if (
            rate is not None
            and rate > self._round_rate
            and (not sample.app_limited or rate > self._rate)
        ):
            self._round_rate = rate
            if rate > self._rate:
                self._rate = rate
        if sample.train_rate is not None and self._state == STARTUP:
            self._train(sample.train_rate)
        if sample.prior_delivered >= self._round_end:
            self._round_ended(sample)
        self._step(now, sample)
        self._control(sample)

    def collapsed(self, now: float) -> None:
        self.window = MIN_WINDOW_PACKETS * self.max_datagram
        self._ceiling.lift()
        self._crowded = 0

    # --- rounds -------------------------------------------------------------------------

    def _round_ended(self, sample: AckSample) -> None:
        now = sample.now
        self._round_end = sample.delivered
        self._rounds += 1
        self._state_rounds += 1
        self._peak = max(self._round_peak, sample.in_flight)
        if self._round_low < self._recent_rtt:
            self._recent_rtt = self._round_low
        if self._round_low < self._cycle_low:
            self._cycle_low = self._round_low
        self._cycle_lost += self._round_lost
        self._cycle_total += self._round_total
        overflow = self._queued and self._lost_at_random.excess(
            self._round_lost, self._round_total, self.max_datagram
        )
        self._ceiling.raised(now, max(self._round_low, self._min_rtt) if self._round_low < float("inf") else self._min_rtt, self.max_datagram)
        if overflow:
            self._overflowed(now)
        if self._state == STARTUP:
            self._startup_round(sample, overflow)
        elif self._state == HOLD and self._state_rounds >= 2:
            self._probed(now)
        self._check_min_rtt(now)
        if self._round_rate > 0:
            self._remember_rate(now)
        self._round_rate = 0.0
        self._round_low, self._round_high = float("inf"), 0.0
        self._round_lost = self._round_total = 0
        self._round_peak = sample.in_flight

    def _remember_rate(self, now: float) -> None:
        """The highest rate of the last rounds counts; fewer of them if a queue makes them long."""
        rates = self._past_rates
        rates.append((now, self._round_rate))
        oldest = now - max(_RATE_TIME, 2 * _RATE_ROUNDS * self._min_rtt)
        while len(rates) > _RATE_ROUNDS or (len(rates) > 2 and rates[0][0] < oldest):
            rates.popleft()
        self._rate = max(rate for _, rate in rates)

    @property
    def _queued(self) -> bool:
        """Whether packets of this round waited in a queue for a good while."""
        return self._round_low > _QUEUED * self._min_rtt + 0.001

    def _overflowed(self, now: float) -> None:
        """More was lost than at random: the queue is too short for what was in flight."""
        datagram = self.max_datagram
        self._ceiling.overflowed(now, self._peak, MIN_WINDOW_PACKETS * datagram, datagram)
        self._overflow_at = now
        if self._state in (UP, HOLD):
            self._enter(DOWN, now)

    # --- STARTUP ------------------------------------------------------------------------

    def _train(self, rate: float) -> None:
        """The first burst came out at `rate`, if that can be trusted."""
        last, self._last_hint = self._last_hint, rate
        if not last:
            self._lost_at_random.quiet(-float("inf"))
        self._hint = min(rate, last) if last else rate
        self._hint_rounds = 0

    def _startup_round(self, sample: AckSample, overflow: bool) -> None:
        now = sample.now
        if self._hint:
            self._hint_rounds += 1
            arrived = 1.0 if self._queued else 1 - self._round_lost / self._round_total
            if self._rate >= _CONFIRMED * self._hint * arrived:
                self._filled(now)
                self._enter(UP, now)
                return
            if self._hint_rounds > 4:
                self._hint = 0.0
                self._lost_at_random.discard()
        if overflow:
            self._full_rounds = _FULL_ROUNDS
        elif self._rate >= _FULL_GROWTH * self._rate_mark:
            self._rate_mark = self._rate
            self._full_rounds = 0
        elif not sample.app_limited:
            self._full_rounds += 1
        if self._full_rounds >= _FULL_ROUNDS:
            self._filled(now)
            self._enter(DRAIN, now)

    def _filled(self, now: float) -> None:
        self._full = True
        if self._hint:
            self._hint = 0.0
            if self._queued:
                self._lost_at_random.discard()

    # --- PROBE_BW and PROBE_RTT -----------------------------------------------------------

    def _step(self, now: float, sample: AckSample) -> None:
        """Go to the next state if it is time."""
        state = self._state
        if state == CRUISE:
            if self._state_rounds >= _CRUISE_ROUNDS:
                self._cycle_ended(now)
                self._enter(DOWN if self._competing else UP, now)
        elif state == DOWN:
            if (
                sample.in_flight <= self._bdp + self._slack
                or self._state_rounds >= _MOST_DOWN_ROUNDS
            ):
                self._enter(CRUISE, now)
        elif state == UP:
            if now - self._state_at > self._min_rtt:
                self._enter(HOLD, now)
        elif state == DRAIN:
            if sample.in_flight <= self._bdp + self._slack:
                self._enter(CRUISE, now)
        elif (
            state == PROBE_RTT
            and self._state_rounds >= 2
            and now >= self._state_at + _RTT_PROBE_TIME
        ):
            self._min_rtt, self._min_rtt_at = self._recent_rtt, now
            self._enter(CRUISE if self._full else STARTUP, now)

    @property
    def _slack(self) -> float:
        return 10 * self.max_datagram

    def _probed(self, now: float) -> None:
        """What came of sending faster is known."""
        if self._rate >= _GROWTH * self._probe_mark:
            self._successes += 1
            if self._successes >= 2 and not self._queued:
                self._successes = 0
                self._full, self._full_rounds, self._rate_mark = False, 0, 0.0
                self._enter(STARTUP, now)
            else:
                self._enter(UP, now)
        else:
            self._successes = 0
            self._enter(DOWN, now)

    def _cycle_ended(self, now: float) -> None:
        if self._cycle_total:
            self._lost_at_random.bounded(self._cycle_lost / self._cycle_total)
        self._cycle_lost = self._cycle_total = 0
        burst = _AGGREGATED_PACKETS * self.max_datagram / self._rate if self._rate else 0.0
        if self._cycle_low > 1.1 * self._min_rtt + 0.002 + burst:
            self._crowded += 1
            if self._crowded >= _CROWDED_CYCLES and self._ceiling.limit == float("inf"):
                self._ceiling.begin(now, self._peak, self.max_datagram)
        else:
            self._crowded = 0
        self._cycle_low = float("inf")

    @property
    def _competing(self) -> bool:
        return self._crowded >= _CROWDED_CYCLES

    def _check_min_rtt(self, now: float) -> None:
        if now < self._min_rtt_at + _RTT_LIFETIME or self._state == PROBE_RTT:
            return
        near = self._recent_rtt <= _NEAR * self._min_rtt
        if near and (self._min_rtt < _TINY_RTT or self._skipped < _MOST_SKIPPED):
            self._skipped += 1
            self._min_rtt_at, self._recent_rtt = now, float("inf")
            return
        self._skipped = 0
        self._recent_rtt = float("inf")
        self._enter(PROBE_RTT, now)

    def _enter(self, state: int, now: float) -> None:
        self._state, self._state_at, self._state_rounds = state, now, 0
        if state == UP:
            self._probe_mark = self._rate
        gain = (_STARTUP_GAIN, _DRAIN_GAIN, _DOWN_GAIN, 1.0, _UP_GAIN, 1.0, 1.0)[state]
        self._gain = gain
        if state in (DOWN, DRAIN):
            self._lost_at_random.quiet(now)
        else:
            self._lost_at_random.loud(now)

    # --- what follows from it -------------------------------------------------------------

    def _control(self, sample: AckSample) -> None:
        """Set the window and the pacing rate from the model."""
        rate = self._rate / (1 - self._lost_at_random.share)
        rtt = self._min_rtt
        if rtt == float("inf"):
            return
        self._bdp = bdp = rate * rtt
        datagram = self.max_datagram
        if self._state == STARTUP:
            self._control_startup(sample, rate)
            return
        # What is lost at random is not made up for while a queue drains: if it was overflow after
        # all, the estimate would keep the queue full, and so be confirmed.
        quiet = self._state in (DOWN, DRAIN)
        self.pacing_rate = self._gain * (self._rate if quiet else rate)
        if self._crowded >= _CROWDED_CYCLES and self._state == CRUISE:
            self.window = int(self._ceiling.limit)
            if sample.smoothed_rtt > 0:
                self.pacing_rate = max(rate, 1.2 * self.window / sample.smoothed_rtt)
            return
        if self._state == PROBE_RTT:
            target = 0.5 * bdp
        else:
            target = _WINDOW_GAIN * bdp + _AGGREGATED_PACKETS * datagram + _BURST_TIME * rate
            ceiling = self._ceiling
            if ceiling.limit < float("inf"):
                if ceiling.limit > 2 * target and not self._crowded:
                    ceiling.lift()
                elif target > ceiling.limit:
                    target = ceiling.limit
        least = MIN_WINDOW_PACKETS * datagram
        if rtt < _TINY_RTT and least < _TINY_WINDOW:
            least = _TINY_WINDOW
        self.window = int(target if target > least else least)

    def _control_startup(self, sample: AckSample, rate: float) -> None:
        rtt, datagram = self._min_rtt, self.max_datagram
        initial = INITIAL_WINDOW_PACKETS * datagram
        target = _WINDOW_GAIN * self._bdp + _AGGREGATED_PACKETS * datagram
        if self._hint:
            most = max(_JUMP * initial, _STARTUP_GAIN * self._bdp)
            target = max(target, min(most, _JUMP_MARGIN * self._hint * rtt + 10 * datagram))
            pacing = max(rate, min(self._hint, most / rtt))
        else:
            pacing = _STARTUP_GAIN * max(rate, initial / rtt)
        self.pacing_rate = pacing
        self.window = max(self.window, int(target))
