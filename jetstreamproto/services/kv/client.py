"""The client of key-value: what applications import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelReset, JetStreamError, WireError
from jetstreamproto.services.kv.batch import (
    BatchResult,
    KeyBatch,
    any_revision,
    keep_ttl,
    merge_step,
    milliseconds,
    read_result,
    set_step,
)
from jetstreamproto.services.kv.connection import KeyValueConnection
from jetstreamproto.services.kv.messages import Reply, encode_step, read_entry
from jetstreamproto.services.kv.model import (
    KV,
    MAX_PAGE,
    NO_TTL,
    VALUE,
    Action,
    ChangeKind,
    KeyEntry,
    Step,
)
from jetstreamproto.services.kv.watch import KeyWatch
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.session import Session

T = TypeVar("T")

_URGENCY = 2
_VALUE_ALONE = (VALUE,)


class Sessions(Protocol):
    """Where sessions come from: a `ReconnectingClient`, or one `Session`."""

    def when_connected(self) -> Deferred[Session]:
        """The session there is, or the next one."""


class KeyPage(NamedTuple):
    """Some keys in their order. `after` is where the next page begins, None if this is the last."""

    entries: Sequence[KeyEntry]
    after: str | None


class KeyValueClient:
    """Key-value on a server, through a `ReconnectingClient` or a `Session`.

    All methods of its buckets return Deferreds. They fail with `NotAllowed`, `RevisionConflict`
    or another `KeyValueError` if the server refuses, with `ChannelReset` (code `TIMED_OUT`)
    after `timeout` seconds, and with what ended the session otherwise: it is not known then
    whether a write was done, and nothing is tried twice. Requests share a channel, and do not
    wait for each other, but a read sees what was written before it.
    """

    def __init__(
        self, sessions: Sessions, *, timeout: float = 30.0, clock: IReactorTime | None = None
    ) -> None:
        self._sessions = sessions
        self._timeout = timeout
        self._clock = clock
        self._connection: KeyValueConnection | None = None

    def bucket(self, name: str) -> KeyBucket:
        """The bucket of that name, 1 to 64 of `a-z A-Z 0-9 _ . -`. It need not be there."""
        return KeyBucket(self, name)

    def buckets(self, after: str = "", limit: int = MAX_PAGE) -> Deferred[Sequence[str]]:
        """The names of buckets after `after`, in order: at most `limit`, and at most 1000."""
        names = (after,) if after else ()
        return self.request(_names, Action.BUCKETS, "", names=names, limit=limit)

    def request(
        self, read: Callable[[Reply], T], action: Action, bucket: str, key: str = "", **rest: Any
    ) -> Deferred[T]:
        """Send a request as it is; see `KeyValueConnection.request`."""
        connection = self._connection
        if connection is not None and connection.lost is None:
            return connection.request(read, action, bucket, key, **rest)
        return Deferred.fromCoroutine(self._request(read, action, bucket, key, **rest))

    async def _request(self, read: Callable[[Reply], T], *asked: Any, **rest: Any) -> T:
        session = await self.connected()
        connection = self._connection
        if connection is None or connection.lost is not None:
            connection = self._connection = KeyValueConnection(self._timeout)
            opened = session.open(KV, connection, urgency=_URGENCY)
            opened.addErrback(_refused, connection)
        return await connection.request(read, *asked, **rest)

    async def connected(self) -> Session:
        """A session that takes requests, within the timeout."""
        clock = self._clock
        if clock is None:
            from twisted.internet import reactor

            clock = self._clock = cast(IReactorTime, reactor)
        waiting = self._sessions.when_connected()
        return await waiting.addTimeout(self._timeout, clock, _no_session)

    def close(self) -> None:
        """End the channel when what is under way has been answered; a later request opens one."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.lost is None:
            connection.end()


