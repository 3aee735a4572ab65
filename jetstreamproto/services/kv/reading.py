"""What key-value answers to requests that read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jetstreamproto.services.kv.messages import Request, encode_entry, encode_reply
from jetstreamproto.services.kv.model import (
    MAX_FIELDS,
    MAX_PAGE,
    Action,
    ChangeKind,
    Head,
    KeyEntry,
    Refusal,
    Status,
    check_bucket,
    check_name,
)
from jetstreamproto.services.kv.patterns import KeyPatterns
from jetstreamproto.services.kv.store import Store

_PAGE_BYTES = 1 << 18  # of fields in a page, beyond its first entry


class Reading:
    """Reads for a peer that may read what `readable` covers.

    The methods return the reply as it is sent. They raise `Refusal`.
    """

    def __init__(self, store: Store, readable: KeyPatterns) -> None:
        self._store = store
        self._readable = readable

    def get(self, request: Request) -> bytes:
        """Some fields of a key."""
        head, values = self._fields(request)
        return _reply(request.id, head, values)

    def exists(self, request: Request) -> bytes:
        """Which of some fields there are: those are empty in the reply."""
        head, values = self._fields(request)
        return _reply(request.id, head, [None if value is None else b"" for value in values])

    def _fields(self, request: Request) -> tuple[Head | None, list[bytes | None]]:
        self._check_key(request)
        names = request.names
        if len(names) > MAX_FIELDS:
            raise Refusal(Status.LIMIT, f"at most {MAX_FIELDS} fields at a time")
        found = self._store.fields(request.bucket, request.key, names)
        return (None, [None] * len(names)) if found is None else found

    def get_all(self, request: Request) -> bytes:
        """All fields of a key."""
        self._check_key(request)
        head = self._store.head(request.bucket, request.key)
        if head is None:
            return encode_reply(request.id)
        fields = self._store.all_fields(head)
        return encode_reply(
            request.id,
            tuple(fields.values()),
            names=tuple(fields),
            revision=head.revision,
            expires=head.expires,
        )

    def keys(self, request: Request) -> bytes:
        """A page of keys."""
        return self._page(request, with_fields=False)

    def scan(self, request: Request) -> bytes:
        """A page of keys with all their fields."""
        return self._page(request, with_fields=True)

    def _page(self, request: Request, with_fields: bool) -> bytes:
        bucket, prefix = check_bucket(request.bucket), request.key
        check_name(prefix, "prefix", 0)
        if not self._readable.allow_prefix(bucket, prefix):
            raise Refusal(Status.NOT_ALLOWED, f"you may not read {bucket}/{prefix}*")
        keys, more = self._store.scan(bucket, prefix, _cursor(request), _limit(request))
        entries: list[bytes] = []
        size = 0
        for key, head in keys:
            fields = None
            if with_fields:
                size += head.size
                if entries and size > _PAGE_BYTES:
                    more = True
                    break
                fields = self._store.all_fields(head)
            entries.append(
                encode_entry(KeyEntry(ChangeKind.PUT, key, head.revision, head.expires, fields))
            )
        return encode_reply(request.id, entries, more=more)

    def buckets(self, request: Request) -> bytes:
        """A page of the names of buckets that the peer may read something of."""
        after, limit = _cursor(request), _limit(request)
        known = self._readable.buckets
        if known is None:
            names, more = self._store.buckets(after, limit)
        else:
            there = [b for b in known if b > after and self._store.scan(b, "", "", 1)[0]]
            names, more = there[:limit], len(there) > limit
        return encode_reply(request.id, names=tuple(names), more=more)

    def _check_key(self, request: Request) -> None:
        bucket, key = check_bucket(request.bucket), check_name(request.key)
        if not self._readable.allow_key(bucket, key):
            raise Refusal(Status.NOT_ALLOWED, f"you may not read {key!r}")


def _reply(id: int, head: Head | None, values: Sequence[bytes | None]) -> bytes:
    if head is None:
        return encode_reply(id, values)
    return encode_reply(id, values, revision=head.revision, expires=head.expires)


def _cursor(request: Request) -> str:
    """The name after which a page begins."""
    return check_name(request.names[0], "cursor", 0) if request.names else ""


def _limit(request: Request) -> int:
    """How many names a page may have."""
    return min(request.limit, MAX_PAGE) or MAX_PAGE


READS: Mapping[int, Callable[[Reading, Request], bytes]] = {
    Action.GET: Reading.get,
    Action.GET_ALL: Reading.get_all,
    Action.EXISTS: Reading.exists,
    Action.KEYS: Reading.keys,
    Action.SCAN: Reading.scan,
    Action.BUCKETS: Reading.buckets,
}
"""What is done about each action that reads."""
KEY_READS = frozenset({Action.GET, Action.GET_ALL, Action.EXISTS})
"""Those that are about one key."""
