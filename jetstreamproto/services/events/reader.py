"""Reads streams: what is committed, without waiting for the writer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from jetstreamproto.services.events.model.consumer import ConsumerConfig, Progress
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.model.streams import MAX_COUNT, StreamInfo
from jetstreamproto.services.events.model.topics import matches
from jetstreamproto.services.events.store import SHIFT, StoredStream, connect, read_config


class EventReader:
    """Reads what is committed."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)
        self._db.execute("PRAGMA query_only=1")

    def close(self) -> None:
        """Read no more."""
        self._db.close()

    def streams(self) -> list[StoredStream]:
        """All streams."""
        rows = self._db.execute("SELECT id, config, first, last, count, size FROM streams")
        return [
            StoredStream(key, StreamInfo(read_config(text), *numbers))
            for key, text, *numbers in rows
        ]

    def consumers(self, stream_id: int) -> list[tuple[ConsumerConfig, Progress]]:
        """The consumers of a stream."""
        rows = self._db.execute(
            "SELECT config, floor, done, attempts FROM consumers WHERE stream=?", (stream_id,)
        )
        return [(ConsumerConfig(*json.loads(text)), Progress(*rest)) for text, *rest in rows]

    def read(self, stream_id: int, sequence: int, count: int, size: int) -> list[Event]:
        """Events from `sequence` on: at most `count`, and no more once they have `size` bytes."""
        base = stream_id << SHIFT
        events = []
        with closing(
            self._db.execute(
                "SELECT topic, payload, id, time FROM events WHERE id BETWEEN ? AND ?"
                " ORDER BY id LIMIT ?",
                (base | sequence, base | MAX_COUNT - 1, count),
            )
        ) as rows:
            for topic, payload, key, time in rows:
                events.append(Event(topic, payload, key - base, time))
                size -= len(payload)
                if size <= 0:
                    break
        return events

    def pick(self, stream_id: int, sequences: Iterable[int]) -> list[Event]:
        """Those of the events with these numbers that are still there."""
        base = stream_id << SHIFT
        found = []
        for number in sequences:
            row = self._db.execute(
                "SELECT topic, payload, time FROM events WHERE id=?", (base | number,)
            ).fetchone()
            if row is not None:
                found.append(Event(row[0], row[1], number, row[2]))
        return found

    def newest(self, stream_id: int, pattern: str, first: int, last: int) -> int:
        """The newest sequence from `first` to `last` that matches; what follows `last` if none."""
        base = stream_id << SHIFT
        with closing(
            self._db.execute(
                "SELECT topic, id FROM events WHERE id BETWEEN ? AND ? ORDER BY id DESC",
                (base | first, base | last),
            )
        ) as rows:
            for topic, key in rows:
                if matches(pattern, topic):
                    return int(key - base)
        return last + 1

    def at_time(self, info: StreamInfo, stream_id: int, time: int) -> int:
        """The first sequence of an event taken at `time` or later, by bisection."""
        base, low, high = stream_id << SHIFT, info.first, info.last + 1
        while low < high:
            middle = (low + high) // 2
            row = self._db.execute(
                "SELECT time FROM events WHERE id >= ? ORDER BY id LIMIT 1", (base | middle,)
            ).fetchone()
            if row is None or row[0] >= time:
                high = middle
            else:
                low = middle + 1
        return low
