"""The deadlines of many calls on one timer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.services.rpc.model import DeadlineWheel


class Deadlines:
    """Tells `late(call)` when a call's time is over, on a `clock`."""

    __slots__ = ("_clock", "_late", "_timer", "_wake", "_wheel")

    def __init__(self, clock: IReactorTime, late: Callable[[int], None]) -> None:
        self._clock = clock
        self._late = late
        self._wheel = DeadlineWheel()
        self._timer: IDelayedCall | None = None
        self._wake = 0.0

    def add(self, call: int, seconds: float) -> float:
        """As `DeadlineWheel.add`, from now on."""
        now = self._clock.seconds()
        slot = self._wheel.add(call, now, seconds)
        if self._timer is None or slot < self._wake:
            self._schedule(now)
        return slot

    def discard(self, call: int, slot: float) -> None:
        """As `DeadlineWheel.discard`."""
        self._wheel.discard(call, slot)

    def stop(self) -> None:
        """Forget all of them."""
        self._wheel = DeadlineWheel()
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()

    def _schedule(self, now: float) -> None:
        earliest = self._wheel.earliest
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if earliest is not None:
            self._wake = earliest
            self._timer = self._clock.callLater(max(0.0, earliest - now), self._expire)

    def _expire(self) -> None:
        self._timer = None
        # A timer may fire a rounding error before its time.
        for call in self._wheel.expire(max(self._clock.seconds(), self._wake)):
            self._late(call)
        if self._timer is None:
            self._schedule(self._clock.seconds())
