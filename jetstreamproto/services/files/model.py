"""What needs no disk and no network: names, chunks, verdicts, patterns, and the pace of a limit."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TypeAlias

from jetstreamproto.errors import FileError

Parts: TypeAlias = tuple[str, ...]
"""A path below the served folder, as the names on the way; none for the folder itself."""

PIECES = 4
"""Messages that a whole chunk is sent in."""
CHUNK_SIZE = PIECES * (60 << 10)
"""Bytes of a chunk, unless the file is so large that it would have too many of them.

A piece then fits a fragment of the session, so that nothing has to be put together, and begins at a
page of the disk's cache.
"""
PIECE_SIZE = CHUNK_SIZE // PIECES
MAX_CHUNKS = 1 << 18
MAX_PIECES = MAX_CHUNKS * PIECES
MAX_CHUNK_SIZE = CHUNK_SIZE << 5
MAX_SIZE = MAX_CHUNKS * MAX_CHUNK_SIZE
"""Bytes of the largest file (1.875 TiB)."""
DIGEST_SIZE = 32
"""Bytes of a BLAKE3 digest."""
MAX_NAME = 255
"""UTF-8 bytes of one name, as file systems have it."""
MAX_PATH = 4096
"""UTF-8 bytes of a path."""
MAX_DEPTH = 64
"""Names in a path."""
PARTIAL = ".part"
"""What the name of an unfinished file ends in."""

_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # categories: controls, surrogates, line ends
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CHUNK_SIZES = frozenset(CHUNK_SIZE << doublings for doublings in range(6))
_DRIVE = re.compile(r"[A-Za-z]:", re.ASCII)


class FileCode(IntEnum):
    """Why an operation failed: the code of its channel's reset."""

    NOT_FOUND = 256
    EXISTS = 257
    IS_FOLDER = 258
    NOT_FOLDER = 259
    NOT_A_FILE = 260
    BAD_NAME = 261
    NAME_TOO_LONG = 262
    NO_SPACE = 263
    NO_PERMISSION = 264
    BUSY = 265
    TAKEN_OVER = 266
    CHANGED = 267
    WRONG_DIGEST = 268
    TOO_LARGE = 269
    IO_ERROR = 270


class Overwrite(IntEnum):
    """What to do about a file that is there already and differs in size or time."""

    ALWAYS = 0
    NEWER = 1  # replace it if what comes is newer
    NEVER = 2  # that is an error


class Verdict(IntEnum):
    """What the receiver wants of a file that it was offered."""

    SEND = 0
    SAME = 1  # it has one of the same size and time
    OLDER = 2  # its own is as new, and only newer ones were to replace it


class EntryKind(IntEnum):
    """What is behind a name."""

    FILE = 0
    FOLDER = 1
    LINK = 2
    OTHER = 3


# --- names ---------------------------------------------------------------------------------


def read_path(text: str) -> Parts:
    """The names in a path with `/` between them; "" is the folder itself.

    Raises `FileError` (BAD_NAME, NAME_TOO_LONG) for a path that is absolute, leaves the folder, or
    has a name in it that no file should have.
    """
    if not text:
        return ()
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise FileError(FileCode.NAME_TOO_LONG, f"a path has at most {MAX_PATH} bytes")
    parts = tuple(text.split("/"))
    if len(parts) > MAX_DEPTH:
        raise FileError(FileCode.NAME_TOO_LONG, f"a path has at most {MAX_DEPTH} names")
    for name in parts:
        check_name(name)
    return parts


def check_name(name: str) -> None:
    """Raise `FileError` unless `name` can be that of one file or folder, anywhere."""
    problem = _problem(name)
    if problem is not None:
        raise FileError(FileCode.BAD_NAME, f"{name!a} is no name here: {problem}")
    if len(name.encode()) > MAX_NAME:
        raise FileError(FileCode.NAME_TOO_LONG, f"{name[:40]}...: over {MAX_NAME} bytes")


