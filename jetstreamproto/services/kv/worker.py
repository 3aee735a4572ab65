"""A thread that does one thing after another for the reactor's thread.

What a pool of threads does besides costs as much as a commit waits for a fast disk.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class _Task(NamedTuple):
    work: Callable[[], None]
    done: Deferred[None]


class Worker:
    """Calls what it is given in a thread of its own, which begins with the first call.

    `call_from_thread` runs a callable in the reactor's thread.
    """

    def __init__(self, call_from_thread: Callable[..., Any]) -> None:
        self._call_from_thread = call_from_thread
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread: Thread | None = None

    def __call__(self, work: Callable[[], None]) -> Deferred[None]:
        """Fires when `work` has returned, and fails with what it raises."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="kv", daemon=True)
            self._thread.start()
        done: Deferred[None] = Deferred()
        self._tasks.put(_Task(work, done))
        return done

    def stop(self) -> None:
        """End the thread when it has done what it was given; there are no calls any more."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task.work()
            except BaseException:
                self._call_from_thread(task.done.errback, Failure())
            else:
                self._call_from_thread(task.done.callback, None)
