"""The receiving side of a file: judged, written as it comes, checked, confirmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from jetstreamproto.errors import FileError, JetStreamError, WireError
from jetstreamproto.services.files.conversation import Conversation
from jetstreamproto.services.files.messages import FINISH, HAVE, File, Finish, Have, Kind
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    MAX_SIZE,
    PIECE_SIZE,
    PIECES,
    Arrivals,
    FileCode,
    Verdict,
)
from jetstreamproto.services.files.target import Opened, Piece, Target

T = TypeVar("T")

_WORTH_A_CALL = 1 << 21
"""Bytes that are written at once; fewer only after `_PATIENCE`, since calls of a thread cost."""
_PATIENCE = 0.005  # seconds that what came waits for more to come
_HIGH_WATER = 1 << 23
"""Bytes that wait to be written at which the channel is paused; it resumes at half."""


class Sink:
    """Takes one file into `target`.

    `progress` is called with bytes that have come, `done` with the verdict when there is no more to
    do. `released` fires when the target is closed, which may be later than the channel.
    """

    def __init__(
        self,
        conversation: Conversation,
        target: Target,
        done: Callable[[Verdict], None],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.released: Deferred[None] = Deferred()
        self.received = 0
        """Bytes that came."""
        self.had = 0
        """Bytes that were there before."""
        self.finish: Finish | None = None
        self._talk = conversation
        self._target = target
        self._done = done
        self._progress = progress
        self._arrivals: Arrivals | None = None
        self._size: int | None = None
        self._ahead: memoryview | None = None  # the first piece, until there is a place for it
        self._ahead_due = False  # whether it may come, and has not
        self._takes_ahead: bool | None = None  # not known until the target is open
        self._pending: list[Piece] = []
        self._pending_size = 0
        self._timer: IDelayedCall | None = None
        self._waited = False
        self._busy = False  # something is under way in the worker
        self._checking = False
        self._closed = False

    def offered(self, file: File, *, dry_run: bool = False) -> None:
        """The peer has this file. Raises `FileError` if it cannot be taken."""
        if file.size > MAX_SIZE:
            raise FileError(FileCode.TOO_LARGE, f"{file.size} bytes, and {MAX_SIZE} at most")
        if file.ahead and file.size < PIECE_SIZE:
            raise WireError(f"a first piece ahead of a file of {file.size} bytes")
        self._size = file.size if file.sized else None
        self._ahead_due = file.ahead
        self._in_worker(lambda: self._target.open(file, dry_run=dry_run), self._opened)

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        """A message of the sender came."""
        if kind == Kind.AHEAD:
            self._ahead_received(body)
            return
        arrivals = self._arrivals
        if arrivals is None or kind not in (Kind.PIECE, Kind.FINISH):
            raise WireError(f"a message of kind {kind}, where none was expected")
        try:
            if kind == Kind.PIECE:
                arrivals.add(number, len(body))
                self._take(number, body)
            else:
                finish = FINISH.decode(body)
                if len(finish.digest) != DIGEST_SIZE:
                    raise ValueError(f"a digest of {len(finish.digest)} bytes")
                arrivals.finish(number, finish.size)
                self.finish = finish
        except ValueError as error:
            raise WireError(str(error)) from error
        self._go_on()

    def closed(self) -> None:
        """The channel is gone. What came is written still, so that it need not come again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._go_on()

    def _opened(self, opened: Opened) -> None:
        if self._closed:
            self._go_on()
            return
        fresh = opened.chunk_size == CHUNK_SIZE and not opened.digests
        self._takes_ahead = fresh and (self._ahead_due or self._ahead is not None)
        have = Have(opened.verdict, opened.chunk_size, opened.digests, self._takes_ahead)
        if opened.chunk_size:
            self._arrivals = Arrivals(opened.chunk_size // PIECES, self._size)
        self._talk.say(Kind.HAVE, HAVE.encode(have))
        if not opened.chunk_size:
            self._done(opened.verdict)
        elif self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self._take_ahead(ahead)

    def _ahead_received(self, body: memoryview) -> None:
        """The first piece came, perhaps before it is known whether it is wanted."""
        if not self._ahead_due or len(body) != PIECE_SIZE:
            raise WireError(f"a piece of {len(body)} bytes ahead, where none was expected")
        self._ahead_due = False
        if self._takes_ahead is None:
            self._ahead = body
        else:
            self._take_ahead(body)

    def _take_ahead(self, piece: memoryview) -> None:
        if self._takes_ahead:
            self.part_received(Kind.PIECE, 0, piece)

    def _take(self, number: int, body: memoryview) -> None:
        self._pending.append((number, body))
        self._pending_size += len(body)
        self.received += len(body)
        if self._pending_size >= _HIGH_WATER and not self._talk.paused:
            self._talk.paused = True
            self._talk.channel.pauseProducing()

    def _go_on(self) -> None:
        """Do in the worker what is next."""
        if self._busy:
            return
        if self._pending and (self._is_due or self._closed):
            pieces, size = self._pending, self._pending_size
            self._pending, self._pending_size, self._waited = [], 0, False
            self._in_worker(lambda: self._target.write(pieces), lambda _: self._written(size))
        elif self._closed:
            self._release()
        elif self._arrivals is not None and self._arrivals.complete and not self._checking:
            finish = self.finish
            assert finish is not None
            self._checking = True
            self._in_worker(lambda: self._target.finish(finish), lambda _: self._checked(finish))

    @property
    def _is_due(self) -> bool:
        """Whether what has come is to be written now; sees to it that it will be."""
        arrivals = self._arrivals
        if self._pending_size >= _WORTH_A_CALL or self._waited:
            return True
        if arrivals is not None and arrivals.complete:
            return True
        if self._timer is None:
            self._timer = self._talk.channel.session.clock.callLater(_PATIENCE, self._late)
        return False

    def _late(self) -> None:
        self._timer, self._waited = None, True
        self._go_on()

    def _written(self, size: int) -> None:
        if not self._closed:
            self._talk.heard()
            if self._progress is not None:
                self._progress(size)
            if self._talk.paused and self._pending_size <= _HIGH_WATER >> 1:
                self._talk.paused = False
                self._talk.channel.resumeProducing()
        self._go_on()

    def _checked(self, finish: Finish) -> None:
        if self._closed:
            self._go_on()
            return
        self.had = finish.size - self.received
        self._talk.say(Kind.DONE, finish.digest)
        self._done(Verdict.SEND)

    def _in_worker(self, call: Callable[[], T], then: Callable[[T], None]) -> None:
        """What fails there ends the operation; the target is closed in any case."""
        self._busy = True

        def finished(result: T | None, error: JetStreamError | None) -> None:
            self._busy = False
            if error is None:
                then(result)  # type: ignore[arg-type]
            else:
                self._pending.clear()
                self._talk.fail(error)
                self._go_on()

        self._talk.work(call, finished)

    def _release(self) -> None:
        if not self.released.called:
            self._target.close()
            self.released.callback(None)
