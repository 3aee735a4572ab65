"""The bulk sender: blocks of 64 KiB that no compression makes smaller, for a number of seconds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import cycle
from time import perf_counter

from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

BLOCK_SIZE = 1 << 16
LAST = 1
"""The first byte of the last block; that of the others is 0."""

_CHECK_EVERY = 8  # blocks between two looks at the clock


@implementer(IPushProducer, IPullProducer)
class BlockSource:
    """Calls `send` with block after block unless it is paused, and `finish` after the last one.

    It is done after `seconds`, or with `most` bytes. One that is not `streaming` is a pull
    producer: it sends a block each time that it is asked for more.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        finish: Callable[[], object],
        seconds: float,
        *,
        streaming: bool = True,
        most: float = math.inf,
    ) -> None:
        self.sent = 0
        self._streaming = streaming
        self._send = send
        self._finish = finish
        self._end = perf_counter() + seconds
        self._most = most
        self._blocks = cycle([b"\0" + os.urandom(BLOCK_SIZE - 1) for _ in range(16)])
        self._until_check = _CHECK_EVERY
        self._paused = True
        self._done = False

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and not self._done:
            self._paused = not self._streaming
            self._until_check -= 1
            if not self._until_check:
                self._until_check = _CHECK_EVERY
                self._done = perf_counter() >= self._end or self.sent >= self._most
            self.sent += BLOCK_SIZE
            self._send(bytes([LAST]) + bytes(BLOCK_SIZE - 1) if self._done else next(self._blocks))
            if self._done:
                self._finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._done = True


def bulk_figures(received: int, window: dict[str, float]) -> dict[str, float]:
    """The result of a bulk run in which `received` bytes were confirmed."""
    return {
        "MB_per_s": received / window["seconds"] / 1e6,
        **{
            f"{name}_s_per_GB": window[name] / received * 1e9
            for name in ("cpu", "client_cpu", "server_cpu")
        },
    }
