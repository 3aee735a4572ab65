"""`FileClient`: files and folders of a server, for applications."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from jetstreamproto.errors import FileError, SessionClosed
from jetstreamproto.services.files.asking import (
    Asking,
    Contents,
    Download,
    FolderMaking,
    ListingOf,
    Plan,
    Progress,
    Transfer,
    Upload,
)
from jetstreamproto.services.files.conversation import FILES, Worker
from jetstreamproto.services.files.folder import Folder, open_file
from jetstreamproto.services.files.messages import List
from jetstreamproto.services.files.model import Overwrite, Parts, read_path
from jetstreamproto.services.files.reader import Reader
from jetstreamproto.services.files.target import FileTarget, StreamTarget
from jetstreamproto.session.session import Session
from jetstreamproto.wire.session_messages import Mode

T = TypeVar("T")

_FAR = 0.01
"""Seconds of round trip from which on the first piece of a file does not wait for the answer."""
_WORTH_SENDING_AHEAD = 1 << 20
"""Bytes of a file of which it is."""
_BULK = 6
"""The urgency of the channels: what others send goes first."""


def in_thread(call: Callable[[], T]) -> Deferred[T]:
    """A worker: runs `call` in a thread of the reactor's pool."""
    return deferToThread(call)


class FileClient:
    """The service `files` of the peer of `session`.

    What blocks is done in threads of the reactor's pool, or as `in_worker` says. Every method gives
    a Deferred, which fails with `FileError`, with `NotAllowed` or `ServiceNotFound`, or with what
    has broken the session; cancelling it ends the operation. A transfer that was broken off
    goes on where it was when it is asked for again: until then the receiver has `NAME.part`.
    """

    def __init__(self, session: Session, in_worker: Worker | None = None) -> None:
        self.in_worker: Worker = in_worker or in_thread
        self._session = session
        # Once in a session: what that teaches of the path is of use to all that follows.
        self._sends_ahead = session.link.streams and (session.link.rtt or 0.0) >= _FAR

    def send(
        self,
        source: Path | str,
        path: str,
        *,
        overwrite: Overwrite = Overwrite.ALWAYS,
        dry_run: bool = False,
        limit: int = 0,
        progress: Progress | None = None,
    ) -> Deferred[Transfer]:
        """Send the file `source`, to be `path` in the served folder; folders above it are made.

        A file there of the same size and time is left as it is. `limit` is in bytes a second, 0 for
        none. With `dry_run` the result says what would be done.
        """
        plan = Plan(path, overwrite, dry_run, limit, progress)
        ahead = self._sends_ahead and not (dry_run or limit)
        self._sends_ahead = False

        def open_reader() -> tuple[Reader, bytes]:
            file = open_file(source, None)
            reader = Reader(file)
            return reader, reader.first() if ahead and file.size >= _WORTH_SENDING_AHEAD else b""

        def opened(found: tuple[Reader, bytes]) -> Deferred[Transfer]:
            return self._send(found[0], replace(plan, ahead=found[1]))

        return self.in_worker(open_reader).addCallback(opened)

    def send_stream(
        self,
        descriptor: int,
        path: str,
        *,
        overwrite: Overwrite = Overwrite.ALWAYS,
        limit: int = 0,
        progress: Progress | None = None,
    ) -> Deferred[Transfer]:
        """Send what a pipe or the like gives until its end, at most 60 GiB."""
        plan = Plan(path, overwrite, False, limit, progress)
        return self._send(Reader(None, descriptor), plan)

    def get(
        self,
        path: str,
        destination: Path | str,
        *,
        overwrite: Overwrite = Overwrite.ALWAYS,
        dry_run: bool = False,
        limit: int = 0,
        progress: Progress | None = None,
    ) -> Deferred[Transfer]:
        """Get the file `path`, to be the file `destination` here, whose folder there has to be."""
        plan = Plan(path, overwrite, dry_run, limit, progress)
        place = Path(destination)

        def opened(folder: Folder) -> Deferred[Transfer]:
            return self.get_into(folder, (place.name,), plan).addBoth(closed, folder)

        def closed(result: T, folder: Folder) -> T:
            folder.close()
            return result

        return self.in_worker(lambda: Folder(place.parent)).addCallback(opened)

    def get_into(self, folder: Folder, parts: Parts, plan: Plan) -> Deferred[Transfer]:
        """Get a file to a path in an open folder."""
        target = FileTarget(folder, parts, plan.overwrite)
        return self._run(Download(self.in_worker, target, plan), plan.path)

    def get_stream(
        self, path: str, descriptor: int, *, limit: int = 0, progress: Progress | None = None
    ) -> Deferred[Transfer]:
        """Get the file `path`, and write it to a pipe or the like."""
        plan = Plan(path, limit=limit, progress=progress)
        download = Download(self.in_worker, StreamTarget(descriptor), plan)
        return self._run(download, path, in_order=True)

    def list(self, path: str = "", *, deep: bool = False) -> Deferred[Contents]:
        """What is in a folder, with `deep` also in those in it; of a file, itself with path ""."""
        return self._run(ListingOf(self.in_worker, List(path, deep)), path, in_order=True)

    def make_folder(self, path: str) -> Deferred[None]:
        """Make a folder, and those above it, unless they are there."""
        return self._run(FolderMaking(self.in_worker, path), path)

    def _send(self, reader: Reader, plan: Plan) -> Deferred[Transfer]:
        return self._run(Upload(self.in_worker, reader, plan), plan.path)

    def _run(self, asking: Asking[T], path: str, *, in_order: bool = False) -> Deferred[T]:
        """The result of an operation on `path`, whose first message travels with the OPEN."""
        session = self._session
        try:
            read_path(path)
        except FileError as error:
            asking.over(error)
            return asking.finished
        if not session.accepts_channels:
            asking.over(SessionClosed("the session takes no new channels"))
            return asking.finished
        mode = Mode.UNORDERED if session.link.streams and not in_order else Mode.ORDERED
        opening = session.open(FILES, asking, urgency=_BULK, mode=mode)
        opening.addErrback(asking.refused)
        asking.begin()
        return asking.finished
