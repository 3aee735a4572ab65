"""Streams in SQLite: what is on disk, written by plain calls in one thread.

`EventStore` writes, and belongs to the journal's thread; `EventReader` (reader.py) reads what was
committed, on a connection of its own, without waiting for the writer (write-ahead log). Another
backend offers the same two. Synchronous is FULL, so a commit is on disk when it returns; a crash,
or a tail of the log that is torn, loses whole transactions that were not committed
(https://sqlite.org/wal.html).

An event's key is its stream's id and its sequence number in one integer, so a stream is a range of
one B-tree. What is counted of a stream is written in the transaction that changes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from jetstreamproto.errors import ConfigurationError, EventError
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.consumer import ConsumerConfig, Progress
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.model.streams import (
    DEAD,
    DEAD_LETTERS,
    MAX_COUNT,
    StreamConfig,
    StreamInfo,
)

FORMAT = 1
"""Of the database, as its `user_version`."""

SHIFT = 40
"""Bits of an event's key that are its sequence."""
_TRIM = 10_000  # events removed in one commit
_SCHEMA = """
CREATE TABLE streams(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL, config TEXT NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL,
  time INTEGER NOT NULL);
CREATE TABLE events(
  id INTEGER PRIMARY KEY, time INTEGER NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE publishers(
  stream INTEGER NOT NULL, publisher BLOB NOT NULL, number INTEGER NOT NULL,
  time INTEGER NOT NULL, PRIMARY KEY(stream, publisher)) WITHOUT ROWID;
CREATE TABLE consumers(
  stream INTEGER NOT NULL, name TEXT NOT NULL, config TEXT NOT NULL, floor INTEGER NOT NULL,
  done BLOB NOT NULL, attempts BLOB NOT NULL, PRIMARY KEY(stream, name)) WITHOUT ROWID;
"""


class StoredStream(NamedTuple):
    """A stream as it is on disk."""

    id: int
    info: StreamInfo


class Appended(NamedTuple):
    """What became of a batch: each event's sequence, 0 for a duplicate, and the stream after it."""

    sequences: Sequence[int]
    events: Sequence[Event]
    stream: StoredStream


class _Stream:
    """A stream's row, as it will be when the transaction is committed."""

    def __init__(self, key: int, config: StreamConfig, numbers: Sequence[int]) -> None:
        self.id = key
        self.config = config
        self.first, self.last, self.count, self.size, self.time = numbers
        self.publishers: dict[bytes, int] = {}

    def stored(self) -> StoredStream:
        return StoredStream(
            self.id, StreamInfo(self.config, self.first, self.last, self.count, self.size)
        )


def open_database(path: Path) -> None:
    """Make the database if there is none. Raises `ConfigurationError` if it cannot be used."""
    try:
        with closing(connect(path)) as connection:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;"
                )
            elif found != FORMAT:
                raise ConfigurationError(f"{path}: format {found}, this version has {FORMAT}")
            if mode != "wal":
                raise ConfigurationError(f"{path}: the file system allows no write-ahead log")
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose transactions are explicit, and on disk when they are committed."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


