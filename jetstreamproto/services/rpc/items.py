"""The items of a stream that have come and were not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.session.channel import Channel

_COST = 64  # what an item takes at least, in bytes


class ItemQueue:
    """An asynchronous iterator over the items that arrive on a channel.

    With `limit` bytes waiting the channel is paused, which stops the peer in time. `read` makes
    an item of its payload; what it raises, the iteration raises.
    """

    def __init__(self, channel: Channel, read: Callable[[memoryview], Any], limit: int) -> None:
        self._channel = channel
        self._read = read
        self._limit = limit
        self._items: deque[memoryview] = deque()
        self._size = 0
        self._paused = False
        self._waiting: Deferred[None] | None = None
        self._end: BaseException | None = None

    def __aiter__(self) -> ItemQueue:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._end is not None:
                raise self._end
            if self._waiting is not None:
                raise RuntimeError("another iteration waits for the next item already")
            self._waiting = Deferred()
            try:
                await self._waiting
            finally:
                self._waiting = None
        payload = self._items.popleft()
        self._size -= len(payload) + _COST
        if self._paused and self._size <= self._limit >> 1:
            self._resume()
        return self._read(payload)

    def put(self, payload: memoryview) -> None:
        """One more has come."""
        if self._end is not None:
            return
        self._items.append(payload)
        self._size += len(payload) + _COST
        if self._size >= self._limit and not self._paused:
            self._paused = True
            self._channel.pauseProducing()
        self._wake()

    def finish(self, end: BaseException | None = None) -> None:
        """No more will come; `end` is raised when all are taken, if it is not the proper end."""
        if self._end is None:
            self._end = end or StopAsyncIteration()
            self._wake()

    def drop(self, end: BaseException) -> None:
        """Nobody wants the rest; who waits nevertheless has `end` raised."""
        self._items.clear()
        self._size = 0
        self._end = end
        self._resume()
        self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._channel.resumeProducing()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)
