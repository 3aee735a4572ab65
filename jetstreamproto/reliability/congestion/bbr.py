"""BBR: sends at the path's measured rate, whatever it loses, and keeps its queue short.

After Cardwell et al., "BBR: Congestion-Based Congestion Control" (ACM Queue, 2016) and
draft-ietf-ccwg-bbr. What differs:

- The rate at which the first burst arrives lets STARTUP jump close to the path's rate.
- Packets that are lost at random (`random_loss`) are sent on top, so that they cost no more than
  themselves.
- Where a queue overflows, or someone else keeps it filled, the window is that of a CUBIC flow
  (`ceiling`), so that others get their share, and BBR gets its own.
"""

from __future__ import annotations

from jetstreamproto.reliability.congestion.base import (
    INITIAL_WINDOW_PACKETS,
    MIN_WINDOW_PACKETS,
    AckSample,
    LossSample,
)
from jetstreamproto.reliability.congestion.ceiling import Ceiling
from jetstreamproto.reliability.congestion.max_rate import MaxRate
from jetstreamproto.reliability.congestion.min_rtt import TINY_RTT, MinRtt
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
_PACING_GAINS = (_STARTUP_GAIN, 0.5, 0.75, 1.0, 1.25, 1.0, 1.0)
_WINDOW_GAIN, _PROBE_RTT_WINDOW_GAIN = 2.0, 0.5
_AGGREGATED_PACKETS, _AGGREGATED_TIME = 20, 0.003  # for acknowledgements that come in bunches
_DRAINED_PACKETS = 10
"""More than the path holds by so much still counts as drained: pacing sends small bursts."""

_JUMP = 16
"""How many times the initial window may be under way on the word of the first burst alone."""
_JUMP_MARGIN = 1.25
_CONFIRMED = 0.85
_MOST_HINT_ROUNDS = 4
_FULL_GROWTH, _FULL_ROUNDS = 1.25, 3

_CRUISE_ROUNDS, _HOLD_ROUNDS = 6, 2
_MOST_DOWN_ROUNDS, _MOST_DRAIN_ROUNDS = 4, 10
_PROBE_GROWTH = 1.12
"""By how much the rate must rise for a probe to have found room."""
_RESTART_PROBES = 2  # such in a row lead back to STARTUP: there is much more room

_QUEUED, _QUEUED_TIME, _QUEUED_PACKETS = 1.05, 0.001, 2
_CROWDED, _CROWDED_TIME, _CROWDED_CYCLES = 1.1, 0.002, 2
"""Round trips that stay so long for so many cycles, though BBR drains its own part of the queue
in each of them, are the work of others."""
_COMPETING_PACING, _LEAST_CEILING = 1.2, 0.7

_PROBE_RTT_TIME, _PROBE_RTT_ROUNDS = 0.2, 2
_TINY_RTT_WINDOW = 256 << 10


_MUCH_LOST = 0.15
"""Part of a round that is lost if STARTUP overflows a queue, also one that is empty at times."""


