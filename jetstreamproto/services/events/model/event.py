"""Events, where reading begins, and what a slow subscriber gets."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Event(NamedTuple):
    """One event. `sequence` is its number in its stream, 0 where no stream keeps its topic.

    `time` is when it was taken: microseconds since 1970 on the server's clock. `attempt` counts
    the deliveries of a durable consumer, from 1.
    """

    topic: str
    payload: bytes
    sequence: int = 0
    time: int = 0
    attempt: int = 1


class Start(IntEnum):
    """Where a subscription begins."""

    NEW = 0
    ALL = 1
    LAST = 2
    SEQUENCE = 3
    TIME = 4


class Policy(IntEnum):
    """What becomes of events that a live subscriber is too slow for.

    PAUSE reads them from their stream instead, later; DROP loses the oldest; DISCONNECT ends the
    subscription.
    """

    DROP = 0
    DISCONNECT = 1
    PAUSE = 2


class Receipt(NamedTuple):
    """A published event was taken, and is on disk if a stream keeps it.

    `sequence` is 0 where none does, and for a duplicate.
    """

    sequence: int
    duplicate: bool = False
