"""What happens, as everybody concerned is told."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class NoticeKind(IntEnum):
    """What happened; `name` did it, to `target`."""

    SAID = 0
    TOLD = 1
    """A direct message."""
    JOINED = 2
    LEFT = 3
    RENAMED = 4
    """`name` is `target` now."""
    TOPIC = 5
    KICKED = 6
    MUTED = 7
    UNMUTED = 8


class Notice(NamedTuple):
    """Something that happened in `room` (empty: in none, or in all that `name` is in).

    `sequence` is the number of what is kept in the history, 0 for what is not. `time` is on the
    server's clock, in microseconds since 1970.
    """

    kind: NoticeKind
    room: str
    name: str
    target: str = ""
    text: str = ""
    sequence: int = 0
    time: int = 0


class Member(NamedTuple):
    """Somebody in a room."""

    name: str
    owner: bool = False
    muted: bool = False
