"""A file that is not complete: `NAME.part`, until it is all there and gets its name.

What it holds is proved by its content: before more is sent, the digests of its chunks are
compared with the sender's. So nothing but the file itself has to survive a crash. It is never
deleted.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from blake3 import blake3

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.failures import explained
from jetstreamproto.services.files.model import PARTIAL, FileCode

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PRIVATE = 0o600
_BLOCK = 1 << 20
_VECTORS = 64  # of one call, far below what any system allows


class Partial:
    """Owns the descriptors; locked, so that no other process or connection writes it."""

    def __init__(self, above: int, name: str, descriptor: int) -> None:
        self._above = above
        self._name = name
        self._descriptor = descriptor

    def digests(self, chunk_size: int, limit: int) -> bytes:
        """The digests of its whole chunks and of what is behind them, at most `limit` in all."""
        found = []
        with explained():
            for number in range(limit):
                chunk = os.pread(self._descriptor, chunk_size, number * chunk_size)
                if not chunk:
                    break
                found.append(blake3(chunk).digest())
        return b"".join(found)

    def write(self, offset: int, views: Sequence[bytes | memoryview]) -> None:
        """Write these from `offset` on."""
        with explained():
            for start in range(0, len(views), _VECTORS):
                some = views[start : start + _VECTORS]
                whole = sum(map(len, some))
                written = os.pwritev(self._descriptor, some, offset)
                if written < whole:
                    self._write_rest(offset + written, b"".join(some)[written:])
                offset += whole

    def _write_rest(self, offset: int, data: bytes) -> None:
        """What a call has not taken, as when the disk is about to be full."""
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            offset += written
            data = data[written:]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """What is there from `start` to `end`, which is less if the file is shorter."""
        with explained():
            while start < end:
                data = os.pread(self._descriptor, min(_BLOCK, end - start), start)
                if not data:
                    return
                yield data
                start += len(data)

    def cut(self, size: int) -> None:
        """Let it end at `size`."""
        with explained():
            os.ftruncate(self._descriptor, size)

    def finish(self, mtime_ns: int | None, mode: int) -> None:
        """Give it its name, this mode and, if it is said, this time.

        It replaces what has that name.
        """
        with explained():
            os.fchmod(self._descriptor, mode)
            if mtime_ns is not None:
                os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
            here = os.fstat(self._descriptor)
            there = os.lstat(self._name + PARTIAL, dir_fd=self._above)
            if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
                raise FileError(FileCode.CHANGED, f"somebody has replaced the {PARTIAL} file")
            os.rename(
                self._name + PARTIAL, self._name, src_dir_fd=self._above, dst_dir_fd=self._above
            )

    def close(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)
        os.close(self._above)


def lock_partial(above: int, name: str) -> Partial:
    """The partial of the file `name` in the folder `above`; BUSY if somebody has it."""
    with explained():
        descriptor = os.open(name + PARTIAL, _OPEN, _PRIVATE, dir_fd=above)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise FileError(FileCode.NOT_A_FILE, f"its {PARTIAL} file is a link, or no file")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Partial(os.dup(above), name, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
