"""The sender's side of FEC: keeps the last symbols and makes repairs when the plan says so."""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import NamedTuple

from jetstreamproto.reliability.fec.codes import SHARES, encode
from jetstreamproto.reliability.fec.galois import Block
from jetstreamproto.reliability.fec.plans import NO_FEC, FecPlan

_NUMBERS = 0xFFFFFFFF


class RepairSymbol(NamedTuple):
    """Row `row` of code `k` over `covers` symbols from number `base` on."""

    base: int
    covers: int
    k: int
    row: int
    data: bytes


class FecEncoder:
    """Numbers the symbols of one direction of a connection, and protects them.

    Times are seconds on a monotonic clock. After every `add`, and at `deadline`, call
    `take_repairs`.
    """

    __slots__ = (
        "_kept",
        "_plan",
        "_row",
        "_since",
        "_times",
        "_waiting_since",
        "next_number",
        "repairs",
    )

    def __init__(self, plan: FecPlan = NO_FEC, first: int = 0) -> None:
        self.next_number = first
        """Of the next symbol."""
        self.repairs = 0
        """How many repairs were made."""
        self._plan = plan
        self._kept: deque[Block] = deque(maxlen=plan.window)
        self._times: deque[float] = deque(maxlen=plan.window)
        self._since = 0  # symbols after the last repair
        self._waiting_since: float | None = None  # of the symbols that wait, when the first came
        self._row = 0

    @property
    def plan(self) -> FecPlan:
        return self._plan

    def use(self, plan: FecPlan) -> None:
        """Follow `plan` from now on. Symbols that wait for repairs get them as it says."""
        old, self._plan = self._plan, plan
        if plan.window != old.window:
            self._kept = deque(self._kept, plan.window)
            self._times = deque(self._times, plan.window)
        if not plan.repairs:
            self._kept.clear()
            self._times.clear()
            self._since = 0
            self._waiting_since = None

    @property
    def deadline(self) -> float | None:
        """When to call `take_repairs` if no symbol follows."""
        since = self._waiting_since
        return None if since is None else since + self._plan.hold

    def add(self, symbol: Block, now: float) -> None:
        """Symbol `next_number` is sent now. Its bytes must not change any more."""
        self.next_number = (self.next_number + 1) & _NUMBERS
        plan = self._plan
        if not plan.repairs:
            return
        self._kept.append(symbol)
        if plan.slides:
            self._times.append(now)
        if not self._since:
            self._waiting_since = now
        self._since += 1

    def take_repairs(self, now: float) -> list[RepairSymbol]:
        """The repairs that are due."""
        since = self._waiting_since
        if since is None:
            return []
        plan = self._plan
        if self._since >= plan.every:
            return self._make(plan.repairs, now)
        if now < since + plan.hold:
            return []
        r = max(2, ceil(plan.repairs * self._since / plan.every))  # two or one: as many again
        return self._make(min(r, plan.repairs, self._since), now)

    def _make(self, r: int, now: float) -> list[RepairSymbol]:
        """`r` repairs over the last symbols."""
        plan = self._plan
        symbols = list(self._kept)
        if plan.slides:
            oldest = now - plan.reach
            count = sum(1 for time in self._times if time >= oldest) or 1
        else:
            count = min(self._since, len(symbols))
        self._since = 0
        self._waiting_since = None
        self.repairs += r
        symbols = symbols[-count:]
        k = plan.k if count > 1 else 1
        rows = tuple(range(k, k + r))
        if plan.slides:  # windows overlap, and rows of those that do must differ
            rows = tuple(k + (self._row + i) % (SHARES - k) for i in range(r))
            self._row += r
        base = (self.next_number - count) & _NUMBERS
        blocks = encode(symbols, base, k, rows)
        return [
            RepairSymbol(base, count, k, row, data) for row, data in zip(rows, blocks, strict=True)
        ]