class KeyBucket:
    """The keys of one bucket.

    A key has 1 to 512 bytes of UTF-8 without control characters, a field's name up to as many. A
    value is at most 1 MiB, and a key at most 4096 fields with 4 MiB. `ttl` is in seconds; without
    it `set` makes keys that stay, and other writes leave it as it is. With `revision`, a write is
    done only if that is the key's (0 for a key that is not there); or else it fails with
    `RevisionConflict`.
    """

    def __init__(self, client: KeyValueClient, name: str) -> None:
        self.client = client
        self.name = name

    # --- whole keys ----------------------------------------------------------------------

    def get(self, key: str) -> Deferred[bytes | None]:
        """The value of a key; None if there is none."""
        return self.client.request(_single, Action.GET, self.name, key, names=_VALUE_ALONE)

    def set(
        self, key: str, value: bytes, *, ttl: float | None = None, revision: int | None = None
    ) -> Deferred[int]:
        """Make `value` all that the key has; fires with its revision."""
        return self._write(_revision, set_step(key, {VALUE: value}, ttl, revision))

    def entry(self, key: str) -> Deferred[KeyEntry | None]:
        """Everything about a key; None if it is not there."""
        return self._read(partial(_whole, key), Action.GET_ALL, key)

    def exists(self, key: str) -> Deferred[bool]:
        """Whether the key is there, with a value or with fields."""
        return self._read(_is_there, Action.EXISTS, key)

    def delete(self, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Take the key away; whether it was there."""
        step = Step(Action.DELETE, key, revision=any_revision(revision))
        return self._write(_any, step)

    def expire(self, key: str, ttl: float | None) -> Deferred[bool]:
        """Give the key `ttl` seconds from now, None for ever; whether it is there."""
        step = Step(Action.EXPIRE, key, ttl=NO_TTL if ttl is None else milliseconds(ttl))
        return self._write(_any, step)

    def increment(
        self, key: str, by: int = 1, *, field: str = VALUE, ttl: float | None = None
    ) -> Deferred[int]:
        """Add to a value that is a decimal number of 64 bits (0 if it is not there); the sum."""
        step = Step(Action.INCREMENT, key, (field,), (b"%d" % by,), ttl=keep_ttl(ttl))
        return self._write(_number, step)

    # --- hashes --------------------------------------------------------------------------

    def hget(self, key: str, field: str) -> Deferred[bytes | None]:
        """One field; None if it is not there."""
        return self._read(_single, Action.GET, key, (field,))

    def hmget(self, key: str, fields: Sequence[str]) -> Deferred[Sequence[bytes | None]]:
        """Some fields, in the order that they are asked for."""
        names = tuple(fields)
        return self._read(partial(_values, len(names)), Action.GET, key, names)

    def hgetall(self, key: str) -> Deferred[Mapping[str, bytes]]:
        """All fields; none if the key is not there."""
        return self._read(_fields, Action.GET_ALL, key)

    def hexists(self, key: str, field: str) -> Deferred[bool]:
        """Whether there is such a field."""
        return self._read(_has_field, Action.EXISTS, key, (field,))

    def hset(
        self,
        key: str,
        field: str,
        value: bytes,
        *,
        ttl: float | None = None,
        revision: int | None = None,
    ) -> Deferred[int]:
        """Set one field; fires with the key's revision."""
        return self.hmset(key, {field: value}, ttl=ttl, revision=revision)

    def hmset(
        self,
        key: str,
        fields: Mapping[str, bytes],
        *,
        ttl: float | None = None,
        revision: int | None = None,
    ) -> Deferred[int]:
        """Set some fields, and leave the others; fires with the key's revision."""
        return self._write(_revision, merge_step(key, fields, ttl, revision))

    def hdel(self, key: str, *fields: str) -> Deferred[int]:
        """Take fields away, and with the last one the key; how many there were."""
        if not fields:
            raise ValueError("hdel needs the names of fields; delete takes the key away")
        step = Step(Action.DELETE, key, fields)
        return self._write(_number, step)

    # --- many keys -----------------------------------------------------------------------

    def batch(self) -> KeyBatch:
        """Writes that are done all or not at all."""
        return KeyBatch(self.write)

    def keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> Deferred[KeyPage]:
        """A page of keys that start with `prefix`, without fields; at most 1000."""
        return self._page(Action.KEYS, prefix, after, limit)

    def page(self, prefix: str = "", *, after: str = "", limit: int = 100) -> Deferred[KeyPage]:
        """The same with fields. The server may send fewer than `limit`, to keep pages small."""
        return self._page(Action.SCAN, prefix, after, limit)

    async def scan(self, prefix: str = "", *, limit: int = 100) -> AsyncIterator[KeyEntry]:
        """Every key that starts with `prefix`, with its fields; `limit` is of a page.

        Keys that come or go meanwhile may be among them or not.
        """
        after: str | None = ""
        while after is not None:
            page = await self.page(prefix, after=after, limit=limit)
            for entry in page.entries:
                yield entry
            after = page.after

    def watch(self, prefix: str = "", *, since: int | None = None) -> Deferred[KeyWatch]:
        """Be told of changes of keys that start with `prefix`; fires when the server does so.

        `since` is the revision that is known already: 0 tells everything there is first, None
        only what changes from now on.
        """
        watch = KeyWatch(self.client.connected, self.name, prefix, since)
        return Deferred.fromCoroutine(watch.start())

    def write(self, steps: Sequence[Step]) -> Deferred[BatchResult]:
        """Do these writes, all or none."""
        values = [encode_step(step) for step in steps]
        return self.client.request(read_result, Action.BATCH, self.name, values=values)

    def _write(self, read: Callable[[Reply], T], step: Step) -> Deferred[T]:
        action, key, names, values, revision, ttl = step
        return self.client.request(
            read, action, self.name, key, names=names, values=values, revision=revision, ttl=ttl
        )

    def _read(
        self, read: Callable[[Reply], T], action: Action, key: str, names: tuple[str, ...] = ()
    ) -> Deferred[T]:
        return self.client.request(read, action, self.name, key, names=names)

    def _page(self, action: Action, prefix: str, after: str, limit: int) -> Deferred[KeyPage]:
        names = (after,) if after else ()
        return self.client.request(_read_page, action, self.name, prefix, names=names, limit=limit)


def _no_session(_result: object, seconds: float) -> NoReturn:
    raise ChannelReset(ResetCode.TIMED_OUT, f"no session within {seconds:g} s")


def _refused(failure: Failure, connection: KeyValueConnection) -> None:
    """The server gives us no channel."""
    failure.trap(JetStreamError)
    assert isinstance(failure.value, JetStreamError)
    connection.lose(failure.value)


# --- what comes back ---------------------------------------------------------------------


def _values(count: int, reply: Reply) -> Sequence[bytes | None]:
    if len(reply.values) != count:
        raise WireError(f"{len(reply.values)} values came, not {count}")
    return reply.values


def _single(reply: Reply) -> bytes | None:
    if len(reply.values) != 1:
        raise WireError(f"{len(reply.values)} values came, not 1")
    return reply.values[0]


def _has_field(reply: Reply) -> bool:
    return _single(reply) is not None


def _is_there(reply: Reply) -> bool:
    return reply.revision > 0


def _names(reply: Reply) -> Sequence[str]:
    return reply.names


def _fields(reply: Reply) -> dict[str, bytes]:
    values = _values(len(reply.names), reply)
    return {name: value or b"" for name, value in zip(reply.names, values, strict=True)}


def _whole(key: str, reply: Reply) -> KeyEntry | None:
    if not reply.revision:
        return None
    return KeyEntry(ChangeKind.PUT, key, reply.revision, reply.expires, _fields(reply))


def _read_page(reply: Reply) -> KeyPage:
    entries = [read_entry(value or b"") for value in reply.values]
    return KeyPage(entries, entries[-1].key if reply.more and entries else None)


def _number(reply: Reply) -> int:
    return read_result(reply).results[0]


def _any(reply: Reply) -> bool:
    return _number(reply) > 0


def _revision(reply: Reply) -> int:
    return read_result(reply).revision
