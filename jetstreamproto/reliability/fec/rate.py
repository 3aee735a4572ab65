"""How much FEC a path needs: from what it was seen to lose, and what FEC was seen to repair."""

from __future__ import annotations

from math import ceil, exp, sqrt

from jetstreamproto.reliability.fec.plans import NO_FEC, FecPlan, group_plan, sliding_plan
from jetstreamproto.reliability.fec.settings import FIXED, OFF, FecSettings
from jetstreamproto.reliability.rtt import INITIAL_RTT

_DEVIATIONS = 2.0
_PRIOR_SENT, _PRIOR_LOST = 200.0, 4.0
"""Before anything is measured: 2% of loss, 5% at most."""
_MEMORY = 1000.0
"""Packets after which a measurement counts for 1/e."""
_BLOCK = 128
"""Packets over which one sample of the loss is taken: fewer say too little about its changes."""
_SMOOTHING = 0.125
_CHANCE = 1.75
"""Blocks whose loss varies so many times as much as independent losses do are no coincidence."""
_CLEAN = 1000
"""So many packets without a loss: the path loses nothing."""
_MAX_LOSS = 0.5
_LOSS_STEP = 1e-3
"""Bounds are rounded up to a multiple of this, so that few different plans are computed."""

_GAP_SMOOTHING = 1 / 16
_PAUSE, _LEAST_PAUSE = 4.0, 0.001
"""A gap so many times the mean, or so many seconds, says no more about the next than that."""
_FIRST_GAP = 0.01

_SHORT_RTT = 0.02
_REACTION = 0.002
"""Seconds that timers and decoding take."""
_ACK_DELAY = 0.025

_QUEUE_PART, _QUEUE_LEAST = 0.25, 0.005
"""A round trip longer than the least one by this part, and by these seconds, waited in a queue."""

_GOVERNED = 1000
"""Repairs after which their use is judged."""
_LEAST_USE = 0.004
"""Symbols that a repair must have restored on average."""
_MOST_CUTS = 5
_SECOND_CHANCE = 2000
"""Symbols after which a cut is taken back, to see whether repairs have become useful."""


class LossBound:
    """What part of its packets a path loses at most, as far as is known.

    The bound is the mean plus two deviations: of the estimate itself (Wilson's interval, which
    holds for few packets, too), and of the loss between blocks beyond what chance explains.
    """

    __slots__ = ("_block_lost", "_block_sent", "_clean", "_excess", "_lost", "_sent")

    def __init__(self) -> None:
        self._sent, self._lost = _PRIOR_SENT, _PRIOR_LOST  # both fading
        self._clean = 0  # packets since the last loss
        self._excess = 0.0  # variance between blocks beyond that of independent losses
        self._block_sent = self._block_lost = 0

    def measured(self, sent: int, lost: int) -> None:
        """Of `sent` packets `lost` did not come, for another reason than a full queue."""
        if sent <= 0:
            return
        lost = min(lost, sent)
        fade = exp(-sent / _MEMORY)
        # as if spread over the round: the older part has faded already
        weight = _MEMORY * (1 - fade) / sent
        self._sent = self._sent * fade + sent * weight
        self._lost = self._lost * fade + lost * weight
        self._clean = 0 if lost else self._clean + sent
        self._block_sent += sent
        self._block_lost += lost
        if self._block_sent >= _BLOCK:
            self._block_measured()

    def _block_measured(self) -> None:
        n, mean = self._block_sent, self.mean
        deviation = self._block_lost / n - mean
        by_chance = _CHANCE * mean * (1 - mean) / n
        self._excess += _SMOOTHING * (deviation * deviation - by_chance - self._excess)
        self._block_sent = self._block_lost = 0

    @property
    def mean(self) -> float:
        return self._lost / self._sent

    @property
    def upper(self) -> float:
        """The bound; 0 after a long time without a loss."""
        if self._clean >= _CLEAN:
            return 0.0
        z, n, lost = _DEVIATIONS, self._sent, self._lost
        root = sqrt(lost * (n - lost) / n + z * z / 4)
        upper = (lost + z * z / 2 + z * root) / (n + z * z)
        own = upper - self.mean
        changes = max(self._excess, 0.0)
        return min(self.mean + sqrt(own * own + z * z * changes), _MAX_LOSS)


