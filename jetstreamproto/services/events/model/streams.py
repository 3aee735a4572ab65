"""What a stream keeps, for how long, and how that is checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.limits import EventLimits
from jetstreamproto.services.events.model.topics import (
    SYSTEM,
    check_name,
    check_pattern,
    overlaps,
)

DEAD = "$dead"
"""The stream of the events that a durable consumer gave up, and the first token of their topics."""
MAX_COUNT = 1 << 40
"""Sequence numbers of a stream end below this."""
_MOST = 1 << 53


class StreamConfig(NamedTuple):
    """A stream keeps every event whose topic one of `topics` matches.

    The oldest are removed when it holds more than `max_count` events or `max_bytes` of topics and
    payloads, or when they are older than `max_age` seconds. 0 is no limit.
    """

    name: str
    topics: tuple[str, ...]
    max_age: float = 0.0
    max_bytes: int = 0
    max_count: int = 0


DEAD_LETTERS = StreamConfig(DEAD, (f"{DEAD}.>",), max_bytes=256 << 20, max_count=100_000)
"""What the stream of dead letters is when the first one is written."""


class StreamInfo(NamedTuple):
    """A stream and what is in it: from `first` to `last` (which is below `first` if nothing is)."""

    config: StreamConfig
    first: int
    last: int
    events: int
    size: int


def check_stream(
    config: StreamConfig, others: Iterable[StreamConfig], limits: EventLimits
) -> StreamConfig:
    """`config` if it can stand beside `others`. Raises `EventError`."""
    check_name(config.name, "stream")
    if config.name.startswith(SYSTEM):
        raise EventError(EventCode.BAD_TOPIC, f"streams with {SYSTEM} are the system's")
    if not 0 < len(config.topics) <= limits.stream_topics:
        raise EventError(
            EventCode.LIMIT, f"a stream has 1 to {limits.stream_topics} patterns of topics"
        )
    for topic in config.topics:
        if check_pattern(topic).startswith(SYSTEM):
            raise EventError(EventCode.BAD_TOPIC, f"topics with {SYSTEM} are the system's")
    for number in (config.max_age, config.max_bytes, config.max_count):
        if not 0 <= number <= _MOST:
            raise EventError(EventCode.LIMIT, f"{number} is no limit of a stream")
    others = list(others)
    if len(others) >= limits.streams:
        raise EventError(EventCode.LIMIT, f"there are {limits.streams} streams already")
    for other in others:
        for topic in other.topics:
            for mine in config.topics:
                if overlaps(topic, mine):
                    raise EventError(
                        EventCode.STREAM_CONFLICT,
                        f"{mine} overlaps with {topic} of the stream {other.name}",
                    )
    return config


def stream_for(pattern: str, streams: Iterable[StreamConfig]) -> str:
    """The name of the one stream that keeps some of what `pattern` matches.

    Raises `EventError` if there is none, or more than one.
    """
    found = [s.name for s in streams if any(overlaps(topic, pattern) for topic in s.topics)]
    if not found:
        raise EventError(EventCode.NO_STREAM, f"no stream keeps topics like {pattern}")
    if len(found) > 1:
        raise EventError(
            EventCode.STREAM_CONFLICT,
            f"{pattern} goes over the streams {', '.join(sorted(found)[:5])}; read one at a time",
        )
    return found[0]
