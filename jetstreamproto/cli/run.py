"""Runs a command's coroutine under the reactor, and stops it when a signal says so."""

from __future__ import annotations

import functools
import gc
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.cli.failure import Interrupted

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(work: Callable[[ReactorBase], Coroutine[Deferred[Any], Any, T]]) -> T:
    """What the coroutine `work(reactor)` returns; raises what it raises. Once a process.

    On SIGINT or SIGTERM the coroutine is cancelled, and `Interrupted` raised once it has cleaned
    up. Threads that are stuck (in a name lookup, on a terminal) do not hold up the end.
    """
    from twisted.internet import reactor as installed

    reactor = cast(ReactorBase, installed)
    return _Run(reactor, work).result()


class _Run(Generic[T]):
    def __init__(
        self, reactor: ReactorBase, work: Callable[[ReactorBase], Coroutine[Deferred[Any], Any, T]]
    ) -> None:
        self._reactor = reactor
        self._work = work
        self._task: Deferred[T] | None = None
        self._outcome: list[T | Failure] = []
        self._interrupted: int | None = None

    def result(self) -> T:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._signalled)
        daemon = functools.partial(threading.Thread, daemon=True)
        self._reactor.getThreadPool().threadFactory = daemon  # type: ignore[assignment]
        self._reactor.callWhenRunning(self._start)
        gc.freeze()  # what was imported is not looked through again
        gc.enable()
        self._reactor.run(installSignalHandlers=False)
        if self._interrupted is not None:
            raise Interrupted(self._interrupted)
        outcome = self._outcome[0]
        if isinstance(outcome, Failure):
            outcome.raiseException()
        return outcome

    def _start(self) -> None:
        self._task = Deferred.fromCoroutine(self._work(self._reactor))
        self._task.addBoth(self._done)

    def _signalled(self, number: int, _frame: object) -> None:
        """Runs between any two instructions of the main thread, so it only passes the word on."""
        again = self._interrupted is not None
        self._interrupted = number
        self._reactor.callFromThread(self._reactor.crash if again else self._cancel)

    def _cancel(self) -> None:
        assert self._task is not None, "what a signal asks for waits until the reactor runs"
        self._task.cancel()

    def _done(self, outcome: T | Failure) -> None:
        self._outcome.append(outcome)
        # Unlike `stop`, this does not wait for the threads of the pool.
        self._reactor.crash()
