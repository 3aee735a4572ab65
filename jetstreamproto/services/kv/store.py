"""What key-value needs of a database, so that another may take SQLite's place.

Bucket names, keys and steps that are given have been checked. Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from jetstreamproto.services.kv.model import Head, KeyEntry, Step


class Outcome(NamedTuple):
    """What a batch did: the result of each step, and the revision of the keys that it changed.

    The revision is 0 if it changed nothing.
    """

    results: tuple[int, ...]
    revision: int


class Position(NamedTuple):
    """How far a reader of changes is: it has all up to this key of this revision.

    No key is the empty one, so without a key it has all before this revision.
    """

    revision: int
    key: str = ""


class Changes(NamedTuple):
    """Some changes in the order of (revision, key), and how far a reader is with them."""

    items: Sequence[KeyEntry]
    position: Position


class Store(Protocol):
    """A database of key-value.

    Reading is done at once, and sees all that has been acknowledged. It raises `Refusal` (FAILED)
    when the database does.
    """

    revision: int
    """The highest that it is known to have had."""
    floor: int
    """Deletions up to this revision are not known any more."""

    def snapshot(self) -> AbstractContextManager[None]:
        """While it lasts, which is within a turn of the reactor, reads are cheaper.

        They see the store as it was with the first of them.
        """

    def head(self, bucket: str, key: str) -> Head | None:
        """What there is of a key, None if there is none or it has expired."""

    def fields(
        self, bucket: str, key: str, names: Sequence[str]
    ) -> tuple[Head, list[bytes | None]] | None:
        """The same, with some of its fields."""

    def all_fields(self, head: Head) -> dict[str, bytes]:
        """All fields of such a key."""

    def scan(
        self, bucket: str, prefix: str, after: str, limit: int
    ) -> tuple[Sequence[tuple[str, Head]], bool]:
        """At most `limit` keys that start with `prefix` and follow `after`, in order.

        And whether there are more.
        """

    def buckets(self, after: str, limit: int) -> tuple[Sequence[str], bool]:
        """At most `limit` names of buckets that follow `after`, and whether there are more."""

    def changes(self, bucket: str, prefix: str, after: Position) -> Changes:
        """A bounded number of changes after a position: of each key the last one.

        There may be none although there are later ones: there are none any more once the
        position is beyond `revision`.
        """

    def submit(self, bucket: str, steps: Sequence[Step]) -> Deferred[Outcome]:
        """Do a batch, all or nothing, in the order of submission; fires when it is on disk.

        Fails with `Refusal`.
        """

    def refresh(self) -> None:
        """Bring `revision` and `floor` up to date, which other processes may change too."""

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called when there are changes, until what is returned is called."""