def _problem(name: str) -> str | None:
    if name in ("", ".", ".."):
        return "paths are relative, without empty names, '.' or '..'"
    if "/" in name or "\\" in name or _DRIVE.match(name):
        return "it has a separator or a drive in it"
    if any(c in _BIDI or unicodedata.category(c) in _HIDDEN for c in name):
        return "it has control characters in it"
    return None


def is_good_name(name: str) -> bool:
    """Whether `check_name` has nothing against it."""
    try:
        check_name(name)
    except FileError:
        return False
    return True


def check_target(parts: Parts) -> None:
    """Raise `FileError` unless a file may be kept under that path."""
    if not parts:
        raise FileError(FileCode.IS_FOLDER, "that is the folder itself: a name is missing")
    if parts[-1].endswith(PARTIAL):
        raise FileError(
            FileCode.BAD_NAME,
            f"{parts[-1]!a} ends in {PARTIAL}, which marks files that are not complete yet:"
            " it cannot be kept under that name",
        )
    if len((parts[-1] + PARTIAL).encode()) > MAX_NAME:
        raise FileError(
            FileCode.NAME_TOO_LONG, f"{parts[-1][:40]}...: no room for {PARTIAL} behind it"
        )


# --- chunks --------------------------------------------------------------------------------


def chunk_size_of(size: int) -> int:
    """The size of the chunks for a file of `size` bytes, such that there are not too many.

    Raises `FileError` for a file that is too large.
    """
    if size > MAX_SIZE:
        raise FileError(FileCode.TOO_LARGE, f"{size} bytes; a file has at most {MAX_SIZE}")
    chunk_size = CHUNK_SIZE
    while chunk_size * MAX_CHUNKS < size:
        chunk_size *= 2
    return chunk_size


def is_chunk_size(size: int) -> bool:
    """Whether a peer may cut a file into chunks of that size."""
    return size in _CHUNK_SIZES


