"""The service `files`: what a server does for each operation that a peer asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from jetstreamproto.errors import (
    ChannelReset,
    ConfigurationError,
    FileError,
    JetStreamError,
    NotAllowed,
    WireError,
)
from jetstreamproto.services.files.conversation import FILES, Conversation, T, Worker
from jetstreamproto.services.files.folder import Folder
from jetstreamproto.services.files.listing import Listing
from jetstreamproto.services.files.messages import (
    FILE,
    FOLDER,
    GET,
    LIST,
    Entry,
    File,
    Get,
    Kind,
    List,
)
from jetstreamproto.services.files.model import (
    DIGEST_SIZE,
    EVERYTHING,
    EntryKind,
    FileCode,
    Parts,
    PathRules,
    check_target,
    read_path,
)
from jetstreamproto.services.files.reader import Reader
from jetstreamproto.services.files.sink import Sink
from jetstreamproto.services.files.source import Source
from jetstreamproto.services.files.target import FileTarget
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.session import Session

READ, WRITE = "read", "write"
"""The scopes that a rule of access may have: patterns of paths."""
MAX_OPERATIONS = 32
"""Operations that one session may have under way."""
MAX_OPERATIONS_IN_ALL = 256

_rules = lru_cache(maxsize=256)(PathRules)


def everything(
    session: Session, service: str, scope: str, default: Sequence[str] = ()
) -> tuple[str, ...]:
    """The permissions of a server without rules."""
    return tuple(default)


class FileOffer(Offer):
    """Serves the folder `root`; `writable` lets peers send files too, where rules allow it.

    Raises `ConfigurationError` if it is no folder that can be opened.
    """

    def __init__(
        self, root: Path, writable: bool = False, permissions: Permissions = everything
    ) -> None:
        super().__init__({FILES: self._converse})
        self._root = root
        try:
            Folder(root).close()
        except FileError as error:
            raise ConfigurationError(f"--files {error}") from error
        self.desk = Desk(writable, permissions)

    def start(self, reactor: Any) -> None:
        def in_threads(call: Callable[[], T]) -> Deferred[T]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), call)

        self.desk.open(Folder(self._root), in_threads)

    def stop(self) -> None:
        self.desk.close()

    def _converse(self) -> Operation:
        return Operation(self.desk)


class Desk:
    """What all operations of a server share: the folder, who may do what, what is under way."""

    def __init__(self, writable: bool, permissions: Permissions) -> None:
        self.uploads: dict[Parts, Operation] = {}
        """Who is sending which file."""
        self.operations = 0
        self._of_sessions: dict[Session, int] = {}
        self._writable = writable
        self._permissions = permissions
        self._folder: Folder | None = None
        self._worker: Worker

    def open(self, folder: Folder, worker: Worker) -> None:
        """Serve `folder`, and do what blocks in `worker`."""
        self._folder, self._worker = folder, worker

    def close(self) -> None:
        """Serve nothing any more."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()

    @property
    def folder(self) -> Folder:
        """The folder that is served."""
        if self._folder is None:
            raise ChannelReset(ResetCode.GOING_AWAY, "no files are served now")
        return self._folder

    def in_worker(self, call: Callable[[], T]) -> Deferred[T]:
        """A `Worker`."""
        return self._worker(call)

    def enter(self, session: Session) -> None:
        """An operation begins; raises `ChannelReset` when there are too many."""
        here = self._of_sessions.get(session, 0)
        if here >= MAX_OPERATIONS or self.operations >= MAX_OPERATIONS_IN_ALL:
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many operations on files at a time")
        self._of_sessions[session] = here + 1
        self.operations += 1

    def leave(self, session: Session) -> None:
        """An operation has ended."""
        self.operations -= 1
        self._of_sessions[session] -= 1
        if not self._of_sessions[session]:
            del self._of_sessions[session]

    def rules(self, session: Session, scope: str) -> PathRules:
        """The paths that the session's peer may read, or write."""
        allowed = scope == READ or self._writable
        default = (EVERYTHING,) if allowed else ()
        patterns = self._permissions(session, FILES, scope, default) if allowed else ()
        return _rules(patterns)


class Role(Protocol):
    """What an operation turned out to be."""

    def part_received(self, kind: int, number: int, body: memoryview) -> None: ...

    def closed(self) -> None: ...