class Bbr:
    """Models the path by its rate and its least round trip. Bytes, seconds, bytes per second.

    `max_datagram` may be changed when the path's MTU becomes known.
    """

    __slots__ = (
        "_bdp",
        "_ceiling",
        "_crowded",
        "_cycle_limited",
        "_cycle_lost",
        "_cycle_low",
        "_cycle_total",
        "_full",
        "_full_rounds",
        "_hint",
        "_hint_rounds",
        "_max_rate",
        "_min_rtt",
        "_overflow_at",
        "_peak",
        "_probe_mark",
        "_probes_up",
        "_random_loss",
        "_rate",
        "_rate_mark",
        "_round_end",
        "_round_lost",
        "_round_low",
        "_round_peak",
        "_round_rate",
        "_round_total",
        "_state",
        "_state_at",
        "_state_rounds",
        "max_datagram",
        "pacing_rate",
        "window",
    )

    def __init__(self, max_datagram: int) -> None:
        self.max_datagram = max_datagram
        self.window = INITIAL_WINDOW_PACKETS * max_datagram
        self.pacing_rate = float("inf")
        # the model of the path
        self._rate = 0.0  # the highest delivery rate lately, this round included
        self._max_rate = MaxRate()
        self._min_rtt = MinRtt()
        self._bdp = 0.0  # rate times least round trip, with what is lost at random on top
        self._random_loss = RandomLoss()
        self._ceiling = Ceiling()
        self._overflow_at = -float("inf")  # losses of packets sent before that are no news
        # this round trip
        self._round_end = 0
        self._round_rate = 0.0
        self._round_low = float("inf")
        self._round_lost = self._round_total = 0
        self._round_peak = self._peak = 0  # most bytes in flight, and in the round before
        # the cycle of CRUISE, UP, HOLD and DOWN
        self._cycle_low = float("inf")
        self._cycle_lost = self._cycle_total = 0
        self._cycle_limited = False  # by the application
        self._crowded = 0  # cycles in a row in which others filled the queue
        self._probe_mark = 0.0  # the rate before UP
        self._probes_up = 0  # probes in a row that found room
        # the state
        self._state = STARTUP
        self._state_at = 0.0
        self._state_rounds = 0
        self._full = False  # whether STARTUP is over
        self._full_rounds = 0
        self._rate_mark = 0.0
        self._hint = 0.0  # the rate at which the first burst arrived
        self._hint_rounds = 0

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
        size = sample.lost
        self._round_total += size
        self._cycle_lost += size
        if sample.sent_at > self._overflow_at:
            self._round_lost += size
        self._random_loss.lost(size, sample.sent_at)

    def acked(self, sample: AckSample) -> None:
        now, rtt, rate = sample.now, sample.rtt, sample.rate
        self._round_total += sample.acked
        if rtt is not None:
            if rtt < self._round_low:
                self._round_low = rtt
                self._min_rtt.measured(now, rtt)
            if self._random_loss.acked(sample.acked, now - rtt):
                self._random_loss.settle(self.max_datagram)
        if sample.app_limited:
            self._cycle_limited = True
        if (
            rate is not None
            and rate > self._round_rate
            and (not sample.app_limited or rate > self._rate)
        ):
            self._round_rate = rate
            if rate > self._rate:
                self._rate = rate
        if sample.train_rate is not None and self._state == STARTUP:
            self._hinted(sample.train_rate)
        if sample.prior_delivered >= self._round_end:
            self._round_ended(sample)
        self._step(now, sample.in_flight)
        self._control(sample.smoothed_rtt)

    def collapsed(self, now: float) -> None:
        self.window = MIN_WINDOW_PACKETS * self.max_datagram
        self._ceiling.lift()
        self._crowded = 0

    # --- rounds -------------------------------------------------------------------------

    def _round_ended(self, sample: AckSample) -> None:
        now = sample.now
        self._round_end = sample.delivered
        self._state_rounds += 1
        self._peak = max(self._round_peak, sample.in_flight)
        low = self._round_low
        self._cycle_low = min(self._cycle_low, low)
        self._cycle_total += self._round_total
        if low < float("inf"):
            self._ceiling.raised(now, low)
        margin = _QUEUED_TIME + self._time_of(_QUEUED_PACKETS)
        queued = float("inf") > low > _QUEUED * self._min_rtt.value + margin
        overflow = queued and self._random_loss.excess(
            self._round_lost, self._round_total, self.max_datagram
        )
        if overflow:
            self._overflowed(now)
        if self._state == STARTUP:
            self._startup_round(sample, queued, overflow)
        elif self._state == HOLD and self._state_rounds >= _HOLD_ROUNDS:
            self._probed(now, queued)
        if self._state != PROBE_RTT and self._min_rtt.expired(now):
            self._enter(PROBE_RTT, now)
        if self._round_rate > 0:
            self._max_rate.measured(now, self._round_rate, self._min_rtt.value)
            self._rate = self._max_rate.best
        self._round_rate = 0.0
        self._round_low = float("inf")
        self._round_lost = self._round_total = 0
        self._round_peak = sample.in_flight

    def _time_of(self, packets: int) -> float:
        """Seconds in which so many packets pass the path."""
        return packets * self.max_datagram / self._rate if self._rate else 0.0

    def _overflowed(self, now: float) -> None:
        """More was lost than at random: the queue is too short for what was in flight."""
        datagram = self.max_datagram
        # The rate falls by itself if less gets through. Until then this bounds the harm of losses
        # that were none of ours, and of a small amount under way.
        least = max(_LEAST_CEILING * self._bdp, MIN_WINDOW_PACKETS * datagram)
        self._ceiling.overflowed(now, max(self._peak, self._bdp), least, datagram)
        self._overflow_at = now
        if self._state in (UP, HOLD):
            self._probes_up = 0
            self._enter(DOWN, now)

    # --- STARTUP ------------------------------------------------------------------------

    def _hinted(self, rate: float) -> None:
        """The first burst came out at `rate`, if that can be trusted."""
        if self._hint:
            self._hint = min(rate, self._hint)
        else:
            self._hint, self._hint_rounds = rate, 0
            self._random_loss.quiet(-float("inf"))  # no queue grows by what has been sent

    def _startup_round(self, sample: AckSample, queued: bool, overflow: bool) -> None:
        now = sample.now
        if self._hint:
            self._hint_rounds += 1
            total = self._round_total
            arrived = 1.0 if queued or not total else 1 - self._round_lost / total
            if self._rate >= _CONFIRMED * self._hint * arrived:
                self._filled(now, UP, queued)
                return
            if self._hint_rounds > _MOST_HINT_ROUNDS:
                self._hint = 0.0
                self._random_loss.discard()
        if overflow:
            self._full_rounds = _FULL_ROUNDS
        elif self._rate >= _FULL_GROWTH * self._rate_mark:
            self._rate_mark = self._rate
            self._full_rounds = 0
        elif not sample.app_limited or self._round_lost > _MUCH_LOST * self._round_total:
            self._full_rounds += 1
        if self._full_rounds >= _FULL_ROUNDS:
            self._filled(now, DRAIN, queued)

    def _filled(self, now: float, state: int, queued: bool) -> None:
        """The path is full; go to `state`."""
        self._full = True
        if self._hint and queued:
            self._random_loss.discard()
        self._hint = 0.0
        self._enter(state, now)

    # --- PROBE_BW and PROBE_RTT -----------------------------------------------------------

    def _step(self, now: float, in_flight: int) -> None:
        """Go to the next state if it is time."""
        state, rounds = self._state, self._state_rounds
        if state == CRUISE:
            if rounds >= _CRUISE_ROUNDS:
                self._cycle_ended(now)
                # There is nothing to probe for where the queue is always filled.
                self._enter(DOWN if self._competing else UP, now)
        elif state == UP:
            if now - self._state_at > self._min_rtt.value:
                self._enter(HOLD, now)
        elif state in (DOWN, DRAIN):
            most = _MOST_DOWN_ROUNDS if state == DOWN else _MOST_DRAIN_ROUNDS
            drained = in_flight <= self._bdp + _DRAINED_PACKETS * self.max_datagram
            if drained or rounds >= most:
                self._enter(CRUISE, now)
        elif (
            state == PROBE_RTT
            and rounds >= _PROBE_RTT_ROUNDS
            and now >= self._state_at + _PROBE_RTT_TIME
        ):
            self._min_rtt.renew(now)
            self._enter(CRUISE if self._full else STARTUP, now)

    def _probed(self, now: float, queued: bool) -> None:
        """What came of sending faster is known."""
        if self._rate < _PROBE_GROWTH * self._probe_mark:
            self._probes_up = 0
            self._enter(DOWN, now)
            return
        self._probes_up += 1
        alone = not queued and self._ceiling.limit == float("inf")
        if self._probes_up >= _RESTART_PROBES and alone:
            self._probes_up = 0
            self._full, self._full_rounds, self._rate_mark = False, 0, self._rate
            self._enter(STARTUP, now)
        else:
            self._enter(UP, now)

    @property
    def _competing(self) -> bool:
        """Whether other flows keep the queue filled."""
        return self._crowded >= _CROWDED_CYCLES

    def _cycle_ended(self, now: float) -> None:
        if self._cycle_total:
            self._random_loss.bounded(self._cycle_lost / self._cycle_total)
        margin = _CROWDED_TIME + self._time_of(_AGGREGATED_PACKETS)
        # Few packets are acknowledged late, which looks like a queue.
        if not self._cycle_limited and self._cycle_low > _CROWDED * self._min_rtt.value + margin:
            self._crowded += 1
            if self._competing and self._ceiling.limit == float("inf"):
                self._ceiling.begin(now, max(self._peak, self._bdp), self.max_datagram)
        else:
            self._crowded = 0
        self._cycle_low = float("inf")
        self._cycle_lost = self._cycle_total = 0
        self._cycle_limited = False

    def _enter(self, state: int, now: float) -> None:
        self._state, self._state_at, self._state_rounds = state, now, 0
        if state == UP:
            self._probe_mark = self._rate
        if state in (DOWN, DRAIN):
            self._random_loss.quiet(now)
        else:
            self._random_loss.loud(now)

    # --- what follows from it -------------------------------------------------------------

    def _control(self, smoothed_rtt: float) -> None:
        """Set the window and the pacing rate from the model."""
        min_rtt, state, datagram = self._min_rtt.value, self._state, self.max_datagram
        if min_rtt == float("inf"):
            return
        rate = self._rate / (1 - self._random_loss.share)
        self._bdp = bdp = rate * min_rtt
        if state == STARTUP:
            self._control_startup(rate)
            return
        # What is lost at random is not made up for while a queue drains: if it was overflow after
        # all, the estimate would keep the queue full, and so be confirmed.
        draining = state in (DOWN, DRAIN)
        pacing = _PACING_GAINS[state] * (self._rate if draining else rate)
        limit = self._ceiling.limit
        target = _WINDOW_GAIN * bdp + _AGGREGATED_PACKETS * datagram + _AGGREGATED_TIME * rate
        if state == PROBE_RTT:
            target = _PROBE_RTT_WINDOW_GAIN * bdp
        elif limit < float("inf"):
            if state == CRUISE and self._crowded >= _CROWDED_CYCLES:
                target = limit
                if smoothed_rtt > 0:
                    pacing = max(pacing, _COMPETING_PACING * limit / smoothed_rtt)
            elif limit < target:
                target = limit
            elif limit > 2 * target and not self._crowded:
                self._ceiling.lift()
        least = MIN_WINDOW_PACKETS * datagram
        if min_rtt < TINY_RTT and least < _TINY_RTT_WINDOW:
            least = _TINY_RTT_WINDOW
        self.pacing_rate = max(pacing, float(datagram))  # a packet a second at the least
        self.window = int(target if target > least else least)

    def _control_startup(self, rate: float) -> None:
        min_rtt, datagram = self._min_rtt.value, self.max_datagram
        initial = INITIAL_WINDOW_PACKETS * datagram
        target = _WINDOW_GAIN * self._bdp + _AGGREGATED_PACKETS * datagram
        if self._hint:
            # Even a good hint is followed no faster than STARTUP doubles: it may be far too high.
            most = max(_JUMP * initial, _STARTUP_GAIN * self._bdp)
            hinted = _JUMP_MARGIN * self._hint * min_rtt + _DRAINED_PACKETS * datagram
            target = max(target, min(most, hinted))
            self.pacing_rate = max(rate, min(self._hint, most / min_rtt))
        else:
            self.pacing_rate = _STARTUP_GAIN * max(rate, initial / min_rtt)
        self.window = max(self.window, int(target))
