"""Symbols over a path that loses, in virtual time: how many are missing at their deadline.

`python -m tests.unit.reliability.fec.traffic [SYMBOLS]` prints a table of plans.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from jetstreamproto.reliability.fec.decoder import FecDecoder
from jetstreamproto.reliability.fec.encoder import FecEncoder
from jetstreamproto.reliability.fec.plans import FecPlan

Lossy = Callable[[], bool]
_SYMBOL = bytes(8)


@dataclass
class Outcome:
    """How a run went: counts of symbols."""

    sent: int = 0
    lost: int = 0
    late: int = 0
    """Lost, and not restored within the budget."""
    repairs: int = 0
    useless: int = 0

    @property
    def residual(self) -> float:
        return self.late / self.sent

    @property
    def overhead(self) -> float:
        return self.repairs / self.sent


def independent(chance: Random, loss: float) -> Lossy:
    return lambda: chance.random() < loss


def bursts(chance: Random, loss: float, length: float) -> Lossy:
    """Losses in bursts of `length` packets on average (Gilbert's model)."""
    leave, bad = 1 / length, False
    enter = loss * leave / (1 - loss)

    def lost() -> bool:
        nonlocal bad
        bad = chance.random() >= leave if bad else chance.random() < enter
        return bad

    return lost


def regular(interval: float) -> Iterator[float]:
    while True:
        yield interval


def poisson(chance: Random, interval: float) -> Iterator[float]:
    while True:
        yield chance.expovariate(1 / interval)


def run(
    followed: FecPlan, count: int, gaps: Iterator[float], lossy: Lossy, budget: float
) -> Outcome:
    """Send `count` symbols; a repair helps those that left `budget` before it, or later."""
    encoder, decoder = FecEncoder(followed), FecDecoder()
    outcome = Outcome(sent=count)
    sent_at: list[float] = []
    missing: set[int] = set()
    now = 0.0

    def repairs(at: float) -> None:
        for repair in encoder.take_repairs(at):
            if lossy():
                continue
            for number, _ in decoder.repair(*repair):
                if number in missing and at - sent_at[number] <= budget + 1e-9:
                    missing.discard(number)

    for number in range(count):
        now += next(gaps)
        while (deadline := encoder.deadline) is not None and deadline <= now:
            repairs(deadline)
        sent_at.append(now)
        encoder.add(_SYMBOL, now)
        if lossy():
            outcome.lost += 1
            missing.add(number)
        else:
            for other, _ in decoder.source(number, _SYMBOL):
                if other in missing and now - sent_at[other] <= budget + 1e-9:
                    missing.discard(other)
        repairs(now)
    while (deadline := encoder.deadline) is not None:
        repairs(deadline)
    outcome.late = len(missing)
    outcome.repairs = encoder.repairs
    outcome.useless = decoder.useless
    return outcome


def plan(every: int, window: int, budget: float, repairs: int = 1) -> FecPlan:
    return FecPlan(every, window, repairs, window, 0.9 * budget, budget)


BUDGET = 0.035
PLANS = {
    "groups 2+1": plan(2, 2, BUDGET),
    "groups 3+1": plan(3, 3, BUDGET),
    "groups 4+2": plan(4, 4, BUDGET, 2),
    "every 2 over 3": plan(2, 3, BUDGET),
    "every 2 over 4": plan(2, 4, BUDGET),
    "every 2 over 8": plan(2, 8, BUDGET),
    "every 3 over 4": plan(3, 4, BUDGET),
    "every 3 over 6": plan(3, 6, BUDGET),
}


def table(count: int) -> None:
    """Events, 100 a second, that may be restored for 35 ms."""
    print(f"{'plan':>16} {'gaps':>8} {'loss':>5} {'kind':>7} {'late':>9} {'overhead':>8}")
    for loss in (0.01, 0.02, 0.05, 0.1):
        for name, followed in PLANS.items():
            for gaps, kind in (("regular", "random"), ("poisson", "random"), ("regular", "bursts")):
                chance = Random(1)
                times = regular(0.01) if gaps == "regular" else poisson(chance, 0.01)
                lossy = independent(chance, loss) if kind == "random" else bursts(chance, loss, 2.0)
                o = run(followed, count, times, lossy, BUDGET)
                case = f"{name:>16} {gaps:>8} {loss:5.0%} {kind:>7}"
                print(f"{case} {o.residual:9.4%} {o.overhead:8.1%}")


if __name__ == "__main__":
    table(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