class Operation(Conversation):
    """One operation of a peer: its first message says which."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk.in_worker)
        self.released: Deferred[None] | None = None
        """Of an upload: fires when its file can be opened by another."""
        self._desk = desk
        self._asked = self._entered = False
        self._role: Role | None = None
        self._ahead: memoryview | None = None  # the first piece, until there is a role to take it
        self._upload: Parts | None = None

    def channel_opened(self) -> None:
        super().channel_opened()
        try:
            self._desk.enter(self.channel.session)
            self._entered = True
        except ChannelReset as error:
            self.fail(error)

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        if self._role is not None:
            self._role.part_received(kind, number, body)
            return
        if kind == Kind.AHEAD and self._ahead is None:  # it has overtaken FILE, or that waits
            self._ahead = body
            return
        begin = _REQUESTS.get(kind)
        if self._asked or begin is None:
            raise WireError(f"a message of kind {kind}, where none was expected")
        self._asked = True
        begin(self, body)

    def over(self, error: JetStreamError | None) -> None:
        if self._upload is not None and self._desk.uploads.get(self._upload) is self:
            del self._desk.uploads[self._upload]
        if self._role is not None:
            self._role.closed()
        if self._entered:
            self._desk.leave(self.channel.session)

    def _check(self, scope: str, path: str, *, leads: bool = False) -> Parts:
        """The path, if the peer may use it so; with `leads`, if it may use something below."""
        parts = read_path(path)
        rules = self._desk.rules(self.channel.session, scope)
        if not (rules.leads(parts) if leads else rules.allows(parts)):
            what = path or "the folder"
            raise NotAllowed(ResetCode.NOT_ALLOWED, f"you may not {scope} {what} here")
        return parts

    # --- what may be asked for ---------------------------------------------------------------

    def _get(self, body: memoryview) -> None:
        request: Get = GET.decode(body)
        parts = self._check(READ, request.path)
        folder = self._desk.folder
        self.work(
            lambda: Reader(folder.open_file(parts)),
            lambda reader, error: self._send(request, reader, error),
        )

    def _send(self, request: Get, reader: Reader | None, error: JetStreamError | None) -> None:
        if reader is None:
            self.fail(error or WireError("nothing to read"))
            return
        file = reader.file
        assert file is not None
        if self._closed:
            reader.close()
            return
        source = Source(self, reader, request.limit, lambda verdict: None)
        self._role = source
        source.offer(File(request.path, file.size, True, file.mtime_ns, file.mode))

    def _file(self, body: memoryview) -> None:
        file: File = FILE.decode(body)
        parts = self._check(WRITE, file.path)
        check_target(parts)
        if file.dry_run:
            self._receive(file, parts)
            return
        other = self._desk.uploads.get(parts)
        self._upload = parts
        if other is None:
            self._desk.uploads[parts] = self
            self._receive(file, parts)
            return
        if _owner(other) != _owner(self):
            self._upload = None
            raise FileError(FileCode.BUSY, "somebody else is sending it")
        assert other.released is not None
        self._desk.uploads[parts] = self
        other.released.addCallback(lambda _: self._receive(file, parts))
        self.released = other.released  # until there is one of our own
        other.fail(FileError(FileCode.TAKEN_OVER, "it is being sent again, over another channel"))

    def _receive(self, file: File, parts: Parts) -> None:
        if self._closed:  # while it waited for another to let the file go
            return
        try:
            target = FileTarget(self._desk.folder, parts, file.overwrite)
            sink = Sink(self, target, lambda verdict: None)
            self._role, self.released = sink, sink.released
            sink.offered(file, dry_run=file.dry_run)
            if self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                sink.part_received(Kind.AHEAD, 0, ahead)
        except (FileError, ChannelReset, WireError) as error:
            self.fail(error)

    def _list(self, body: memoryview) -> None:
        request: List = LIST.decode(body)
        parts = self._check(READ, request.path, leads=True)
        rules = self._desk.rules(self.channel.session, READ)
        folder = self._desk.folder
        listing = Listing(self, lambda: _entries(folder, parts, rules, request.deep))
        self._role = listing
        listing.start()

    def _folder(self, body: memoryview) -> None:
        parts = self._check(WRITE, FOLDER.decode(body).path)
        folder = self._desk.folder
        self.work(lambda: folder.make_folder(parts), self._made)

    def _made(self, _result: None, error: JetStreamError | None) -> None:
        if error is not None:
            self.fail(error)
        elif not self._closed:
            self.say(Kind.DONE, bytes(DIGEST_SIZE))


_REQUESTS: dict[int, Callable[[Operation, memoryview], None]] = {
    Kind.GET: Operation._get,
    Kind.FILE: Operation._file,
    Kind.LIST: Operation._list,
    Kind.FOLDER: Operation._folder,
}


def _owner(operation: Operation) -> tuple[object, ...]:
    """Who an operation belongs to."""
    session = operation.channel.session
    return session.peer.fingerprint, session.avatar


def _entries(folder: Folder, parts: Parts, rules: PathRules, deep: bool) -> Iterator[Entry | None]:
    """The listing of a folder, or the one entry of a file, as far as it may be read."""
    found = folder.look(parts)
    if found is None:
        raise FileError(FileCode.NOT_FOUND, "not found")
    if found.kind is not EntryKind.FOLDER:
        yield found._replace(path="")
        return
    for entry in folder.scan(parts, deep=deep):
        if entry is None:
            yield None
            continue
        path = (*parts, *entry.path.split("/"))
        is_folder = entry.kind is EntryKind.FOLDER
        if rules.leads(path) if is_folder else rules.allows(path):
            yield entry
