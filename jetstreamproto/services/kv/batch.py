"""Writes, as a client puts them together and sends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred

from jetstreamproto.errors import WireError
from jetstreamproto.services.kv.messages import Reply
from jetstreamproto.services.kv.model import ANY_REVISION, KEEP_TTL, NO_TTL, VALUE, Action, Step


class BatchResult(NamedTuple):
    """What a batch did: the revision of the keys it changed (0 for none), a number for each write.

    The number of a `set` is 1, of a `delete` or `hdel` how many keys or fields there were, of
    `hset` how many are new, of `increment` the sum, of `expire` and `check` 1 if the key is there.
    """

    revision: int
    results: Sequence[int]


class KeyBatch:
    """Writes to keys of one bucket, at most 1000 with 8 MiB; see `KeyBucket` for what they mean.

    The revisions that they ask for are those from before the batch.
    """

    def __init__(self, write: Callable[[Sequence[Step]], Deferred[BatchResult]]) -> None:
        self._write = write
        self._steps: list[Step] = []

    def set(
        self, key: str, value: bytes, *, ttl: float | None = None, revision: int | None = None
    ) -> KeyBatch:
        return self._add(set_step(key, {VALUE: value}, ttl, revision))

    def hmset(
        self,
        key: str,
        fields: Mapping[str, bytes],
        *,
        ttl: float | None = None,
        revision: int | None = None,
    ) -> KeyBatch:
        return self._add(merge_step(key, fields, ttl, revision))

    def delete(self, key: str, *, revision: int | None = None) -> KeyBatch:
        return self._add(Step(Action.DELETE, key, revision=any_revision(revision)))

    def hdel(self, key: str, *fields: str) -> KeyBatch:
        if not fields:
            raise ValueError("hdel needs the names of fields; delete takes the key away")
        return self._add(Step(Action.DELETE, key, fields))

    def increment(self, key: str, by: int = 1, *, field: str = VALUE) -> KeyBatch:
        return self._add(Step(Action.INCREMENT, key, (field,), (b"%d" % by,)))

    def expire(self, key: str, ttl: float | None) -> KeyBatch:
        ms = NO_TTL if ttl is None else milliseconds(ttl)
        return self._add(Step(Action.EXPIRE, key, ttl=ms))

    def check(self, key: str, revision: int) -> KeyBatch:
        """Do the batch only if that is the key's revision."""
        return self._add(Step(Action.CHECK, key, revision=revision))

    def send(self) -> Deferred[BatchResult]:
        """Do them; fires when they are on the server's disk."""
        return self._write(self._steps)

    def _add(self, step: Step) -> KeyBatch:
        self._steps.append(step)
        return self


def set_step(
    key: str, fields: Mapping[str, bytes], ttl: float | None, revision: int | None
) -> Step:
    names, values = tuple(fields), tuple(fields.values())
    return Step(Action.SET, key, names, values, any_revision(revision), keep_ttl(ttl))


def merge_step(
    key: str, fields: Mapping[str, bytes], ttl: float | None, revision: int | None
) -> Step:
    return set_step(key, fields, ttl, revision)._replace(action=Action.MERGE)


def any_revision(revision: int | None) -> int:
    """The revision that a write asks for."""
    return ANY_REVISION if revision is None else revision


def keep_ttl(ttl: float | None) -> int:
    """The time to live that a write gives, which may be none."""
    return KEEP_TTL if ttl is None else milliseconds(ttl)


def milliseconds(ttl: float) -> int:
    """A time to live as it is sent; raises `ValueError` if it is not positive."""
    if not ttl > 0:
        raise ValueError("a time to live is more than 0 seconds")
    return max(1, round(1000 * ttl))


def read_result(reply: Reply) -> BatchResult:
    """What a reply says of writes. Raises `WireError`."""
    try:
        results = [int(value or b"") for value in reply.values]
    except ValueError as error:
        raise WireError(f"a result: {error}") from None
    if not results:
        raise WireError("no results")
    return BatchResult(reply.revision, results)
