"""How many repairs a path needs, and how to lay them out."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, comb, inf
from typing import NamedTuple

from jetstreamproto.reliability.fec.codes import SHARES

MAX_WINDOW = 32
"""Symbols that an adaptive plan covers at most: more would save little and cost time."""
_HOLD = 0.9
"""Part of the delay budget after which repairs wait for no more symbols."""
_PATIENCE = 4
"""Delay budgets over which repairs cover a symbol."""


class FecPlan(NamedTuple):
    """After every `every` symbols send `repairs` repairs over the last `window`, in code `k`.

    Symbols wait for their repairs for `hold` seconds at most; those older than `reach` seconds
    are not covered any more. Nothing is sent if `repairs` is 0.
    """

    every: int
    window: int
    repairs: int
    k: int
    hold: float
    reach: float = inf

    @property
    def slides(self) -> bool:
        """Whether windows overlap."""
        return self.every < self.window

    @property
    def overhead(self) -> float:
        """Repairs per symbol while symbols follow each other closely."""
        return self.repairs / self.every


NO_FEC = FecPlan(1, 1, 0, 1, 0.0)


def group_plan(k: int, r: int, hold: float) -> FecPlan:
    """Groups of `k` symbols with `r` repairs each."""
    return FecPlan(k, k, r, k, hold)


@lru_cache(1024)
def parity_needed(k: int, loss: float, residual: float) -> int:
    """The fewest repairs r with which a group of `k` fails with probability `residual` at most.

    Loss is independent: the least r with P[Bin(k + r, loss) > r] <= residual, no more than the
    code has.
    """
    if loss <= 0:
        return 0
    most = SHARES - k
    for r in range(most):
        n = k + r
        survives = sum(comb(n, i) * loss**i * (1 - loss) ** (n - i) for i in range(r + 1))
        if 1 - survives <= residual:
            return r
    return most


def sliding_plan(
    interval: float, budget: float, loss: float, residual: float, overhead: float
) -> FecPlan:
    """Repairs over overlapping windows, for symbols every `interval` seconds.

    `budget` is how long a repair may come after what it repairs, in seconds; `loss` is at most
    expected; `residual` what may stay lost; `overhead` the most repairs a symbol, except that a
    symbol which nothing follows in time is always sent twice.
    """
    if loss <= 0 or budget <= 0:
        return NO_FEC
    hold = _HOLD * budget
    within = min(_symbols(budget, interval), MAX_WINDOW)
    r = max(parity_needed(within, loss, residual), 1)
    every = max(ceil(1 / overhead), within // r)
    every = min(every, within, _symbols(hold, interval))
    # what the first repair cannot restore a later one may, still sooner than a retransmission
    window = min(_PATIENCE * within, MAX_WINDOW)
    return FecPlan(every, window, 1, window, hold, _PATIENCE * budget)


def _symbols(seconds: float, interval: float) -> int:
    """How many symbols there are from one to the last that is `seconds` later at most."""
    if seconds >= interval * MAX_WINDOW:
        return MAX_WINDOW
    return int(seconds / interval) + 1
