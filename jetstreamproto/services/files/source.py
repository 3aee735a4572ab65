"""The sending side of a file: offered, read ahead, sent as the channel takes it, confirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IPullProducer
from zope.interface import implementer

from jetstreamproto.errors import (
    ChannelClosed,
    FileError,
    JetStreamError,
    MessageTooLarge,
    WireError,
)
from jetstreamproto.services.files.conversation import Conversation
from jetstreamproto.services.files.messages import (
    FILE,
    FINISH,
    HAVE,
    File,
    Finish,
    Kind,
    read_digest,
)
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    MAX_CHUNKS,
    FileCode,
    Throttle,
    Verdict,
    is_chunk_size,
)
from jetstreamproto.services.files.reader import Batch, Reader

_AHEAD = 1 << 22
"""Bytes that are read before the channel has taken those before them."""
_QUEUE = 1 << 20
"""Bytes that wait in the channel."""


@implementer(IPullProducer)
class Source:
    """Sends what `reader` reads, at most `limit` bytes a second (0: as fast as it goes).

    `progress` is called with the bytes that were sent, and those that the peer had. `done` is
    called with the peer's verdict, when it has confirmed the file or does not want it.
    """

    def __init__(
        self,
        conversation: Conversation,
        reader: Reader,
        limit: int,
        done: Callable[[Verdict], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.sent = 0
        """Bytes that were sent."""
        self.skipped = 0
        """Bytes that the peer had."""
        self.finish: Finish | None = None
        """Size and digest, once everything was sent."""
        self._talk = conversation
        self._reader = reader
        self._throttle = Throttle(limit) if limit else None
        self._done = done
        self._progress = progress
        self._ahead = 0  # bytes that were sent behind the offer
        self._ready: deque[tuple[bytes, int]] = deque()  # messages, and the file's bytes in each
        self._ready_size = 0
        self._messages = 0
        self._started = self._reading = self._ended = self._closed = False
        self._waits = False  # for the disk, so that it pays to read ahead
        self._last: Finish | None = None  # read, but not said yet
        self._pause: IDelayedCall | None = None

    def offer(self, file: File, ahead: bytes = b"") -> None:
        """Tell the peer what there is. `ahead` may be the first piece, which goes at once.

        Where the peer is far, what comes back of it says how fast the path is by the time that the
        answer is here.
        """
        self._ahead = len(ahead)
        self._talk.say(Kind.FILE, FILE.encode(file._replace(ahead=bool(ahead))))
        if ahead:
            self._talk.say(Kind.AHEAD, ahead)

    def part_received(self, kind: int, _number: int, body: memoryview) -> None:
        """A message of the receiver came."""
        if kind == Kind.HAVE and not self._started:
            self._have_received(body)
        elif kind == Kind.DONE and self.finish is not None:
            if read_digest(body) != self.finish.digest:
                raise FileError(FileCode.WRONG_DIGEST, "what has arrived has another digest")
            self._done(Verdict.SEND)
        else:
            raise WireError(f"a message of kind {kind}, where none was expected")

    def closed(self) -> None:
        """The channel is gone."""
        self._closed = True
        self._ready.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if not self._reading:
            self._reader.close()

    def _have_received(self, body: memoryview) -> None:
        have = HAVE.decode(body)
        self._started = True
        if have.verdict is not Verdict.SEND or not have.chunk_size:  # none: only asked what if
            self._done(have.verdict)
            return
        count, rest = divmod(len(have.digests), DIGEST_SIZE)
        if not is_chunk_size(have.chunk_size) or rest or count > MAX_CHUNKS:
            raise WireError(f"{len(have.digests)} bytes of digests of {have.chunk_size} each")
        ahead = self._ahead if have.ahead else 0
        if have.ahead and (not ahead or count or have.chunk_size != CHUNK_SIZE):
            raise WireError("a piece was taken that cannot have been")
        self._reader.start(have.chunk_size, have.digests, ahead)
        if ahead:
            self._messages += 1
            self._tell(ahead, 0)
        self._talk.channel.registerProducer(self, False)

    # --- IPullProducer ------------------------------------------------------------------

    def resumeProducing(self) -> None:
        self._send_ready()

    def stopProducing(self) -> None:
        """The channel is gone, and `closed` is called."""

    # --- reading and sending ---------------------------------------------------------------

    def _send_ready(self) -> None:
        channel = self._talk.channel
        try:
            self._send()
            while self._last is None and not self._reading:
                if self._ready or channel.queued >= _QUEUE:
                    if self._waits:
                        self._read_more()
                    break
                batch = self._reader.read_now()
                self._waits = batch is None
                if batch is None:
                    self._read_more()
                    break
                self._take(batch)
                self._send()
        except (FileError, MessageTooLarge, ChannelClosed) as error:
            self._talk.fail(error)
            return
        if self._last is not None and not self._ready and not self._ended:
            self._ended = True
            self.finish = self._last
            channel.unregisterProducer()
            self._talk.say(Kind.FINISH, FINISH.encode(self._last), self._messages)

    def _send(self) -> None:
        channel, ready, sent = self._talk.channel, self._ready, 0
        while ready and channel.queued < _QUEUE and not self._held_back():
            message, size = ready.popleft()
            channel.send(message)
            self._messages += 1
            sent += size
        if sent:
            self._ready_size -= sent
            self._tell(sent, 0)

    def _held_back(self) -> bool:
        """Whether the limit says to wait; what is first is paid for otherwise."""
        if self._throttle is None:
            return False
        now = self._talk.now
        delay = self._throttle.delay(now)
        if delay <= 0:
            self._throttle.spend(now, self._ready[0][1])
            return False
        if self._pause is None:
            clock = self._talk.channel.session.clock
            self._pause = clock.callLater(delay, self._pause_over)
        return True

    def _pause_over(self) -> None:
        self._pause = None
        self._send_ready()

    def _read_more(self) -> None:
        if not self._reading and self._ready_size < _AHEAD:
            self._reading = True
            self._talk.work(self._reader.read, self._was_read)

    def _was_read(self, batch: Batch | None, error: JetStreamError | None) -> None:
        self._reading = False
        if self._closed:
            self._reader.close()
        elif error is not None:
            self._talk.fail(error)
        elif batch is not None:
            self._talk.heard()
            self._take(batch)
            self._send_ready()

    def _take(self, batch: Batch) -> None:
        self._ready.extend(batch.messages)
        self._ready_size += batch.size
        self._last = batch.finish
        if batch.skipped:
            self._tell(0, batch.skipped)

    def _tell(self, sent: int, skipped: int) -> None:
        self.sent += sent
        self.skipped += skipped
        if self._progress is not None:
            self._progress(sent, skipped)
