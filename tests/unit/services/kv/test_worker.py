from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.services.kv.worker import Worker


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: Queue[Callable[[], Any]] = Queue()
        self.worker = Worker(lambda call, *given: self.calls.put(lambda: call(*given)))

    def next_call(self) -> None:
        """What the worker has for the reactor's thread."""
        self.calls.get(timeout=30)()

    def test_work_is_done_in_order_in_one_other_thread(self) -> None:
        seen: list[tuple[int, str]] = []
        done = [
            self.worker(lambda n=n: seen.append((n, threading.current_thread().name)))
            for n in range(3)
        ]
        for _ in done:
            self.next_call()
        self.worker.stop()
        self.assertEqual(seen, [(0, "kv"), (1, "kv"), (2, "kv")])
        for one in done:
            self.assertIsNone(self.successResultOf(one))

    def test_what_work_raises_is_how_it_fails(self) -> None:
        def fail() -> None:
            raise LookupError("no")

        failing, fine = self.worker(fail), self.worker(lambda: None)
        self.next_call()
        self.next_call()
        self.worker.stop()
        self.failureResultOf(failing, LookupError)
        self.successResultOf(fine)

    def test_a_worker_without_work_has_nothing_to_stop(self) -> None:
        self.worker.stop()
