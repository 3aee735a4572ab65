"""One transaction of the key-value store: what a group of batches changes, before it is on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from jetstreamproto.services.kv.announcing import Touched
from jetstreamproto.services.kv.model import ChangeKind, Head, Step, draft_batch
from jetstreamproto.services.kv.store import Outcome
from jetstreamproto.services.kv.tables import Tables

MAX_REMOVALS = 100_000
"""How many deletions are remembered, for watchers that come back."""

_PRUNE_MOST = 2000  # deletions that are forgotten at a time


class _Keys:
    """The keys of one bucket, as `draft_batch` asks for them."""

    def __init__(self, tables: Tables, bucket: str) -> None:
        self._tables = tables
        self._bucket = bucket
        self.field = tables.field

    def head(self, key: str) -> Head | None:
        return self._tables.head(self._bucket, key)


class Transaction:
    """The one that `tables` is in, at `now` (Unix milliseconds). Made when it has begun.

    All methods raise `sqlite3.Error`, and then the whole transaction is to be rolled back.
    """

    def __init__(self, tables: Tables, now: int) -> None:
        self._tables = tables
        self._now = now
        self._revision, self._floor = tables.counters()
        self._before = (self._revision, self._floor)
        self.touched: list[Touched] = []
        """What has been changed."""

    @property
    def counters(self) -> tuple[int, int]:
        """The store's revision and floor, as this transaction leaves them."""
        return self._revision, self._floor

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return self._before != (self._revision, self._floor)

    def save_counters(self) -> None:
        """The last thing before the commit."""
        self._tables.save_counters(self._revision, self._floor)

    def batch(self, bucket: str, steps: Sequence[Step]) -> Outcome:
        """Do a batch; raises `Refusal` if it cannot be done, and nothing of it is."""
        drafts, results = draft_batch(steps, _Keys(self._tables, bucket), self._now)
        if not drafts:
            return Outcome(results, 0)
        self._revision += 1
        self._tables.save(bucket, drafts, self._revision)
        for draft in drafts:
            kind = ChangeKind.PUT if draft.exists else ChangeKind.DELETED
            self.touched.append(Touched(bucket, draft.key, kind, self._revision))
        return Outcome(results, self._revision)

    def expire(self, most: int) -> Outcome:
        """Take away keys that have expired; how many."""
        rows = self._tables.expired(self._now, most)
        if rows:
            self._revision += 1
        for row, bucket, key in rows:
            self._tables.remove(row, bucket, key, self._revision, ChangeKind.EXPIRED)
            self.touched.append(Touched(bucket, key, ChangeKind.EXPIRED, self._revision))
        return Outcome((len(rows),), self._revision if rows else 0)

    def prune(self) -> Outcome:
        """Forget the oldest deletions if there are too many; how many more there are."""
        excess = self._tables.removals() - MAX_REMOVALS
        if excess > 0:
            self._floor = self._tables.forget_removals(min(excess, _PRUNE_MOST))
        return Outcome((max(0, excess),), 0)


def begin(connection: sqlite3.Connection) -> None:
    """Begin to write."""
    connection.execute("BEGIN IMMEDIATE")


def set_patience(connection: sqlite3.Connection, seconds: float) -> None:
    """How long to wait for another process's commit."""
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")


def roll_back(connection: sqlite3.Connection) -> None:
    """Give up what was begun, if it has not been given up already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
