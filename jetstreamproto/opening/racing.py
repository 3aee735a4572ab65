"""The race: several ways to the same end, begun one after another, and the first one wins.

It is that of RFC 8305 (happy eyeballs), of whatever can be begun and cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")


class Runner(NamedTuple, Generic[T]):
    """One who may win: `begin` starts it `after` seconds after the one before it began."""

    name: str
    after: float
    begin: Callable[[], Deferred[T]]


class DroppedOut(Exception):
    """A runner is out of the race; as if it had never begun."""


class NobodyWon(Exception):
    """All have failed; `failures` says how, in the order in which they did."""

    def __init__(self, failures: dict[str, Exception]) -> None:
        super().__init__(", ".join(failures))
        self.failures = failures


class Race(Generic[T]):
    """The first to succeed wins, the others are cancelled.

    When the one that began last fails, the next begins at once. A runner whose name is that of one
    that runs or has failed is left out. A failure that `is_final` ends the race, and so does one
    that is no `Exception`. `discard` is given what one has brought that had been cancelled.
    """

    def __init__(
        self,
        clock: IReactorTime,
        runners: Iterable[Runner[T]],
        is_final: Callable[[BaseException], bool],
        discard: Callable[[T], object],
    ) -> None:
        self.begun: dict[str, float] = {}
        """When those that are not out began, in that order."""
        self.failures: dict[str, Exception] = {}
        self.winner: str | None = None
        self._clock = clock
        self._waiting = deque(runners)
        self._is_final = is_final
        self._discard = discard
        self._running: dict[str, Deferred[T]] = {}
        self._timer: IDelayedCall | None = None
        self._result: Deferred[T] = Deferred(lambda _: self._stop())
        self._over = False

    def run(self) -> Deferred[T]:
        """Fires with what the winner brought; fails with `NobodyWon`, or with what is final.

        Cancelling it cancels whoever runs.
        """
        self._begin_next()
        return self._result

    def _begin_next(self) -> None:
        self._stop_timer()
        while self._waiting and not self._over:
            runner = self._waiting.popleft()
            if runner.name not in self._running and runner.name not in self.failures:
                self._begin(runner)
                return
        if not self._running and not self._over:
            self._over = True
            self._result.errback(NobodyWon(self.failures))

    def _begin(self, runner: Runner[T]) -> None:
        name = runner.name
        self.begun[name] = self._clock.seconds()
        if self._waiting:
            self._timer = self._clock.callLater(self._waiting[0].after, self._begin_next)
        running = self._running[name] = runner.begin()
        running.addCallbacks(self._succeeded, self._failed, (name,), {}, (name,))

    def _succeeded(self, result: T, name: str) -> None:
        if self._over:
            self._discard(result)
            return
        del self._running[name]
        self.winner = name
        self._stop()
        self._result.callback(result)

    def _failed(self, failure: Failure, name: str) -> None:
        if self._over:
            return
        del self._running[name]
        error = failure.value
        newest = name == next(reversed(self.begun))
        if isinstance(error, DroppedOut):
            del self.begun[name]
        elif not isinstance(error, Exception) or self._is_final(error):
            self._stop()
            self._result.errback(failure)
            return
        else:
            self.failures[name] = error
        if newest or not self._running:
            self._begin_next()

    def _stop(self) -> None:
        self._over = True
        self._stop_timer()
        running, self._running = self._running, {}
        for deferred in running.values():
            deferred.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


async def in_time(clock: IReactorTime, waiting: Deferred[T], seconds: float, late: Exception) -> T:
    """The result of `waiting`; it is cancelled and `late` raised after `seconds`."""

    def timed_out(_result: object, _seconds: float) -> T:
        raise late

    waiting.addTimeout(seconds, clock, timed_out)
    return await waiting
