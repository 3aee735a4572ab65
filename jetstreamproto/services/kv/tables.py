"""The tables of the key-value store in SQLite, and every statement that is used on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice

from jetstreamproto.services.kv.model import (
    VALUE,
    ChangeKind,
    Draft,
    Head,
    KeyEntry,
    prefix_end,
)
from jetstreamproto.services.kv.store import Changes, Position

LAYOUT = 1
"""The version of the tables, in `PRAGMA user_version`."""

_SCHEMA = """
CREATE TABLE entries (
  row INTEGER PRIMARY KEY,
  bucket TEXT NOT NULL,
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  count INTEGER NOT NULL,
  size INTEGER NOT NULL,
  value BLOB,
  UNIQUE (bucket, key)
);
CREATE INDEX entries_changed ON entries (bucket, revision, key);
CREATE INDEX entries_expire ON entries (expires) WHERE expires > 0;
CREATE TABLE fields (
  entry INTEGER NOT NULL,
  name TEXT NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (entry, name)
) WITHOUT ROWID;
CREATE TABLE removed (
  bucket TEXT NOT NULL,
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE INDEX removed_changed ON removed (bucket, revision, key);
CREATE INDEX removed_oldest ON removed (revision);
CREATE TABLE counters (revision INTEGER NOT NULL, floor INTEGER NOT NULL);
INSERT INTO counters VALUES (0, 0);
"""

_HEAD = "revision, expires, count, size, row, value IS NOT NULL"
_HEAD_ALONE = f"SELECT {_HEAD} FROM entries WHERE bucket = ? AND key = ?"
_HEAD_AND_VALUE = f"SELECT {_HEAD}, value FROM entries WHERE bucket = ? AND key = ?"
_BEFORE_END = " AND key < ?"

_WINDOW = 4096  # revisions that are looked through at a time
_MOST_CHANGES = 256  # of one answer
_MOST_BYTES = 1 << 18  # of fields in one answer, beyond its first entry
_LARGEST = 1 << 16  # bytes of an entry whose fields are sent with its change


class Tables:
    """One connection's view of the tables. Its methods raise `sqlite3.Error`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._run = connection.execute

    def create(self) -> None:
        """Make the tables, in the transaction that there is."""
        for statement in _SCHEMA.split(";\n"):
            self._run(statement)
        self._run(f"PRAGMA user_version = {LAYOUT}")

    # --- reading -----------------------------------------------------------------------

    def layout(self) -> int:
        """The version of the tables, 0 if there are none."""
        return int(self._run("PRAGMA user_version").fetchone()[0])

    def version(self) -> int:
        """Another number whenever another connection has changed something."""
        return int(self._run("PRAGMA data_version").fetchone()[0])

    def counters(self) -> tuple[int, int]:
        """The revision, and the floor below which deletions are forgotten."""
        revision, floor = self._run("SELECT revision, floor FROM counters").fetchone()
        return revision, floor

    def head(self, bucket: str, key: str) -> Head | None:
        row = self._run(_HEAD_ALONE, (bucket, key)).fetchone()
        return None if row is None else Head(*row)

    def field(self, head: Head, name: str) -> bytes | None:
        if name == VALUE:
            found = self._run("SELECT value FROM entries WHERE row = ?", (head.row,)).fetchone()
        else:
            found = self._run(
                "SELECT value FROM fields WHERE entry = ? AND name = ?", (head.row, name)
            ).fetchone()
        return None if found is None else found[0]

    def fields(
        self, bucket: str, key: str, names: Sequence[str]
    ) -> tuple[Head, list[bytes | None]] | None:
        """The head of a key and some of its fields; its value comes with the head in one look."""
        wanted = VALUE in names
        row = self._run(_HEAD_AND_VALUE if wanted else _HEAD_ALONE, (bucket, key)).fetchone()
        if row is None:
            return None
        head = Head(*row[:6])
        if wanted and len(names) == 1:
            return head, [row[6]]
        return head, [row[6] if name == VALUE else self.field(head, name) for name in names]

    def all_fields(self, head: Head) -> dict[str, bytes]:
        value = self.field(head, VALUE)
        fields = {} if value is None else {VALUE: value}
        fields.update(self._run("SELECT name, value FROM fields WHERE entry = ?", (head.row,)))
        return fields

    def scan(
        self, bucket: str, prefix: str, after: str, limit: int, now: int
    ) -> list[tuple[str, Head]]:
        """Keys with `prefix` after `after` that have not expired, in order."""
        end = prefix_end(prefix)
        rows = self._run(
            f"SELECT key, {_HEAD} FROM entries WHERE bucket = ? AND key >= ? AND key > ?"
            f" AND (expires = 0 OR expires > ?){_BEFORE_END if end else ''} ORDER BY key LIMIT ?",
            (bucket, prefix, after, now, *([end] if end else []), limit),
        )
        return [(key, Head(*rest)) for key, *rest in rows]

    def buckets(self, after: str, limit: int) -> list[str]:
        """Names of buckets after `after`, in order: one look into the index for each."""
        rows = self._run(
            "WITH RECURSIVE names(name) AS ("
            " SELECT min(bucket) FROM entries WHERE bucket > ?"
            " UNION ALL SELECT (SELECT min(bucket) FROM entries WHERE bucket > name) FROM names"
            " WHERE name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL LIMIT ?",
            (after, limit),
        )
        return [name for (name,) in rows]

    def changes(
        self, bucket: str, prefix: str, after: Position, revision: int, now: int
    ) -> Changes:
        """See `Store.changes`; `revision` is that of the store."""
        end = min(revision, after.revision + _WINDOW) + 1
        rows = self._changed_rows(bucket, prefix, after, end)
        items: list[KeyEntry] = []
        size, position = 0, after
        for kind, key, head in islice(rows, _MOST_CHANGES):
            if kind != ChangeKind.PUT:
                items.append(KeyEntry(ChangeKind(kind), key, head.revision))
            elif head.alive(now):  # or else its end is about to be told
                small = head.size <= _LARGEST
                if items and small and size + head.size > _MOST_BYTES:
                    return Changes(items, position)
                size += head.size if small else 0
                fields = self.all_fields(head) if small else None
                items.append(KeyEntry(ChangeKind.PUT, key, head.revision, head.expires, fields))
            position = Position(head.revision, key)
        return Changes(items, Position(end) if len(rows) <= _MOST_CHANGES else position)

    def _changed_rows(
        self, bucket: str, prefix: str, after: Position, end: int
    ) -> list[tuple[int, str, Head]]:
        last = prefix_end(prefix)
        where = (
            "WHERE bucket = ? AND (revision, key) > (?, ?) AND revision < ? AND key >= ?"
            f"{_BEFORE_END if last else ''}"
        )
        values = (bucket, *after, end, prefix, *([last] if last else []))
        rows = self._run(
            f"SELECT {ChangeKind.PUT:d}, key, {_HEAD} FROM entries"
            f" INDEXED BY entries_changed {where}"
            " UNION ALL SELECT kind, key, revision, 0, 0, 0, 0, 0 FROM removed"
            f" INDEXED BY removed_changed {where} ORDER BY revision, key LIMIT ?",
            (*values, *values, _MOST_CHANGES + 1),
        )
        return [(kind, key, Head(*rest)) for kind, key, *rest in rows]

    def expired(self, now: int, limit: int) -> list[tuple[int, str, str]]:
        """Row, bucket and key of keys that have expired, the longest ago first."""
        return self._run(
            "SELECT row, bucket, key FROM entries WHERE expires > 0 AND expires <= ?"
            " ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()

    # --- writing -----------------------------------------------------------------------

    def lengthen_log(self) -> None:
        """Have the write-ahead log as long as it becomes, in a transaction that is given up.

        A commit that overwrites a part of a file waits for the disk once; one that makes the file
        longer waits for its length too, which takes about twice as long.
        """
        run = self._run
        (cached,) = run("PRAGMA cache_size").fetchone()
        (pages,) = run("PRAGMA wal_autocheckpoint").fetchone()
        (size,) = run("PRAGMA page_size").fetchone()
        run("PRAGMA cache_size = 16")  # what does not fit into it goes to the log
        run("BEGIN IMMEDIATE")
        try:
            run("CREATE TABLE filler (bytes BLOB)")
            run("INSERT INTO filler VALUES (zeroblob(?))", (pages * size,))
        finally:
            if self.connection.in_transaction:
                run("ROLLBACK")
            run(f"PRAGMA cache_size = {cached}")

    def save_counters(self, revision: int, floor: int) -> None:
        self._run("UPDATE counters SET revision = ?, floor = ?", (revision, floor))

    def save(self, bucket: str, drafts: Sequence[Draft], revision: int) -> None:
        """Make the keys what a batch makes of them."""
        for draft in drafts:
            before = draft.before
            if not draft.exists:
                assert before is not None
                self.remove(before.row, bucket, draft.key, revision, ChangeKind.DELETED)
                continue
            if draft.cleared and before is not None and before.field_count > before.has_value:
                self._run("DELETE FROM fields WHERE entry = ?", (before.row,))
            row = self._save_entry(bucket, draft, revision)
            for name, value in draft.fields.items():
                if name != VALUE:
                    self._save_field(row, name, value)

    def remove(self, row: int, bucket: str, key: str, revision: int, kind: ChangeKind) -> None:
        """Take a key away, and remember that."""
        self._run("DELETE FROM fields WHERE entry = ?", (row,))
        self._run("DELETE FROM entries WHERE row = ?", (row,))
        self._run("REPLACE INTO removed VALUES (?, ?, ?, ?)", (bucket, key, revision, kind))

    def removals(self) -> int:
        """How many deletions are remembered."""
        return int(self._run("SELECT count(*) FROM removed").fetchone()[0])

    def forget_removals(self, count: int) -> int:
        """Forget so many of the oldest deletions or a few more; the new floor."""
        rows = self._run(
            "SELECT revision FROM removed ORDER BY revision LIMIT 1 OFFSET ?", (count - 1,)
        ).fetchall()
        if not rows:
            return 0
        floor: int = rows[0][0]
        self._run("DELETE FROM removed WHERE revision <= ?", (floor,))
        return floor

    def _save_entry(self, bucket: str, draft: Draft, revision: int) -> int:
        """The row of the key, with everything but its named fields."""
        before = draft.before
        rest = (revision, draft.expires, draft.count, draft.size)
        if before is None:
            self._run("DELETE FROM removed WHERE bucket = ? AND key = ?", (bucket, draft.key))
            added = self._run(
                "INSERT INTO entries (bucket, key, revision, expires, count, size, value)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (bucket, draft.key, *rest, draft.fields.get(VALUE)),
            )
            assert added.lastrowid is not None
            return added.lastrowid
        if draft.cleared or VALUE in draft.fields:
            self._run(
                "UPDATE entries SET revision = ?, expires = ?, count = ?, size = ?, value = ?"
                " WHERE row = ?",
                (*rest, draft.fields.get(VALUE), before.row),
            )
        else:
            self._run(
                "UPDATE entries SET revision = ?, expires = ?, count = ?, size = ? WHERE row = ?",
                (*rest, before.row),
            )
        return before.row

    def _save_field(self, row: int, name: str, value: bytes | None) -> None:
        if value is None:
            self._run("DELETE FROM fields WHERE entry = ? AND name = ?", (row, name))
        else:
            self._run("REPLACE INTO fields VALUES (?, ?, ?)", (row, name, value))
