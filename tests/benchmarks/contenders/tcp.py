"""Twisted's plain TCP on the stock epoll reactor: a ceiling, not a rival, since it is in the clear.

`tls` runs the same protocols over TLS. The sender is a push producer, which writes until the
transport has had enough. In `tcp-pull` and `tls-pull` it is a pull producer, as Twisted's
`FileSender` is one, which writes when the transport has nothing left; in `tcp-queue` and
`tls-queue` it is none at all: it writes a fixed number of blocks, and the transport keeps them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.benchmarks.blocks import BLOCK_SIZE, LAST, BlockSource, bulk_figures
from tests.benchmarks.job import Job
from tests.benchmarks.window import Window

_COUNT_SIZE = 8
_QUEUED = 1 << 28  # bytes that are written at once where nothing holds the sender back


class Sink(Protocol):
    """Counts what comes, and answers the count when the block marked as the last is whole."""

    _received = 0
    _total = -1

    def dataReceived(self, data: bytes) -> None:
        first = -self._received % BLOCK_SIZE
        for at in range(first, len(data), BLOCK_SIZE):
            if data[at] == LAST:
                self._total = self._received + at + BLOCK_SIZE
        self._received += len(data)
        if self._received == self._total:
            assert self.transport is not None
            self.transport.write(self._received.to_bytes(_COUNT_SIZE, "big"))


class ByteEcho(Protocol):
    """Sends back what it receives."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Line(Protocol):
    """A client's connection: `ready` fires when it is up, `closed` when it is gone."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self._buffer = b""
        self._wanted = 0
        self._waiting: Deferred[bytes] | None = None

    def read(self, size: int) -> Deferred[bytes]:
        """Fires with the next `size` bytes, which are all that the peer is to send."""
        self._wanted = size
        self._waiting = Deferred()
        return self._waiting

    def connectionMade(self) -> None:
        self.ready.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._waiting is not None and len(self._buffer) >= self._wanted:
            waiting, self._waiting = self._waiting, None
            waiting.callback(self._buffer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)
        for waiting in (self.ready, self._waiting):
            if waiting is not None and not waiting.called:
                waiting.errback(reason)


def server(job: Job) -> Factory:
    return Factory.forProtocol(Sink if job.task == "bulk" else ByteEcho)


async def bulk(reactor: Any, job: Job) -> dict[str, float]:
    return await bulk_over(TCP4ClientEndpoint(reactor, "127.0.0.1", job.port), Line, job)


def _start_source(transport: Any, job: Job) -> BlockSource:
    """Begin to send blocks in the way that the variant says."""
    if "queue" in job.variant:
        source = BlockSource(transport.write, lambda: None, job.seconds, most=_QUEUED)
        source.resumeProducing()
        return source
    streaming = "pull" not in job.variant
    source = BlockSource(
        transport.write, transport.unregisterProducer, job.seconds, streaming=streaming
    )
    transport.registerProducer(source, streaming)
    if streaming:
        source.resumeProducing()
    return source


async def bulk_over(
    endpoint: IStreamClientEndpoint, kind: type[Line], job: Job
) -> dict[str, float]:
    """Send blocks over a line of the given kind."""
    line: Any = await endpoint.connect(Factory.forProtocol(kind))
    await line.ready
    transport = line.transport
    window = Window(job.server_pid)
    window.start()
    source = _start_source(transport, job)
    received = int.from_bytes(await line.read(_COUNT_SIZE), "big")
    figures = bulk_figures(received, window.stop())
    if received != source.sent:
        raise AssertionError(f"sent {source.sent} bytes, {received} arrived")
    return figures
