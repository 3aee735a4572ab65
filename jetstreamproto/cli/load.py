"""The loads that `jetstream bench` puts on a session: each is the client's side of one channel.

`finished` fires with the seconds it took, and fails if what came back is not what should have.
"""

from __future__ import annotations

import os
from collections import deque
from time import perf_counter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from jetstreamproto.errors import JetStreamError, SessionError
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
