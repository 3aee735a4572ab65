"""What the operating system says about files, as the errors of this service."""

from __future__ import annotations

import errno
import select
from collections.abc import Iterator
from contextlib import contextmanager

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.model import FileCode

_CODES = {
    errno.ENOENT: FileCode.NOT_FOUND,
    errno.EEXIST: FileCode.EXISTS,
    errno.EISDIR: FileCode.IS_FOLDER,
    errno.ENOTDIR: FileCode.NOT_FOLDER,
    errno.ELOOP: FileCode.NOT_A_FILE,
    errno.ENXIO: FileCode.NOT_A_FILE,
    errno.ENAMETOOLONG: FileCode.NAME_TOO_LONG,
    errno.ENOSPC: FileCode.NO_SPACE,
    errno.EDQUOT: FileCode.NO_SPACE,
    errno.EFBIG: FileCode.TOO_LARGE,
    errno.EACCES: FileCode.NO_PERMISSION,
    errno.EPERM: FileCode.NO_PERMISSION,
    errno.EROFS: FileCode.NO_PERMISSION,
    errno.EAGAIN: FileCode.BUSY,
    errno.ETXTBSY: FileCode.BUSY,
}
_WORDS = {
    errno.ENOENT: "not found",
    errno.ENOTDIR: "not a folder (symbolic links are not followed)",
    errno.ELOOP: "symbolic links are not followed",
    errno.ENXIO: "neither a file nor a folder",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "no space left in the quota",
    errno.EFBIG: "larger than files may be there",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "no permission: the disk is read-only",
    errno.EAGAIN: "somebody else is sending it",
}


def file_error(error: OSError) -> FileError:
    """The error that an operating system's error comes to; paths are not in it."""
    number = error.errno or 0
    words = _WORDS.get(number) or (error.strerror or "input or output failed").lower()
    return FileError(_CODES.get(number, FileCode.IO_ERROR), words)


def wait_for(descriptor: int, event: int) -> None:
    """Wait until a descriptor that somebody made non-blocking is ready (`select.POLLIN`, ...)."""
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()


@contextmanager
def explained() -> Iterator[None]:
    """Makes a `FileError` of an `OSError`."""
    try:
        yield
    except OSError as error:
        raise file_error(error) from error
