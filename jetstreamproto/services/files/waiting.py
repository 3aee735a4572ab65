"""Whether a file can be read without waiting for a disk, and how."""

from __future__ import annotations

import os
from errno import EAGAIN
from functools import cache
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def flags_not_to_wait(descriptor: int) -> int | None:
    """The flags that `os.preadv` of this file takes not to wait; None if there are none.

    With them, it raises `BlockingIOError` for what would have to come from a disk. A file system
    in memory needs none: that is 0.
    """
    flags: int | None = getattr(os, "RWF_NOWAIT", None)
    if flags is None:
        return None
    try:
        os.preadv(descriptor, [bytearray(1)], 0, flags)
    except OSError as error:
        if error.errno != EAGAIN:  # this file system does not know the flag
            return 0 if _is_in_memory(os.fstat(descriptor).st_dev) else None
    return flags


@cache
def _is_in_memory(device: int) -> bool:
    """Whether that is the device of a file system in memory, by what proc(5) says of mounts."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    for line in lines:
        before, _, kind = line.partition(" - ")
        if before.split()[2:3] == [wanted]:
            return kind.partition(" ")[0] in _IN_MEMORY
    return False
