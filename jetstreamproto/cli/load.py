"""The loads that `jetstream bench` puts on a session: each is the client's side of one channel.

`finished` fires with the seconds it took, and fails if what came back is not what should have.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from time import monotonic_ns, perf_counter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReactorTime
from zope.interface import implementer

from jetstreamproto.cli.pace import Pace
from jetstreamproto.errors import JetStreamError, QueueFull, SessionError, WireError
from jetstreamproto.services.latency import STAMP_SIZE, read_latencies, stamp
from jetstreamproto.services.source import source_request
from jetstreamproto.session.codes import MAX_FRAGMENT
from jetstreamproto.session.protocol import ChannelProtocol

BULK_SIZE = MAX_FRAGMENT
"""Bytes a message of the bulk loads."""

_AHEAD = 4 * BULK_SIZE  # that wait to be sent, so that the link always finds some


class WrongResult(SessionError):
    """The server did not return what it should have."""


class Load(ChannelProtocol):
    """What the loads share: how they end."""

    def __init__(self) -> None:
        self.finished: Deferred[float] = Deferred()
        self._started = 0.0

    def channel_opened(self) -> None:
        self._started = perf_counter()
        self.begin()

    def begin(self) -> None:
        """Send what comes first; the time is running."""
        raise NotImplementedError

    def succeed(self) -> None:
        """Stop the time."""
        seconds = perf_counter() - self._started
        self.channel.end()
        if not self.finished.called:
            self.finished.callback(seconds)

    def fail(self, error: JetStreamError) -> None:
        """Give up because of `error`."""
        if not self.finished.called:
            self.finished.errback(error)

    def end_received(self) -> None:
        self.channel.end()
        self.fail(WrongResult("the server ended the channel too early"))

    def channel_closed(self, reason: JetStreamError | None) -> None:
        if reason is not None:
            self.fail(reason)


@implementer(IPullProducer)
class Upload(Load):
    """`count` random bytes to the discard service, until it confirms how many came."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = self._left = count
        self._block = os.urandom(min(count, BULK_SIZE))

    def begin(self) -> None:
        self.channel.registerProducer(self, False)

    def resumeProducing(self) -> None:
        block, channel = self._block, self.channel
        while self._left and channel.queued < _AHEAD:
            channel.send(block if self._left >= len(block) else block[: self._left])
            self._left -= min(self._left, len(block))
        if not self._left:
            channel.unregisterProducer()
            channel.end()

    def stopProducing(self) -> None:
        """`channel_closed` follows."""

    def message_received(self, message: bytes) -> None:
        if message == self._count.to_bytes(8, "big"):
            self.succeed()
        else:
            received = int.from_bytes(message, "big")
            self.fail(WrongResult(f"the server received {received} of {self._count} bytes"))


class Download(Load):
    """`count` random bytes from the source service."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._received = 0

    def begin(self) -> None:
        self.channel.send(source_request(self._count, BULK_SIZE))
        self.channel.end()

    def message_received(self, message: bytes) -> None:
        self._received += len(message)
        if self._received > self._count:
            self.fail(WrongResult(f"the server sent more than {self._count} bytes"))
            self.channel.stopProducing()

    def end_received(self) -> None:
        if self._received == self._count:
            self.succeed()
        else:
            self.fail(WrongResult(f"the server sent {self._received} of {self._count} bytes"))


class Calls(Load):
    """`calls` round trips of `size` bytes through the echo service, `concurrency` at a time.

    `times` has the seconds that each took.
    """

    def __init__(self, calls: int, concurrency: int, size: int) -> None:
        super().__init__()
        self.times: list[float] = []
        self._calls = calls
        self._unsent = calls
        self._concurrency = concurrency
        self._payload = os.urandom(size)
        self._sent_at: deque[float] = deque()

    def begin(self) -> None:
        for _ in range(min(self._concurrency, self._calls)):
            self._call()

    def _call(self) -> None:
        self._unsent -= 1
        self._sent_at.append(perf_counter())
        self.channel.send(self._payload)

    def message_received(self, message: bytes) -> None:
        if message != self._payload or not self._sent_at:
            self.fail(WrongResult("the server's echo is not what was sent"))
            self.channel.stopProducing()
            return
        self.times.append(perf_counter() - self._sent_at.popleft())
        if self._unsent:
            self._call()
        elif not self._sent_at:
            self.succeed()


class Events(Load):
    """Messages of `size` bytes at a steady pace to the latency service.

    `latencies` has the microseconds that each took which got there.
    """

    def __init__(self, clock: IReactorTime, pace: Pace, size: int) -> None:
        super().__init__()
        self.latencies = array("I")
        self._clock = clock
        self._pace = pace
        self._payload = os.urandom(size - STAMP_SIZE)
        self._begun = 0.0
        self._sent = 0
        self._next: IDelayedCall | None = None

    def begin(self) -> None:
        self._begun = self._clock.seconds()
        self._send_due()

    def message_received(self, message: bytes) -> None:
        try:
            self.latencies.extend(read_latencies(message))
        except WireError as error:
            self._give_up(WrongResult(f"the server's answer makes no sense: {error}"))
        else:
            if len(self.latencies) > self._sent:
                self._give_up(WrongResult(f"the server received more than {self._sent} events"))

    def end_received(self) -> None:
        if self._sent == self._pace.count:
            self.succeed()
        else:
            self._give_up(WrongResult("the server ended the channel too early"))

    def channel_closed(self, reason: JetStreamError | None) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        super().channel_closed(reason)

    def _send_due(self) -> None:
        self._next = None
        elapsed = self._clock.seconds() - self._begun
        due = self._pace.due(elapsed)
        try:
            while self._sent < due:
                self.channel.send(stamp(self._payload, monotonic_ns()))
                self._sent += 1
        except QueueFull:
            self._give_up(WrongResult("the way to the server is too slow for this many events"))
            return
        if due == self._pace.count:
            self.channel.end()
        else:
            wait = self._pace.until(due, elapsed)
            self._next = self._clock.callLater(wait, self._send_due)

    def _give_up(self, error: JetStreamError) -> None:
        self.fail(error)
        self.channel.stopProducing()