class FecRate:
    """Makes plans for a sender from its measurements. Times are seconds."""

    __slots__ = (
        "_cuts",
        "_gap",
        "_jitter",
        "_judged_recovered",
        "_judged_repairs",
        "_last_added",
        "_rtt",
        "_since_cut",
        "loss",
        "settings",
    )

    def __init__(self, settings: FecSettings, rtt: float = INITIAL_RTT, jitter: float = 0) -> None:
        self.settings = settings
        self.loss = LossBound()
        self._gap = _FIRST_GAP
        self._last_added: float | None = None
        self._rtt, self._jitter = rtt, jitter
        self._cuts = 0
        self._since_cut = 0  # symbols
        self._judged_recovered = self._judged_repairs = 0

    @property
    def interval(self) -> float:
        """The mean time between two symbols."""
        return self._gap

    def symbol_added(self, now: float) -> None:
        """A symbol is sent."""
        last, self._last_added = self._last_added, now
        if last is not None:
            mean = self._gap
            gap = min(now - last, max(_PAUSE * mean, _LEAST_PAUSE))
            self._gap = mean + (gap - mean) * _GAP_SMOOTHING
        if self._cuts:
            self._since_cut += 1
            if self._since_cut >= _SECOND_CHANCE:
                self._since_cut = 0
                self._cuts -= 1

    def round_ended(self, sent: int, lost: int, rtt: float, jitter: float) -> None:
        """In a round trip `lost` of `sent` packets were lost, not counting congestion's losses.

        `rtt` and `jitter` are the smoothed round trip time and its mean deviation.
        """
        self._rtt, self._jitter = rtt, jitter
        self.loss.measured(sent, lost)

    def repairs_used(self, sent: int, recovered: int) -> None:
        """So many repairs were sent, and symbols restored by the peer, since the last call."""
        self._judged_repairs += sent
        self._judged_recovered += recovered
        if self._judged_repairs < _GOVERNED:
            return
        if self._judged_recovered < _LEAST_USE * self._judged_repairs:
            self._cuts = min(self._cuts + 1, _MOST_CUTS)
            self._since_cut = 0
        elif self._cuts:
            self._cuts -= 1
        self._judged_recovered = self._judged_repairs = 0

    def budget(self, deadline: float) -> float:
        """How long after a symbol its repair may leave, to come before `deadline`."""
        return deadline - self._rtt / 2 - self._jitter - _REACTION

    def retransmission_fits(self, deadline: float) -> bool:
        """Whether what is lost can be noticed and sent again before `deadline`."""
        rtt, jitter = self._rtt, self._jitter
        if rtt < _SHORT_RTT and deadline >= 1.5 * rtt + _REACTION + _ACK_DELAY:
            return True
        # a loss shows by a later packet, or at the latest by the probe timeout
        notice = min(max(self._gap, rtt / 8), 4 * jitter + _ACK_DELAY)
        return deadline >= 1.5 * rtt + notice + 2 * jitter + _REACTION

    def plan(self, deadline: float | None) -> FecPlan:
        """What to do for messages that must arrive `deadline` seconds after they are sent.

        None: there is no hurry.
        """
        settings = self.settings
        if settings.mode == FIXED:
            return group_plan(settings.k, settings.r, settings.hold)
        if settings.mode == OFF or deadline is None or self.retransmission_fits(deadline):
            return NO_FEC
        loss = ceil(self.loss.upper / _LOSS_STEP) * _LOSS_STEP
        plan = self._sliding(deadline, loss)
        if self._cuts and plan.repairs:
            plan = self._cut(plan)
        if plan.overhead < settings.floor:
            plan = self._sliding(deadline, _LOSS_STEP)
            plan = plan._replace(every=min(plan.every, int(1 / settings.floor)))
        return plan

    def _sliding(self, deadline: float, loss: float) -> FecPlan:
        settings, budget = self.settings, self.budget(deadline)
        return sliding_plan(self._gap, budget, loss, settings.residual, settings.overhead)

    def _cut(self, plan: FecPlan) -> FecPlan:
        """Half the repairs for each cut; none if too few symbols come in time for that."""
        every = plan.every << self._cuts
        if every * self._gap > plan.hold or every > plan.window:
            return NO_FEC
        return plan._replace(every=every)


def random_losses(lost: int, rtt: float, least_rtt: float) -> int:
    """The losses of a round that no full queue explains: none while packets wait in a queue.

    `rtt` is of the round, `least_rtt` the path's, in seconds.
    """
    waited = rtt - least_rtt
    return 0 if waited > max(_QUEUE_PART * least_rtt, _QUEUE_LEAST) else lost
