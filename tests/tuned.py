"""A tuned reactor of a test's own, beside the one that runs the tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import TestCase

from jetstreamproto.reactors.tuned import TunedReactor

PATIENCE = 60.0


class TunedReactorCase(TestCase):
    """Has `reactor`, which `wait` turns."""

    def setUp(self) -> None:
        self.reactor: Any = TunedReactor()
        self.addCleanup(self._dispose)

    def wait(self, done: Callable[[], Any]) -> Any:
        """Turn the reactor until `done()` is true, and return that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := done()):
            self.assertLess(time.monotonic(), deadline, "nothing came of it")
            self.reactor.iterate(0.01)
        return found

    def _dispose(self) -> None:
        """As Twisted's `ReactorBuilder` does with reactors that were never run."""
        for selectable in self.reactor.removeAll():
            handle = getattr(selectable, "socket", None)
            if handle is not None:
                handle.close()
        for reader in tuple(self.reactor._internalReaders):
            self.reactor.removeReader(reader)
            reader.connectionLost(None)
        self.reactor._internalReaders.clear()
        if hasattr(self.reactor, "_poller"):
            self.reactor._poller.close()
