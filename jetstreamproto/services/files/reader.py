"""Reading a file, or a stream, once and in order: its chunks as messages, and its digest."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field

from blake3 import blake3

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.failures import explained, wait_for
from jetstreamproto.services.files.folder import OpenFile
from jetstreamproto.services.files.messages import Finish, Kind, encode_part
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    MAX_CHUNKS,
    FileCode,
)

_BATCH = 1 << 21
_LONGEST = 1 << 26  # bytes of what the peer has that are passed over in one go


@dataclass
class Batch:
    """What one call has read.

    `chunks` are messages, each with the number of the file's bytes in it, `size` in all. `skipped`
    bytes need not be sent. `finish` is there at the end.
    """

    chunks: list[tuple[bytes, int]] = field(default_factory=list)
    size: int = 0
    skipped: int = 0
    finish: Finish | None = None


class Reader:
    """Reads `file`; without one, the stream behind `descriptor`. Calls of `read` block."""

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

    def start(self, chunk_size: int, digests: bytes) -> None:
        """The peer wants chunks of that size, less those that have one of its `digests`."""
        self._chunk_size = chunk_size
        self._digests = digests

    def read(self) -> Batch:
        """The next part of the file. Raises `FileError`, CHANGED if it is not what it was."""
        batch = Batch()
        wanted = max(1, _BATCH // self._chunk_size) * self._chunk_size
        with explained():
            while not batch.chunks and batch.skipped < _LONGEST and batch.finish is None:
                limit = wanted
                if self.file is not None:
                    limit = min(wanted, self.file.size - self._position)
                data = self._fill(limit)
                self._hasher.update(data)
                self._cut(data, batch)
                if len(data) < wanted:
                    self._check_file()
                    batch.finish = Finish(self._position, self._hasher.digest())
        return batch

    def close(self) -> None:
        """Give up the file; a stream stays open."""
        if self.file is not None:
            os.close(self._descriptor)

    def _fill(self, size: int) -> bytes:
        """The next `size` bytes, less at the end."""
        data = self._read_some(size) if size else b""
        if len(data) == size or not data:
            return data
        pieces, have = [data], len(data)
        while have < size:
            data = self._read_some(size - have)
            if not data:
                break
            pieces.append(data)
            have += len(data)
        return b"".join(pieces)

    def _read_some(self, size: int) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, size)
            except BlockingIOError:
                wait_for(self._descriptor, select.POLLIN)

    def _cut(self, data: bytes, batch: Batch) -> None:
        """Add the chunks in `data` that the peer does not have."""
        view, step = memoryview(data), self._chunk_size
        number = self._position // step
        for start in range(0, len(data), step):
            chunk = view[start : start + step]
            if number >= MAX_CHUNKS:
                raise FileError(FileCode.TOO_LARGE, f"the stream has over {number * step} bytes")
            theirs = self._digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
            if theirs and theirs == blake3(chunk).digest():
                batch.skipped += len(chunk)
            else:
                batch.chunks.append((encode_part(Kind.CHUNK, chunk, number), len(chunk)))
                batch.size += len(chunk)
            number += 1
        self._position += len(data)

    def _check_file(self) -> None:
        file = self.file
        if file is None:
            return
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns, self._position) != (file.size, file.mtime_ns, file.size):
            raise FileError(FileCode.CHANGED, "the file was changed while it was being sent")


OpenReader = Callable[[], Reader]
"""Opens what is to be sent; blocks, and raises `FileError`."""
