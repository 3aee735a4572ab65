"""Where what is received goes: to a file of a folder, or out by a descriptor. Calls block."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from blake3 import blake3

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.failures import explained, wait_for
from jetstreamproto.services.files.folder import Folder
from jetstreamproto.services.files.memory import keep_freed_memory
from jetstreamproto.services.files.messages import File, Finish
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    MAX_CHUNKS,
    PIECES,
    FileCode,
    Overwrite,
    Parts,
    Verdict,
    chunk_size_of,
    judge,
)
from jetstreamproto.services.files.partial import Partial

Piece: TypeAlias = tuple[int, memoryview]
"""Number and content."""


_RUN = 8  # pieces that are written in one call at most


class Opened(NamedTuple):
    """What a target says to a file: without a chunk size nothing is to be sent."""

    verdict: Verdict
    chunk_size: int = 0
    digests: bytes = b""


class Target(Protocol):
    """Takes one file. All may raise `FileError`."""

    def open(self, file: File, *, dry_run: bool) -> Opened: ...

    def write(self, pieces: Sequence[Piece]) -> None:
        """Pieces that have come, each once."""

    def finish(self, finish: Finish) -> None:
        """Everything has come: check size and digest, and make it a file."""

    def close(self) -> None:
        """It is over, at whatever point."""


class FileTarget:
    """The file at `parts` of a folder."""

    def __init__(self, folder: Folder, parts: Parts, overwrite: Overwrite) -> None:
        self._folder = folder
        self._parts = parts
        self._overwrite = overwrite
        self._file: File
        self._partial: Partial | None = None
        self._piece_size = CHUNK_SIZE // PIECES
        self._hasher = blake3()
        self._hashed = 0  # pieces from the start that are in the hash
        self._beyond: set[int] = set()  # of those written, the ones behind a gap

    def open(self, file: File, *, dry_run: bool) -> Opened:
        there = self._folder.look(self._parts)
        verdict = judge(
            self._overwrite,
            (file.size, file.mtime_ns) if file.sized else None,
            None if there is None else (there.kind, there.size, there.mtime_ns),
        )
        if verdict is not Verdict.SEND or dry_run:
            return Opened(verdict)
        self._file = file
        chunk_size = chunk_size_of(file.size)
        self._piece_size = chunk_size // PIECES
        self._partial = self._folder.open_partial(self._parts)
        keep_freed_memory()
        most = -(-file.size // chunk_size) if file.sized else MAX_CHUNKS
        return Opened(verdict, chunk_size, self._partial.digests(chunk_size, most))

    def write(self, pieces: Sequence[Piece]) -> None:
        run, following = list[memoryview](), -1
        for number, view in pieces:
            if run and (number != following or len(run) == _RUN):
                self._write_run(following - len(run), run)
                run = []
            run.append(view)
            following = number + 1
        if run:
            self._write_run(following - len(run), run)

    def _write_run(self, first: int, run: Sequence[memoryview]) -> None:
        """Write pieces that follow each other, and hash them while they are in the core's cache."""
        assert self._partial is not None
        self._partial.write(first * self._piece_size, run)
        for number, view in enumerate(run, first):
            if number == self._hashed:
                self._hasher.update(view)
                self._hashed += 1
                self._catch_up()
            else:
                self._beyond.add(number)

    def _catch_up(self) -> None:
        """Hash what was written before what came first has come."""
        assert self._partial is not None
        while self._hashed in self._beyond:
            self._beyond.remove(self._hashed)
            start = self._hashed * self._piece_size
            for data in self._partial.read(start, start + self._piece_size):
                self._hasher.update(data)
            self._hashed += 1

    def finish(self, finish: Finish) -> None:
        partial, file = self._partial, self._file
        assert partial is not None
        partial.cut(finish.size)
        start = min(self._hashed * self._piece_size, finish.size)
        for data in partial.read(start, finish.size):
            self._hasher.update(data)
        if self._hasher.digest() != finish.digest:
            raise FileError(FileCode.WRONG_DIGEST, "what has arrived has another digest")
        partial.finish(file.mtime_ns if file.sized else None, file.mode & 0o777)

    def close(self) -> None:
        if self._partial is not None:
            self._partial.close()
            self._partial = None


class StreamTarget:
    """A descriptor that takes everything in order, such as that of standard output."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hasher = blake3()
        self._size = 0

    def open(self, file: File, *, dry_run: bool) -> Opened:
        return Opened(Verdict.SEND, 0 if dry_run else chunk_size_of(file.size))

    def write(self, pieces: Sequence[Piece]) -> None:
        for _, view in pieces:
            self._hasher.update(view)
            self._size += len(view)
            with explained():
                self._write_all(view)

    def _write_all(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                wait_for(self._descriptor, select.POLLOUT)

    def finish(self, finish: Finish) -> None:
        if (self._size, self._hasher.digest()) != finish[:2]:
            raise FileError(FileCode.WRONG_DIGEST, "what has arrived has another digest")

    def close(self) -> None:
        """The descriptor is not ours."""
