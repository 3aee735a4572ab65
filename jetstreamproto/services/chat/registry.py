"""What outlives the process beside the history: who claimed which name, rooms, and their mutes.

One SQLite file, which is read when the server starts. Writes are few (their makers are held to
some a second) and done one after the other in a thread; each is on disk when its Deferred fires.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from twisted.internet.defer import Deferred, fail

from jetstreamproto.errors import ChatError, ConfigurationError
from jetstreamproto.services.chat.model.codes import ChatCode

FILE = "chat.sqlite"
"""The name of the file in the data folder."""
FORMAT = 1
"""Of the file, as its `user_version`."""

InThread = Callable[[Callable[[], None]], "Deferred[None]"]
"""Runs functions in a thread, one after the other; fires when that is done, or fails as it did."""

_MOST_WAITING = 10_000  # writes
_SCHEMA = """
CREATE TABLE names(
  key TEXT PRIMARY KEY, name TEXT NOT NULL, identity TEXT NOT NULL, used INTEGER NOT NULL);
CREATE TABLE rooms(name TEXT PRIMARY KEY, owner TEXT, topic TEXT NOT NULL);
CREATE TABLE mutes(
  room TEXT NOT NULL, standing TEXT NOT NULL, PRIMARY KEY(room, standing)) WITHOUT ROWID;
"""


class KeptRoom(NamedTuple):
    """A room as it is on disk."""

    name: str
    owner: str | None
    topic: str
    mutes: tuple[str, ...]


class Registry:
    """The file at `path`, made if there is none. Raises `ConfigurationError` if it is of no use."""

    def __init__(self, path: Path, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._waiting = 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;")
        except sqlite3.Error as error:
            raise ConfigurationError(f"{path}: {error}") from error
        if found not in (0, FORMAT):
            raise ConfigurationError(f"{path}: format {found}, this version has {FORMAT}")

    def names(self) -> Sequence[tuple[str, str]]:
        """Every claimed name with its identity, those used last at the end."""
        return self._db.execute("SELECT name, identity FROM names ORDER BY used").fetchall()

    def rooms(self) -> Sequence[KeptRoom]:
        """Every room that has an owner, a topic or mutes."""
        mutes: dict[str, list[str]] = {}
        for room, standing in self._db.execute("SELECT room, standing FROM mutes"):
            mutes.setdefault(room, []).append(standing)
        rows = self._db.execute("SELECT name, owner, topic FROM rooms").fetchall()
        return [
            KeptRoom(name, owner, topic, tuple(mutes.get(name, ()))) for name, owner, topic in rows
        ]

    def save_name(self, key: str, name: str, identity: str, now: int) -> Deferred[None]:
        """An identity uses a name that is its own. The last one used counts."""
        return self._write(
            "INSERT OR REPLACE INTO names VALUES(?,?,?,?)", (key, name, identity, now)
        )

    def save_room(self, name: str, owner: str | None, topic: str) -> Deferred[None]:
        """A room has this owner and topic."""
        return self._write("INSERT OR REPLACE INTO rooms VALUES(?,?,?)", (name, owner, topic))

    def save_mute(self, room: str, standing: str, muted: bool) -> Deferred[None]:
        """Somebody is muted in a room, or not any more."""
        if muted:
            return self._write("INSERT OR IGNORE INTO mutes VALUES(?,?)", (room, standing))
        return self._write("DELETE FROM mutes WHERE room=? AND standing=?", (room, standing))

    def close(self) -> None:
        """Nothing may be waiting any more."""
        self._db.close()

    def _write(self, statement: str, values: Sequence[str | int | None]) -> Deferred[None]:
        if self._waiting >= _MOST_WAITING:
            return fail(ChatError(ChatCode.STORE_FAILED, "too much waits for the disk"))
        self._waiting += 1

        def write() -> None:
            self._db.execute(statement, values)

        def written(_: None) -> None:
            self._waiting -= 1

        def failed(failure: object) -> None:
            self._waiting -= 1
            error = getattr(failure, "value", None)
            raise ChatError(ChatCode.STORE_FAILED, f"it could not be kept: {error}")

        return self._in_thread(write).addCallbacks(written, failed)
