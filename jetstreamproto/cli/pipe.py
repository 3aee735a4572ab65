"""Standard input and output as the two ends of a channel.

Files, pipes and terminals block in different ways, and epoll cannot watch all of them, so each
stream has a thread that makes plain blocking calls. The threads are daemons: one that is stuck
on an idle terminal or a full pipe does not keep the command alive.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from jetstreamproto.cli.failure import StreamFailed
from jetstreamproto.cli.output import stdout_failure
from jetstreamproto.errors import JetStreamError, SessionCut
from jetstreamproto.session.codes import MAX_FRAGMENT
from jetstreamproto.session.protocol import ChannelProtocol

STDIN, STDOUT = 0, 1

_CHUNKS_AHEAD = 8
"""Chunks that may be read from standard input before the channel has taken the first."""
_HIGH_WATER = 1 << 20
"""Bytes waiting for standard output at which the channel is paused; it resumes at half."""
_WRITE_SIZE = 1 << 18


def check_standard_streams() -> None:
    """Raise `StreamFailed` if the command was started with a standard stream closed.

    Its descriptor would otherwise be given to the next thing opened.
    """
    for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
        if stream is None:
            raise StreamFailed(f"standard {name} is closed")


class InputReader:
    """Reads a descriptor in a thread and hands the chunks to `received` in the reactor's.

    At its end it calls `ended`, on an error `failed`. Pausing lets what was read ahead through:
    at most `_CHUNKS_AHEAD` chunks.
    """

    def __init__(
        self,
        reactor: ReactorBase,
        descriptor: int,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received
        self._ended = ended
        self._failed = failed
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._owed = 0  # chunks taken while paused, which make room again on resuming
        self._paused = False

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()

    def pause(self) -> None:
        """Read no further."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        if self._owed:
            self._room.release(self._owed)
            self._owed = 0

    def _read(self) -> None:
        call = self._reactor.callFromThread
        try:
            while True:
                self._room.acquire()
                chunk = _read_some(self._descriptor)
                if not chunk:
                    break
                call(self._take, chunk)
        except OSError as error:
            call(self._failed, error)
        else:
            call(self._ended)

    def _take(self, chunk: bytes) -> None:
        self._received(chunk)
        if self._paused:
            self._owed += 1
        else:
            self._room.release()


class OutputWriter:
    """Writes to a descriptor in a thread, in order.

    `drained` is called in the reactor's thread when a writer that was `full` has room again, and
    `failed` on an error, after which nothing is written any more.
    """

    def __init__(
        self,
        reactor: ReactorBase,
        descriptor: int,
        drained: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self.full = False
        self._reactor = reactor
        self._descriptor = descriptor
        self._drained = drained
        self._failed = failed
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0
        self._finished: Deferred[None] = Deferred()
        threading.Thread(target=self._work, daemon=True).start()

    def write(self, data: bytes) -> None:
        """Take `data` in any case; stop when `full`."""
        self._waiting += len(data)
        self.full = self._waiting >= _HIGH_WATER
        self._queue.put(data)

    def finish(self) -> Deferred[None]:
        """Fires when everything is written."""
        self._queue.put(None)
        return self._finished

    def _work(self) -> None:
        call = self._reactor.callFromThread
        more = True
        try:
            while more:
                data, more = self._next()
                _write_all(self._descriptor, data)
                call(self._written, len(data))
        except OSError as error:
            call(self._failed, error)
        else:
            call(self._finished.callback, None)

    def _next(self) -> tuple[bytes, bool]:
        """What to write now, and whether more may come: small pieces are joined."""
        pieces: list[bytes] = []
        size = 0
        piece = self._queue.get()
        while piece is not None:
            pieces.append(piece)
            size += len(piece)
            if size >= _WRITE_SIZE or self._queue.empty():
                break
            piece = self._queue.get()
        return b"".join(pieces), piece is not None

    def _written(self, size: int) -> None:
        self._waiting -= size
        if self.full and self._waiting <= _HIGH_WATER >> 1:
            self.full = False
            self._drained()


@implementer(IPushProducer)
class EchoPipe(ChannelProtocol):
    """Standard input to the channel, and the channel to standard output.

    `finished` fires when everything that was sent has come back and is written.
    """

    def __init__(self, reactor: ReactorBase) -> None:
        self.finished: Deferred[None] = Deferred()
        self._sent = 0
        self._returned = 0
        self._input_ended = False
        self._input = InputReader(
            reactor, STDIN, self._input_received, self._input_done, self._input_failed
        )
        self._output = OutputWriter(reactor, STDOUT, self._output_drained, self._output_failed)

    def channel_opened(self) -> None:
        self.channel.registerProducer(self, True)
        self._input.start()

    def message_received(self, message: bytes) -> None:
        self._returned += len(message)
        self._output.write(message)
        if self._output.full:
            self.channel.pauseProducing()

    def end_received(self) -> None:
        if self._input_ended and self._returned == self._sent:
            self._output.finish().addCallback(self._done)
        else:
            self._fail(
                SessionCut(
                    f"the server ended the echo after {self._returned} of {self._sent} bytes"
                )
            )

    def channel_closed(self, reason: JetStreamError | None) -> None:
        if reason is not None:
            self._fail(reason)

    def pauseProducing(self) -> None:
        self._input.pause()

    def resumeProducing(self) -> None:
        self._input.resume()

    def stopProducing(self) -> None:
        self._input.pause()

    def _input_received(self, chunk: bytes) -> None:
        if not self.finished.called:
            self._sent += len(chunk)
            self.channel.send(chunk)

    def _input_done(self) -> None:
        self._input_ended = True
        self.channel.end()

    def _input_failed(self, error: OSError) -> None:
        self._fail(StreamFailed(f"standard input: {error.strerror}"))

    def _output_drained(self) -> None:
        self.channel.resumeProducing()

    def _output_failed(self, error: OSError) -> None:
        self._fail(stdout_failure(error))

    def _done(self, _written: None) -> None:
        if not self.finished.called:
            self.finished.callback(None)

    def _fail(self, error: Exception) -> None:
        if not self.finished.called:
            self.finished.errback(error)


def _read_some(descriptor: int) -> bytes:
    """The next bytes; waits for them also where somebody made the descriptor non-blocking."""
    while True:
        try:
            return os.read(descriptor, MAX_FRAGMENT)
        except BlockingIOError:
            _wait_for(descriptor, select.POLLIN)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            _wait_for(descriptor, select.POLLOUT)


def _wait_for(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()
