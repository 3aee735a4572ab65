"""Events to standard output, and acknowledged once they are written."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.threads import deferToThread

from jetstreamproto.cli.output import stdout_failure
from jetstreamproto.cli.pipe import STDOUT
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.receiving import Subscription


class EventWriter:
    """Writes what a subscription gets, for at most `seconds`; `form` makes a line of an event."""

    def __init__(
        self,
        reactor: ReactorBase,
        subscription: Subscription,
        form: Callable[[Event], bytes],
        seconds: float | None,
    ) -> None:
        self._reactor = reactor
        self._subscription = subscription
        self._form = form
        self._end = None if seconds is None else reactor.seconds() + seconds

    async def run(self, count: int | None) -> int:
        """Write `count` events, or without end; how many of them did not come in time.

        Raises `NobodyReads` or `StreamFailed`, or what ended the subscription.
        """
        left = count
        while left is None or left > 0:
            try:
                events = await self._next()
            except TimeoutError:
                break
            events = events if left is None else events[:left]
            await deferToThread(_write, b"".join(map(self._form, events)))
            if self._subscription.durable:
                await self._subscription.ack(*events)
            if left is not None:
                left -= len(events)
        return left or 0

    def _next(self) -> Deferred[list[Event]]:
        getting = self._subscription.get_many()
        if self._end is None:
            return getting
        return getting.addTimeout(max(0.0, self._end - self._reactor.seconds()), self._reactor)


def _write(data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(STDOUT, rest) :]
    except OSError as error:
        raise stdout_failure(error) from error