class EventStore:
    """The one writer. Everything but `begin` and `commit` happens between these two."""

    def __init__(self, path: Path, publishers: int) -> None:
        self._db = connect(path)
        self._max_publishers = publishers
        self._streams = {stream.id: stream for stream in self._load()}
        self._changed: set[int] = set()

    def begin(self) -> None:
        """Start a transaction."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Put what was done since `begin` on disk."""
        for key in self._changed:
            s = self._streams[key]
            self._db.execute(
                "UPDATE streams SET first=?, last=?, count=?, size=?, time=? WHERE id=?",
                (s.first, s.last, s.count, s.size, s.time, key),
            )
        self._db.execute("COMMIT")
        self._changed.clear()

    def roll_back(self) -> None:
        """Forget what was done since `begin`."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._changed.clear()
        self._streams = {stream.id: stream for stream in self._load()}

    def close(self) -> None:
        """Fold the log into the database and close it."""
        self._db.close()

    # --- events ---------------------------------------------------------------------------

    def append(
        self,
        stream_id: int,
        events: Sequence[tuple[str, bytes]],
        time: int,
        publisher: bytes = b"",
        numbers: Sequence[int] = (),
    ) -> Appended:
        """Add events. Those whose number is not above the publisher's last one are duplicates.

        `numbers` has one for each event, ascending, if there is a publisher. Raises `EventError` if
        the stream is gone.
        """
        stream = self._find(stream_id)
        time = stream.time = max(time, stream.time)
        newest = self._newest(stream, publisher) if publisher else -1
        base, sequence, size = stream_id << SHIFT, stream.last, 0
        sequences, kept = [], []
        for index, (topic, payload) in enumerate(events):
            if publisher and numbers[index] <= newest:
                sequences.append(0)
                continue
            sequence += 1
            size += len(topic) + len(payload)
            sequences.append(sequence)
            kept.append(Event(topic, payload, sequence, time))
        if sequence >= MAX_COUNT:
            raise EventError(EventCode.LIMIT, f"the stream {stream.config.name} is at its end")
        if kept:
            self._db.executemany(
                "INSERT INTO events VALUES(?,?,?,?)",
                [(base | e[2], e[3], e[0], e[1]) for e in kept],
            )
            stream.last, stream.count = sequence, stream.count + len(kept)
            stream.size += size
            if publisher:
                self._remember(stream, publisher, numbers[-1], time)
            self._trim(stream)
            self._changed.add(stream_id)
        return Appended(sequences, kept, stream.stored())

    def trim(self, now: int) -> list[StoredStream]:
        """Remove what is too old at `now`, in all streams; the streams that this changed."""
        changed = []
        for stream in self._streams.values():
            before = stream.count
            if stream.config.max_age and stream.count:
                stream.time = max(now, stream.time)
                self._trim(stream)
                if stream.count != before:
                    self._changed.add(stream.id)
                    changed.append(stream.stored())
        return changed

    def bury(self, stream_id: int, consumer: str, sequence: int) -> Appended | None:
        """Copy an event to the dead letters; None if it is gone already."""
        row = self._db.execute(
            "SELECT topic, payload, time FROM events WHERE id=?", (stream_id << SHIFT | sequence,)
        ).fetchone()
        if row is None:
            return None
        dead = next((s for s in self._streams.values() if s.config.name == DEAD), None)
        key = self.add_stream(DEAD_LETTERS).id if dead is None else dead.id
        name = self._find(stream_id).config.name
        return self.append(key, [(f"{DEAD}.{name}.{consumer}.{row[0]}", row[1])], row[2])

    def _trim(self, stream: _Stream) -> None:
        config = stream.config
        before = stream.time - int(config.max_age * 1e6) if config.max_age else 0
        if not self._too_much(stream) and not before:
            return
        base = stream.id << SHIFT
        removed, size = 0, 0
        rows = self._db.execute(
            "SELECT id, time, length(topic), length(payload)"
            " FROM events WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
            (base | stream.first, base | stream.last, _TRIM),
        )
        last = 0
        for key, time, topic, payload in rows:
            over = self._too_much(stream, removed, size)
            if not over and time >= before:
                break
            last, removed, size = key, removed + 1, size + topic + payload
        rows.close()
        if removed:
            self._db.execute("DELETE FROM events WHERE id BETWEEN ? AND ?", (base, last))
            stream.first = (last - base) + 1
            stream.count -= removed
            stream.size -= size

    @staticmethod
    def _too_much(stream: _Stream, removed: int = 0, size: int = 0) -> bool:
        config = stream.config
        return bool(
            (config.max_count and stream.count - removed > config.max_count)
            or (config.max_bytes and stream.size - size > config.max_bytes)
        )

    def _newest(self, stream: _Stream, publisher: bytes) -> int:
        newest = stream.publishers.get(publisher)
        if newest is None:
            row = self._db.execute(
                "SELECT number FROM publishers WHERE stream=? AND publisher=?",
                (stream.id, publisher),
            ).fetchone()
            newest = -1 if row is None else row[0]
        return newest

    def _remember(self, stream: _Stream, publisher: bytes, number: int, time: int) -> None:
        if publisher not in stream.publishers:
            if len(stream.publishers) >= self._max_publishers:
                stream.publishers.clear()
            self._db.execute(
                "DELETE FROM publishers WHERE stream=?1 AND publisher IN (SELECT publisher FROM"
                " publishers WHERE stream=?1 ORDER BY time DESC LIMIT -1 OFFSET ?2)",
                (stream.id, self._max_publishers - 1),
            )
        stream.publishers[publisher] = number
        self._db.execute(
            "INSERT OR REPLACE INTO publishers VALUES(?,?,?,?)",
            (stream.id, publisher, number, time),
        )

    # --- streams and consumers --------------------------------------------------------------

    def add_stream(self, config: StreamConfig) -> StoredStream:
        """A new stream, empty."""
        cursor = self._db.execute(
            "INSERT INTO streams(name, config, first, last, count, size, time)"
            " VALUES(?,?,1,0,0,0,0)",
            (config.name, json.dumps(config)),
        )
        assert cursor.lastrowid is not None
        stream = _Stream(cursor.lastrowid, config, (1, 0, 0, 0, 0))
        self._streams[stream.id] = stream
        return stream.stored()

    def change_stream(self, stream_id: int, config: StreamConfig) -> StoredStream:
        """Other limits, or other topics for what comes from now on."""
        stream = self._find(stream_id)
        stream.config = config
        self._db.execute("UPDATE streams SET config=? WHERE id=?", (json.dumps(config), stream_id))
        self._trim(stream)
        self._changed.add(stream_id)
        return stream.stored()

    def remove_stream(self, stream_id: int) -> None:
        """Remove a stream with its events and consumers."""
        self._find(stream_id)
        base = stream_id << SHIFT
        self._db.execute(
            "DELETE FROM events WHERE id BETWEEN ? AND ?", (base, base | MAX_COUNT - 1)
        )
        for table in ("publishers", "consumers"):
            self._db.execute(f"DELETE FROM {table} WHERE stream=?", (stream_id,))
        self._db.execute("DELETE FROM streams WHERE id=?", (stream_id,))
        del self._streams[stream_id]
        self._changed.discard(stream_id)

    def save_consumer(self, stream_id: int, config: ConsumerConfig, progress: Progress) -> None:
        """Keep a consumer and how far it is. Raises `EventError` if the stream is gone."""
        self._find(stream_id)
        self._db.execute(
            "INSERT OR REPLACE INTO consumers VALUES(?,?,?,?,?,?)",
            (stream_id, config.name, json.dumps(config), *progress),
        )

    def remove_consumer(self, stream_id: int, name: str) -> None:
        """Forget a consumer."""
        self._db.execute("DELETE FROM consumers WHERE stream=? AND name=?", (stream_id, name))

    def _find(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise EventError(EventCode.NO_STREAM, "the stream was removed")
        return stream

    def _load(self) -> list[_Stream]:
        rows = self._db.execute(
            "SELECT id, config, first, last, count, size, time FROM streams ORDER BY id"
        )
        return [_Stream(key, read_config(text), numbers) for key, text, *numbers in rows]


def read_config(text: str) -> StreamConfig:
    """A stream's configuration as it is kept."""
    name, topics, *rest = json.loads(text)
    return StreamConfig(name, tuple(topics), *rest)
