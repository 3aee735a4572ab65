"""Signals: SIGINT and SIGTERM stop the server, and its exit status then says that all went well.

Twisted's own handlers stop the reactor too, but `twistd` then kills itself by the same signal, so
that a clean end looks like a failure to whoever waits for it. And a second Ctrl-C has no use there.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.logger import Logger

_log = Logger(namespace="jetstream")


class StopSignals:
    """The first signal stops `reactor`, and any further one calls `hurry`."""

    def __init__(self, reactor: Any, hurry: Callable[[], None]) -> None:
        self._reactor = reactor
        self._hurry = hurry
        self._stopping = False

    def install(self) -> None:
        """Take the place of the running reactor's handlers, and of nobody else's.

        A program that runs in the background of a shell ignores SIGINT, and goes on doing so.
        """
        for number, handler in (
            (signal.SIGINT, getattr(self._reactor, "sigInt", None)),
            (signal.SIGTERM, getattr(self._reactor, "sigTerm", None)),
        ):
            if handler is not None and signal.getsignal(number) == handler:
                signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.stop, signal.Signals(number).name)

    def stop(self, name: str) -> None:
        """What a signal does, in the reactor's turn."""
        if self._stopping:
            _log.info("{name} again: dropping the sessions that are left", name=name)
            self._hurry()
        else:
            self._stopping = True
            _log.info("{name}: shutting down", name=name)
            self._reactor.stop()
