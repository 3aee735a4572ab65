"""A folder and what is in it, reached a name at a time so that no path leads out of it.

Every folder on the way is opened relative to the one above it, without following links, so that
nobody who moves things about meanwhile can change where a path leads. Calls block; they
raise `FileError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.failures import explained
from jetstreamproto.services.files.messages import Entry
from jetstreamproto.services.files.model import (
    MAX_DEPTH,
    PARTIAL,
    EntryKind,
    FileCode,
    Parts,
    check_target,
    is_good_name,
)
from jetstreamproto.services.files.partial import Partial, lock_partial

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW_FOLDER = 0o777  # less the umask
_PERMISSIONS = 0o777


class OpenFile(NamedTuple):
    """A file that is open for reading; whoever has it closes it."""

    descriptor: int
    size: int
    mtime_ns: int
    mode: int


class Folder:
    """A folder that is open until `close`. Raises `FileError` if it cannot be."""

    def __init__(self, path: Path) -> None:
        try:
            with explained():
                self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileError as error:
            raise FileError(error.code, f"{path}: {error}") from error

    def close(self) -> None:
        """Give up the folder; nothing can be reached any more."""
        os.close(self._root)

    @contextmanager
    def opened(self, parts: Parts, *, create: bool = False) -> Iterator[int]:
        """The descriptor of the folder at `parts`; with `create`, folders that lack are made."""
        with explained():
            current = os.dup(self._root)
            try:
                for name in parts:
                    above, current = current, _enter(current, name, create)
                    os.close(above)
                yield current
            finally:
                os.close(current)

    def look(self, parts: Parts) -> Entry | None:
        """What is at `parts`, None if nothing is. The entry's path is the last name."""
        try:
            if not parts:
                return _entry("", os.stat(self._root))
            with self.opened(parts[:-1]) as above:
                return _entry(parts[-1], os.lstat(parts[-1], dir_fd=above))
        except FileError as error:
            if error.code == FileCode.NOT_FOUND:
                return None
            raise

    def open_file(self, parts: Parts) -> OpenFile:
        """The file at `parts`, for reading."""
        if not parts:
            raise FileError(FileCode.IS_FOLDER, "that is a folder")
        with self.opened(parts[:-1]) as above:
            return open_file(parts[-1], above, _READ)

    def open_partial(self, parts: Parts) -> Partial:
        """The unfinished file for `parts`, for nobody else meanwhile; folders above are made."""
        check_target(parts)
        with self.opened(parts[:-1], create=True) as above:
            return lock_partial(above, parts[-1])

    def make_folder(self, parts: Parts) -> None:
        """Make the folder, and those above it, unless they are there."""
        with self.opened(parts, create=True):
            pass

    def scan(self, parts: Parts, *, deep: bool) -> Iterator[Entry | None]:
        """What is in the folder at `parts`, by name; None for what has a name not to be told.

        Paths are relative to it. Unfinished files are left out. With `deep`, what is in each
        folder comes right after it; links are not followed. A folder that goes away meanwhile, or
        that may not be read, is as an empty one.
        """
        with self.opened(parts) as folder:
            names = sorted(os.listdir(folder))
        yield from self._scan(parts, (), names, deep)

    def _scan(
        self, base: Parts, below: Parts, names: list[str], deep: bool
    ) -> Iterator[Entry | None]:
        for name in names:
            if not is_good_name(name):
                yield None
                continue
            path = (*below, name)
            try:
                entry = self.look((*base, *path))
            except FileError:
                continue
            if entry is None or (entry.kind is EntryKind.FILE and name.endswith(PARTIAL)):
                continue
            yield entry._replace(path="/".join(path))
            if deep and entry.kind is EntryKind.FOLDER and len(base) + len(path) < MAX_DEPTH:
                try:
                    with self.opened((*base, *path)) as folder:
                        inside = sorted(os.listdir(folder))
                except FileError:
                    continue
                yield from self._scan(base, path, inside, deep)


def open_file(name: str | Path, above: int | None, flags: int = _READ & ~os.O_NOFOLLOW) -> OpenFile:
    """The file of that name in the folder `above`, for reading; links only with other flags."""
    with explained():
        descriptor = os.open(name, flags, dir_fd=above)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                raise FileError(FileCode.IS_FOLDER, "that is a folder")
            if not stat.S_ISREG(found.st_mode):
                raise FileError(FileCode.NOT_A_FILE, "that is neither a file nor a folder")
        except BaseException:
            os.close(descriptor)
            raise
    mode = found.st_mode & _PERMISSIONS
    return OpenFile(descriptor, found.st_size, found.st_mtime_ns, mode)


def _enter(above: int, name: str, create: bool) -> int:
    """The descriptor of the folder `name` in `above`."""
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno != errno.ENOENT or not create:
            raise
    with suppress(FileExistsError):  # somebody was quicker
        os.mkdir(name, _NEW_FOLDER, dir_fd=above)
    return os.open(name, _FOLDER, dir_fd=above)


def _entry(name: str, found: os.stat_result) -> Entry:
    mode = found.st_mode
    if stat.S_ISREG(mode):
        kind = EntryKind.FILE
    elif stat.S_ISDIR(mode):
        kind = EntryKind.FOLDER
    else:
        kind = EntryKind.LINK if stat.S_ISLNK(mode) else EntryKind.OTHER
    size = found.st_size if kind is EntryKind.FILE else 0
    return Entry(name, kind, size, found.st_mtime_ns, mode & _PERMISSIONS)
