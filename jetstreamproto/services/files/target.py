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
from jetstreamproto.services.files.messages import File, Finish
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    MAX_CHUNKS,
    FileCode,
    Overwrite,
    Parts,
    Verdict,
    chunk_size_of,
    judge,
)
from jetstreamproto.services.files.partial import Partial

Chunk: TypeAlias = tuple[int, memoryview]
"""Number and content."""


class Opened(NamedTuple):
    """What a target says to a file: without a chunk size nothing is to be sent."""

    verdict: Verdict
    chunk_size: int = 0
    digests: bytes = b""


class Target(Protocol):
    """Takes one file. All may raise `FileError`."""

    def open(self, file: File, *, dry_run: bool) -> Opened: ...

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Chunks that have come, each once."""

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
        self._chunk_size = CHUNK_SIZE
        self._hasher = blake3()
        self._hashed = 0  # chunks from the start that are in the hash
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
        self._chunk_size = chunk_size_of(file.size)
        self._partial = self._folder.open_partial(self._parts)
        most = -(-file.size // self._chunk_size) if file.sized else MAX_CHUNKS
        return Opened(verdict, self._chunk_size, self._partial.digests(self._chunk_size, most))

    def write(self, chunks: Sequence[Chunk]) -> None:
        assert self._partial is not None
        step, run, following = self._chunk_size, list[memoryview](), -1
        for number, view in chunks:
            if number != following and run:
                self._partial.write((following - len(run)) * step, run)
                run = []
            run.append(view)
            following = number + 1
        if run:
            self._partial.write((following - len(run)) * step, run)
        for number, view in chunks:
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
            start = self._hashed * self._chunk_size
            for data in self._partial.read(start, start + self._chunk_size):
                self._hasher.update(data)
            self._hashed += 1

    def finish(self, finish: Finish) -> None:
        partial, file = self._partial, self._file
        assert partial is not None
        partial.cut(finish.size)
        start = min(self._hashed * self._chunk_size, finish.size)
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

    def write(self, chunks: Sequence[Chunk]) -> None:
        for _, view in chunks:
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
        if (self._size, self._hasher.digest()) != tuple(finish):
            raise FileError(FileCode.WRONG_DIGEST, "what has arrived has another digest")

    def close(self) -> None:
        """The descriptor is not ours."""
