"""Reading a file, or a stream, once and in order: its pieces as messages, and its digest."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

from blake3 import blake3

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.failures import explained, wait_for
from jetstreamproto.services.files.folder import OpenFile
from jetstreamproto.services.files.memory import keep_freed_memory
from jetstreamproto.services.files.messages import Finish, Kind, encode_part
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    MAX_CHUNKS,
    PIECE_SIZE,
    PIECES,
    FileCode,
)
from jetstreamproto.services.files.waiting import flags_not_to_wait

_BATCH = 1 << 21
_LONGEST = 1 << 26  # bytes of what the peer has that are passed over in one go
_SHORT = 1 << 20  # bytes of a chunk that is read and hashed within a turn of the reactor


@dataclass
class Batch:
    """What one call has read.

    `messages` come each with the number of the file's bytes in it, `size` in all. `skipped` bytes
    need not be sent. `finish` is there at the end.
    """

    messages: list[tuple[bytes, int]] = field(default_factory=list)
    size: int = 0
    skipped: int = 0
    finish: Finish | None = None


class Reader:
    """Reads `file`; without one, the stream behind `descriptor`. `read` blocks, and has its thread.

    `read_now` does not, and needs none: of what the kernel has in memory, reading and hashing a
    chunk takes less time than a thread takes to begin with it.
    """

    def __init__(self, file: OpenFile | None, descriptor: int | None = None) -> None:
        if file is not None:
            descriptor = file.descriptor
        assert descriptor is not None
        self.file = file
        self._descriptor = descriptor
        self._hasher = blake3()
        self._position = 0
        self._chunk_size = CHUNK_SIZE
        self._digests = b""
        self._ahead = 0  # bytes of the first piece, if it was sent already
        self._other = False  # whether the peer has chunks of another version
        self._buffer = memoryview(b"")
        self._now: int | None = None  # flags to read with and not to wait, if there are any

    def first(self) -> bytes:
        """The first piece, which may be sent ahead. Blocks, and raises `FileError`."""
        with explained():
            return os.pread(self._descriptor, PIECE_SIZE, 0)

    def start(self, chunk_size: int, digests: bytes, ahead: int = 0) -> None:
        """The peer wants chunks of that size, less those that have one of its `digests`.

        `ahead` is the size of the first piece if that was sent already, and is not to be read.
        """
        self._chunk_size = chunk_size
        self._ahead = ahead
        self._digests = digests
        size = chunk_size if self.file is None else min(chunk_size, self.file.size)
        self._buffer = memoryview(bytearray(size))  # so small that it stays in the core's cache
        keep_freed_memory()
        if self.file is not None and chunk_size <= _SHORT:
            self._now = flags_not_to_wait(self._descriptor)

    def read_now(self) -> Batch | None:
        """A chunk of the file, if it can be had without waiting. Raises as `read` does."""
        position = self._position
        if self._now is None or position // self._chunk_size * DIGEST_SIZE < len(self._digests):
            return None  # or it would have to be compared, which may take several passes
        batch = Batch()
        with explained():
            try:
                self._read_chunk(batch, self._now)
            except BlockingIOError:
                return None
        return batch

    def read(self) -> Batch:
        """The next part of the file. Raises `FileError`, CHANGED if it is not what it was."""
        batch = Batch()
        with explained():
            while batch.size < _BATCH and batch.skipped < _LONGEST and batch.finish is None:
                self._read_chunk(batch)
        return batch

    def close(self) -> None:
        """Give up the file; a stream stays open."""
        if self.file is not None:
            os.close(self._descriptor)

    def _read_chunk(self, batch: Batch, flags: int = 0) -> None:
        buffer = self._buffer
        wanted = len(buffer)
        if self.file is not None:
            wanted = min(wanted, self.file.size - self._position)
        data = buffer[: self._fill(buffer[:wanted], flags)]
        self._hasher.update(data)
        if data:
            self._add(data, batch)
        if len(data) < len(buffer) or not data:
            self._check_file()
            batch.finish = Finish(self._position, self._hasher.digest(), self._other)

    def _fill(self, buffer: memoryview, flags: int) -> int:
        """Read until the buffer is full or the end has come; how much there is now in it.

        Raises `BlockingIOError` if the flags say not to wait, and all cannot be had at once.
        """
        have = 0
        while have < len(buffer):
            rest = [buffer[have:]]
            try:
                if self.file is None:
                    count = os.readv(self._descriptor, rest)
                else:
                    count = os.preadv(self._descriptor, rest, self._position + have, flags)
            except BlockingIOError:
                if flags:
                    raise
                wait_for(self._descriptor, select.POLLIN)
                continue
            if not count:
                break
            have += count
        return have

    def _add(self, chunk: memoryview, batch: Batch) -> None:
        """Add the chunk's pieces, copied since the buffer is used again, unless the peer has it."""
        number = self._position // self._chunk_size
        if number >= MAX_CHUNKS:
            raise FileError(FileCode.TOO_LARGE, f"the stream has over {self._position} bytes")
        self._position += len(chunk)
        theirs = self._digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
        if theirs:
            if theirs == blake3(chunk).digest():
                batch.skipped += len(chunk)
                return
            self._other = self._other or self._is_other(chunk, number, theirs)
        step = self._chunk_size // PIECES
        for index, start in enumerate(range(0, len(chunk), step), number * PIECES):
            if index or not self._ahead:
                piece = chunk[start : start + step]
                batch.messages.append((encode_part(Kind.PIECE, piece, index), len(piece)))
                batch.size += len(piece)

    def _is_other(self, chunk: memoryview, number: int, theirs: bytes) -> bool:
        """Whether the peer's chunk is of another version, and not one that did not come whole.

        Such a one lacks whole pieces, which are zeros, or is the last that the peer has. This is
        asked until it is so once.
        """
        if (number + 1) * DIGEST_SIZE >= len(self._digests):
            return False
        step = self._chunk_size // PIECES
        pieces = [chunk[start : start + step] for start in range(0, len(chunk), step)]
        zeros = bytes(step)
        for come in product((False, True), repeat=len(pieces)):
            hasher = blake3()
            for piece, is_there in zip(pieces, come, strict=True):
                hasher.update(piece if is_there else zeros[: len(piece)])
            if hasher.digest() == theirs:
                return False
        return True

    def _check_file(self) -> None:
        file = self.file
        if file is None:
            return
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns, self._position) != (file.size, file.mtime_ns, file.size):
            raise FileError(FileCode.CHANGED, "the file was changed while it was being sent")


OpenReader = Callable[[], Reader]
"""Opens what is to be sent; blocks, and raises `FileError`."""
