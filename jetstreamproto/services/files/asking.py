"""The asking side of each operation: what a client says, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.errors import FileError, JetStreamError, SessionCut, WireError
from jetstreamproto.services.files.conversation import Conversation, Worker
from jetstreamproto.services.files.listing import MAX_ENTRIES
from jetstreamproto.services.files.messages import (
    ENTRIES,
    FILE,
    FOLDER,
    GET,
    LIST,
    Entry,
    File,
    Finish,
    Get,
    Kind,
    List,
    MakeFolder,
)
from jetstreamproto.services.files.model import FileCode, Overwrite, Verdict, read_path
from jetstreamproto.services.files.reader import Reader
from jetstreamproto.services.files.sink import Sink
from jetstreamproto.services.files.source import Source
from jetstreamproto.services.files.target import Target
from jetstreamproto.session.codes import ResetCode

T = TypeVar("T")

Progress = Callable[[int], None]
"""Called with a number of bytes that are done now, whether they had to be sent or not."""

_STREAM_MODE = 0o644


@dataclass(frozen=True)
class Transfer:
    """How the transfer of one file has ended.

    `verdict` says whether it was wanted; `sent` are the bytes that went over the wire, of `size`.
    `digest` is the BLAKE3 digest, in hex, that both sides agree on, "" where nothing was sent.
    `other` says that what a `.part` file held was of another version, or damaged: of it only those
    chunks were of use that both have, `size - sent` bytes.
    """

    path: str
    verdict: Verdict
    size: int
    sent: int = 0
    digest: str = ""
    other: bool = False


@dataclass(frozen=True)
class Contents:
    """A listing, and how many entries had names that cannot be told."""

    entries: tuple[Entry, ...]
    unnamed: int = 0


@dataclass(frozen=True)
class Plan:
    """What was asked for about a file."""

    path: str
    overwrite: Overwrite = Overwrite.ALWAYS
    dry_run: bool = False
    limit: int = 0
    progress: Progress | None = None
    ahead: bytes = b""
    """The file's first piece, if that is not to wait for an answer."""


class Asking(Conversation, Generic[T]):
    """An operation of this side; `finished` fires with its result, cancelling it ends it."""

    def __init__(self, in_worker: Worker) -> None:
        super().__init__(in_worker)
        self.finished: Deferred[T] = Deferred(lambda _: self._cancel())
        self._settled = False

    def begin(self) -> None:
        """Say what is asked for."""
        raise NotImplementedError

    def settle(self, result: T) -> None:
        """It is done."""
        self.end()
        if not self._settled:
            self._settled = True
            self.finished.callback(result)

    def over(self, error: JetStreamError | None) -> None:
        """The channel is closed, or there never was one."""
        self._closed = True
        self.let_go()
        if not self._settled:
            self._settled = True
            self.finished.errback(error or SessionCut("the peer has ended the operation early"))

    def refused(self, failure: Failure) -> None:
        """The channel did not come to be."""
        error = failure.value
        self.over(error if isinstance(error, JetStreamError) else None)

    def let_go(self) -> None:
        """Nothing more is done on the channel."""

    def _cancel(self) -> None:
        self._settled = True
        self.channel.reset(ResetCode.CANCELLED, "it was given up")


class Upload(Asking[Transfer]):
    """Sends one file."""

    def __init__(self, in_worker: Worker, reader: Reader, plan: Plan) -> None:
        super().__init__(in_worker)
        self._plan = plan
        self._reader = reader
        self._source = Source(self, reader, plan.limit, self._done, self._progress)

    def begin(self) -> None:
        plan, file = self._plan, self._reader.file
        size, mtime_ns, mode = (0, 0, _STREAM_MODE) if file is None else file[1:]
        self._source.offer(
            File(plan.path, size, file is not None, mtime_ns, mode, plan.overwrite, plan.dry_run),
            plan.ahead,
        )

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        self._source.part_received(kind, number, body)

    def let_go(self) -> None:
        self._source.closed()

    def _progress(self, sent: int, skipped: int) -> None:
        if self._plan.progress is not None:
            self._plan.progress(sent + skipped)

    def _done(self, verdict: Verdict) -> None:
        source, file = self._source, self._reader.file
        if source.finish is None:
            size = 0 if file is None else file.size
            self.settle(Transfer(self._plan.path, verdict, size))
            return
        finish = source.finish
        self.settle(_transferred(self._plan.path, finish, source.sent))


class Download(Asking[Transfer]):
    """Gets one file."""

    def __init__(self, in_worker: Worker, target: Target, plan: Plan) -> None:
        super().__init__(in_worker)
        self._plan = plan
        self._sink = Sink(self, target, self._done, plan.progress)
        self._size: int | None = None

    def begin(self) -> None:
        self.say(Kind.GET, GET.encode(Get(self._plan.path, self._plan.limit)))

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        if kind == Kind.FILE and self._size is None:
            file: File = FILE.decode(body)
            self._size = file.size
            self._sink.offered(file, dry_run=self._plan.dry_run)
        else:
            self._sink.part_received(kind, number, body)

    def let_go(self) -> None:
        self._sink.closed()

    def _done(self, verdict: Verdict) -> None:
        sink = self._sink
        path, size = self._plan.path, self._size or 0
        if sink.finish is None:
            self.settle(Transfer(path, verdict, size))
        else:
            self.settle(_transferred(path, sink.finish, sink.received))


def _transferred(path: str, finish: Finish, sent: int) -> Transfer:
    digest = finish.digest.hex()
    return Transfer(path, Verdict.SEND, finish.size, sent, digest, finish.other)


class ListingOf(Asking[Contents]):
    """Asks for a listing."""

    def __init__(self, in_worker: Worker, request: List) -> None:
        super().__init__(in_worker)
        self._request = request
        self._entries: list[Entry] = []
        self._unnamed = 0

    def begin(self) -> None:
        self.say(Kind.LIST, LIST.encode(self._request))

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        if kind == Kind.DONE:
            self.settle(Contents(tuple(self._entries), self._unnamed))
            return
        if kind != Kind.ENTRIES:
            raise WireError(f"a message of kind {kind} in a listing")
        part = ENTRIES.decode(body)
        if len(self._entries) + len(part.entries) > MAX_ENTRIES:
            raise FileError(FileCode.TOO_LARGE, f"a listing of over {MAX_ENTRIES} entries")
        for entry in part.entries:
            read_path(entry.path)  # they become paths here
        self._entries.extend(part.entries)
        self._unnamed += part.unnamed


class FolderMaking(Asking[None]):
    """Asks for a folder."""

    def __init__(self, in_worker: Worker, path: str) -> None:
        super().__init__(in_worker)
        self._path = path

    def begin(self) -> None:
        self.say(Kind.FOLDER, FOLDER.encode(MakeFolder(self._path)))

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        if kind != Kind.DONE:
            raise WireError(f"a message of kind {kind}, where none was expected")
        self.settle(None)