class Arrivals:
    """Which pieces have come, and whether they can be of one file.

    `size` is None where it is not known beforehand.
    """

    def __init__(self, piece_size: int, size: int | None) -> None:
        self.count = 0
        """Pieces that have come."""
        self.total: int | None = None
        """Pieces that were sent; None until the sender has said so."""
        self._piece_size = piece_size
        self._size = size
        self._limit = MAX_PIECES * piece_size if size is None else size
        self._end = 0  # of the one that ends last
        self._seen = bytearray()  # a byte a piece
        self._short: int | None = None  # the number of the one that is not full: the last

    def add(self, number: int, length: int) -> None:
        """Piece `number` has come. Raises `ValueError` if that cannot be."""
        end = number * self._piece_size + length
        if number >= MAX_PIECES or not 0 < length <= self._piece_size or end > self._limit:
            raise ValueError(f"piece {number} of {length} bytes, which is not in the file")
        if number in self:
            raise ValueError(f"piece {number} a second time")
        if self.total is not None and self.count >= self.total:
            raise ValueError(f"piece {number} after the last one")
        if length < self._piece_size:
            if self._short is not None or end < self._end or end < (self._size or 0):
                raise ValueError(f"piece {number} has {length} bytes, and is not the last one")
            self._short = number
        elif self._short is not None and number > self._short:
            raise ValueError(f"piece {number} behind the last one")
        if number >= len(self._seen):
            self._seen.extend(bytes(number + 1 - len(self._seen)))
        self._seen[number] = 1
        self._end = max(self._end, end)
        self.count += 1

    def __contains__(self, number: int) -> bool:
        return number < len(self._seen) and self._seen[number] == 1

    def finish(self, total: int, size: int) -> None:
        """The sender says how many it has sent, and the file's size. Raises `ValueError`."""
        if self.total is not None:
            raise ValueError("a second end of the file")
        wrong = self._size is not None and size != self._size
        if wrong or size > self._limit or self._end > size or total < self.count:
            raise ValueError(f"the file ends at {size} after {total} pieces, which cannot be")
        if total > -(-size // self._piece_size):
            raise ValueError(f"{total} pieces of a file of {size} bytes")
        self.total = total

    @property
    def complete(self) -> bool:
        """Whether all that was sent has come."""
        return self.count == self.total


# --- what to do about a file that is there --------------------------------------------------


def judge(
    policy: Overwrite,
    offered: tuple[int, int] | None,
    there: tuple[EntryKind, int, int] | None,
) -> Verdict:
    """What to do with a file that is offered under a name.

    `offered` is its size and time (ns since 1970), None where they are not known; `there` the kind,
    size and time of what has that name. Raises `FileError`.
    """
    if there is None:
        return Verdict.SEND
    kind, size, mtime = there
    if kind is EntryKind.FOLDER:
        raise FileError(FileCode.IS_FOLDER, "there is a folder of that name")
    if kind is EntryKind.OTHER:
        raise FileError(FileCode.NOT_A_FILE, "what has that name is neither file nor folder")
    if kind is EntryKind.FILE and offered == (size, mtime):
        return Verdict.SAME
    if policy is Overwrite.NEVER:
        raise FileError(FileCode.EXISTS, "there is another file of that name")
    if policy is Overwrite.NEWER and offered is not None and mtime >= offered[1]:
        return Verdict.OLDER
    return Verdict.SEND


# --- which paths a peer may use ---------------------------------------------------------------

EVERYTHING = "**"
"""The pattern of every path."""


def read_pattern(text: str) -> str:
    """A pattern of paths: names as in `fnmatch`, and `**` for any number of them.

    Raises `ValueError` for one that could match nothing.
    """
    if not text or any(name in ("", ".", "..") for name in text.split("/")):
        raise ValueError(f"{text!r} is not a pattern of paths, such as inbox/** or *.txt")
    return text


class PathRules:
    """The paths that match one of some patterns. `inbox/**` means `inbox` and all below it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compile(pattern) for pattern in patterns]

    def allows(self, parts: Parts) -> bool:
        """Whether the path matches."""
        return any(len(names) in _reach(names, parts) for names in self._patterns)

    def leads(self, parts: Parts) -> bool:
        """Whether the path matches, or something below it could."""
        return any(_reach(names, parts) for names in self._patterns)


_Compiled: TypeAlias = Sequence[re.Pattern[str] | None]  # None for `**`


def _compile(pattern: str) -> _Compiled:
    names = pattern.split("/")
    return [None if n == EVERYTHING else re.compile(fnmatch.translate(n)) for n in names]


def _reach(names: _Compiled, parts: Parts) -> set[int]:
    """How far into a pattern the parts can lead: the numbers of its names that are next."""
    reached = _skip(names, {0})
    for part in parts:
        following = set()
        for at in reached:
            if at == len(names):
                continue
            expected = names[at]
            if expected is None:
                following.add(at)
            elif expected.match(part):
                following.add(at + 1)
        reached = _skip(names, following)
    return reached


def _skip(names: _Compiled, reached: set[int]) -> set[int]:
    """A `**` may stand for nothing."""
    found = set(reached)
    for at in reached:
        while at < len(names) and names[at] is None:
            at += 1
            found.add(at)
    return found


# --- the pace of a limit -----------------------------------------------------------------------


_SLACK = 0.05  # seconds by which a timer may be late, which is made up for


class Throttle:
    """Keeps a sender to `rate` bytes a second, over any second or two."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free = float("-inf")  # when all that was spent is paid for

    def delay(self, now: float) -> float:
        """Seconds until more may be sent."""
        return max(0.0, self._free - now)

    def spend(self, now: float, size: int) -> None:
        """`size` bytes are sent."""
        self._free = max(self._free, now - _SLACK) + size / self._rate
