"""Timeouts: deadlines of many sessions, of which hardly any comes.

A session has several, and almost all are cancelled. In the reactor's heap each would cost the
logarithm of how many there are, twice. Those of one length come in the order in which they were
set, so a queue for each length will do, and one call of the reactor a queue (the timing wheels of
Varghese and Lauck, SOSP 1987, do the same for lengths that are not known beforehand).
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()

_ROUNDING = 1e-6  # seconds: what is left to wait may be a rounding error


class Timeout:
    """A call to come, unless it is cancelled."""

    __slots__ = ("_queue", "call", "when")

    def __init__(self, queue: _Queue, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call: Callable[[], object] | None = call
        self._queue = queue

    def cancel(self) -> None:
        """Have nothing called. Again, or after the call, is no harm."""
        if self.call is not None:
            self.call = None
            waiting = self._queue.waiting
            if self in waiting:  # and not due together with the one that cancels it
                del waiting[self]
                if not waiting:
                    self._queue.stop()


class Timeouts:
    """Calls by `clock`. The lengths of what waits should be few; each has a queue."""

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self._queues: dict[float, _Queue] = {}
        self._soon: list[Callable[[], object]] = []

    def after(self, seconds: float, call: Callable[[], object]) -> Timeout:
        """Have `call` called in so many seconds; what it raises is logged."""
        when = self.clock.seconds() + seconds
        queue = self._queues.get(seconds)
        if queue is None or when < queue.latest:  # the clock was set back
            queue = self._queues[seconds] = _Queue(self.clock, seconds, self._queues)
        queue.latest = when
        timeout = Timeout(queue, when, call)
        queue.waiting[timeout] = None
        return timeout

    def soon(self, call: Callable[[], object]) -> None:
        """Have `call` called at the end of the reactor's turn, together with others."""
        if not self._soon:
            self.clock.callLater(0, self._turn_over)
        self._soon.append(call)

    def _turn_over(self) -> None:
        calls, self._soon = self._soon, []
        for call in calls:
            _run(call)


class _Queue:
    """What waits for the same number of seconds. It is in `queues` while there is something."""

    __slots__ = ("_clock", "_queues", "_ring", "_seconds", "latest", "waiting")

    def __init__(self, clock: IReactorTime, seconds: float, queues: dict[float, _Queue]) -> None:
        self.latest = 0.0
        self._clock = clock
        self._seconds = seconds
        self._queues = queues
        self.waiting: dict[Timeout, None] = {}
        self._ring: IDelayedCall = clock.callLater(seconds, self._rang)

    def stop(self) -> None:
        """Nothing waits any more."""
        self._ring.cancel()
        self._forget()

    def _rang(self) -> None:
        now = self._clock.seconds()
        due = []
        for timeout in self.waiting:
            left = timeout.when - now
            if left > _ROUNDING:
                self._ring = self._clock.callLater(left, self._rang)
                break
            due.append(timeout)
        else:
            self._forget()
        for timeout in due:
            del self.waiting[timeout]
        for timeout in due:
            call, timeout.call = timeout.call, None
            if call is not None:
                _run(call)

    def _forget(self) -> None:
        if self._queues.get(self._seconds) is self:
            del self._queues[self._seconds]


def _run(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        _log.failure("What was to be called after a while failed")
