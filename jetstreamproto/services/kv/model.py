"""Key-value's rules: what names and sizes there may be, and what a write does to a key.

A bucket has keys, and a key has fields, from names to bytes. What `get` and `set` call the value
of a key is its field with the empty name. A key has one revision, that of the last batch that
changed it: revisions are numbers of the whole store, and rise by one with each batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

KV = "kv"
"""The name of the service."""
READ, WRITE = "read", "write"
"""Its scopes in rules of access."""

VALUE = ""
"""The name of the field that is the value of a key."""

MAX_NAME = 512
"""Bytes of UTF-8 of a key, or of a field's name."""
MAX_VALUE = 1 << 20
"""Bytes of one field."""
MAX_FIELDS = 4096
"""Fields of one key."""
MAX_ENTRY = 4 << 20
"""Bytes of one key's fields, their names counted."""
MAX_STEPS = 1000
"""Writes in one batch."""
MAX_BATCH = 8 << 20
"""Bytes of the messages of a batch's writes."""
MAX_PACK = 256
"""Requests, or replies, that travel in one message."""
MAX_PAGE = 1000
"""Keys of one page of a scan."""
MAX_TTL = 100 * 366 * 86_400_000
"""Milliseconds that a key may have left to live."""

ANY_REVISION = -1
"""In a write: whatever the key's revision is. 0 is that of a key that is not there."""
KEEP_TTL = -1
"""In a write: the time that the key has left stays as it is; a key that is set has no end."""
NO_TTL = 0
"""In a write: the key has no end."""

_MAX_NUMBER = (1 << 63) - 1
_MAX_DIGITS = 20
_BUCKET = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LAST_CHARACTER = "\U0010ffff"


class Action(IntEnum):
    """What a request asks for: GET to WATCH read, SET to BATCH write, a PACK carries others."""

    GET = 1
    GET_ALL = 2
    EXISTS = 3
    KEYS = 4
    SCAN = 5
    BUCKETS = 6
    WATCH = 7
    SET = 16
    MERGE = 17
    DELETE = 18
    EXPIRE = 19
    INCREMENT = 20
    CHECK = 21
    BATCH = 32
    PACK = 33


WRITES = frozenset(Action(number) for number in range(Action.SET, Action.CHECK + 1))
"""The actions that a `Step` may have."""


class Status(IntEnum):
    """How a request went."""

    DONE = 0
    NOT_ALLOWED = 1
    CONFLICT = 2
    INVALID = 3
    LIMIT = 4
    FULL = 5
    FAILED = 6
    UNSUPPORTED = 7
    BUSY = 8


class ChangeKind(IntEnum):
    """What a watcher is told: RESTART means that all there is follows, and the rest is gone."""

    PUT = 0
    DELETED = 1
    EXPIRED = 2
    RESTART = 3


class Refusal(Exception):
    """A request that cannot be done; `revision` is that of the key in a CONFLICT.

    `position` says which write of a batch is why, if it is one of them.
    """

    def __init__(self, status: Status, reason: str, revision: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.revision = revision
        self.position: int | None = None


class Step(NamedTuple):
    """One write. What `names` and `values` mean depends on the action, see `Draft`."""

    action: Action
    key: str
    names: tuple[str, ...] = ()
    values: tuple[bytes, ...] = ()
    revision: int = ANY_REVISION
    ttl: int = KEEP_TTL


class Head(NamedTuple):
    """What is known of a key without its fields. `expires` is in Unix milliseconds, 0 for never.

    `field_count` counts a value, if there is one (`has_value`); `size` is bytes of its fields and
    their names; `row` is the store's own.
    """

    revision: int
    expires: int
    field_count: int
    size: int
    row: int = 0
    has_value: int = 1

    def alive(self, now: int) -> bool:
        """Whether the key has not expired."""
        return not 0 < self.expires <= now


class KeyEntry(NamedTuple):
    """A key as it is now (PUT), or its end.

    `expires` is in Unix milliseconds, 0 for never. `fields` are all that it has; they are None
    in a watch if they have more than 64 KiB, and with the end of a key.
    """

    kind: ChangeKind
    key: str
    revision: int
    expires: int = 0
    fields: Mapping[str, bytes] | None = None

    @property
    def value(self) -> bytes | None:
        """The value of the key; None if there is none, or only named fields."""
        return None if self.fields is None else self.fields.get(VALUE)


# --- names -------------------------------------------------------------------------------


def check_bucket(name: str) -> str:
    """`name` if it can be a bucket's; raises `Refusal` otherwise."""
    if not _BUCKET.fullmatch(name):
        raise Refusal(Status.INVALID, "a bucket's name is 1 to 64 of a-z A-Z 0-9 _ . -")
    return name


def check_name(name: str, what: str = "key", least: int = 1) -> str:
    """`name` if it can be a key's or (with `least` 0) a field's; raises `Refusal` otherwise."""
    if least <= len(name) <= MAX_NAME and name.isascii() and name.isprintable():
        return name
    if len(name) > MAX_NAME or _CONTROL.search(name):
        size = MAX_NAME + 1 if len(name) > MAX_NAME else 0
    else:
        size = len(name.encode())
        if least <= size <= MAX_NAME:
            return name
    if size > MAX_NAME:
        raise Refusal(Status.LIMIT, f"a {what} has at most {MAX_NAME} bytes of UTF-8")
    raise Refusal(Status.INVALID, f"a {what} has {least} or more characters, none of control")


def prefix_end(prefix: str) -> str | None:
    """The first name after all that start with `prefix`, in the order of UTF-8; None for none."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)


# --- writes ------------------------------------------------------------------------------


def check_step(step: Step) -> None:
    """Raises `Refusal` for a write that could be done to no key."""
    check_name(step.key)
    for name in step.names:
        check_name(name, "field", 0)
    if len(set(step.names)) != len(step.names):
        raise Refusal(Status.INVALID, "a field is named twice")
    for value in step.values:
        if len(value) > MAX_VALUE:
            raise Refusal(Status.LIMIT, f"a value has at most {MAX_VALUE} bytes")
    if len(step.names) > MAX_FIELDS:
        raise Refusal(Status.LIMIT, f"a key has at most {MAX_FIELDS} fields")
    if step.revision < ANY_REVISION:
        raise Refusal(Status.INVALID, f"{step.revision} is not a revision")
    if not KEEP_TTL <= step.ttl <= MAX_TTL:
        raise Refusal(Status.INVALID, f"a time to live has 1 to {MAX_TTL} ms")
    _check_shape(step)


def _check_shape(step: Step) -> None:
    names, values = len(step.names), len(step.values)
    if step.action in (Action.SET, Action.MERGE):
        good = names == values and names > 0
    elif step.action is Action.INCREMENT:
        good = names == values == 1
    elif step.action is Action.DELETE:
        good = not values
    elif step.action is Action.EXPIRE:
        good = not names and not values and step.ttl != KEEP_TTL
    else:
        good = step.action is Action.CHECK and not names and not values
    if not good:
        raise Refusal(Status.INVALID, "not the fields and values that this write needs")


def read_number(text: bytes) -> int:
    """A decimal number of 64 bits; raises `Refusal` for what is none."""
    try:
        number = int(text) if 0 < len(text) <= _MAX_DIGITS and text.isascii() else None
    except ValueError:
        number = None
    if number is None or str(number).encode() != text or abs(number) > _MAX_NUMBER:
        raise Refusal(Status.INVALID, "not a decimal number of 64 bits")
    return number


class Keys(Protocol):
    """What a batch needs to know of the keys of its bucket, as they are."""

    def head(self, key: str) -> Head | None:
        """None for a key that is not there; one that has expired may still be."""

    def field(self, head: Head, name: str) -> bytes | None:
        """One field of a key that is there."""


@dataclass(slots=True)
class Draft:
    """A key as a batch leaves it.

    `before` is what the store has of it, None if nothing, and `revision` what it was, 0 if it was
    not there. With `cleared`, none of the fields it had are left; `fields` are those that are
    new, or None for gone.
    """

    key: str
    before: Head | None
    keys: Keys
    revision: int = 0
    exists: bool = False
    expires: int = 0
    count: int = 0
    size: int = 0
    cleared: bool = False
    changed: bool = False
    fields: dict[str, bytes | None] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, keys: Keys, now: int) -> Draft:
        """The key as it is now; one that has expired is not there."""
        head = keys.head(key)
        if head is None:
            return cls(key, None, keys)
        if not head.alive(now):
            return cls(key, head, keys, cleared=True)
        return cls(key, head, keys, head.revision, True, head.expires, head.field_count, head.size)

    def apply(self, step: Step, now: int) -> int:
        """Do one write; the number that is its result. Raises `Refusal`."""
        return _APPLY[step.action](self, step, now)

    def value(self, name: str) -> bytes | None:
        """A field as it is in the draft."""
        if name in self.fields:
            return self.fields[name]
        if self.cleared or self.before is None:
            return None
        return self.keys.field(self.before, name)

    def _set(self, step: Step, now: int) -> int:
        self._clear()
        self._merge_fields(zip(step.names, step.values, strict=True))
        self.expires = now + step.ttl if step.ttl > 0 else 0
        return 1

    def _merge(self, step: Step, now: int) -> int:
        added = self._merge_fields(zip(step.names, step.values, strict=True))
        self._set_ttl(step.ttl, now)
        return added

    def _delete(self, step: Step, _now: int) -> int:
        if not self.exists:
            return 0
        if not step.names:
            self._clear()
            self.changed = True
            return 1
        removed = 0
        for name in step.names:
            old = self.value(name)
            if old is not None:
                self.fields[name] = None
                self._count(name, old, -1)
                removed += 1
        if not self.count:
            self._clear()
        self.changed = self.changed or removed > 0
        return removed

    def _expire(self, step: Step, now: int) -> int:
        if self.exists:
            self._set_ttl(step.ttl, now)
            self.changed = True
        return int(self.exists)

    def _increment(self, step: Step, now: int) -> int:
        name = step.names[0]
        number = read_number(self.value(name) or b"0") + read_number(step.values[0])
        if abs(number) > _MAX_NUMBER:
            raise Refusal(Status.INVALID, "the sum has more than 64 bits")
        self._merge_fields([(name, b"%d" % number)])
        self._set_ttl(step.ttl, now)
        return number

    def _check(self, _step: Step, _now: int) -> int:
        return int(self.exists)

    def _merge_fields(self, items: Iterable[tuple[str, bytes]]) -> int:
        added = 0
        for name, value in items:
            old = self.value(name)
            if old is None:
                added += 1
            else:
                self._count(name, old, -1)
            self.fields[name] = value
            self._count(name, value, 1)
        if self.count > MAX_FIELDS:
            raise Refusal(Status.LIMIT, f"a key has at most {MAX_FIELDS} fields")
        if self.size > MAX_ENTRY:
            raise Refusal(Status.LIMIT, f"a key has at most {MAX_ENTRY} bytes")
        self.exists = self.changed = True
        return added

    def _count(self, name: str, value: bytes, sign: int) -> None:
        self.count += sign
        self.size += sign * (len(name.encode()) + len(value))

    def _clear(self) -> None:
        self.fields.clear()
        self.cleared = True
        self.exists = False
        self.count = self.size = self.expires = 0

    def _set_ttl(self, ttl: int, now: int) -> None:
        if ttl != KEEP_TTL:
            self.expires = now + ttl if ttl > 0 else 0


_APPLY = {
    Action.SET: Draft._set,
    Action.MERGE: Draft._merge,
    Action.DELETE: Draft._delete,
    Action.EXPIRE: Draft._expire,
    Action.INCREMENT: Draft._increment,
    Action.CHECK: Draft._check,
}


def draft_batch(
    steps: Sequence[Step], keys: Keys, now: int
) -> tuple[Sequence[Draft], tuple[int, ...]]:
    """What a batch makes of the keys that it changes, and the result of each of its writes.

    The revisions that its writes ask for are those from before the batch. Raises `Refusal`, and
    then nothing of the batch is done. Steps have been checked (`check_step`).
    """
    drafts: dict[str, Draft] = {}
    results: list[int] = []
    at = 0
    try:
        for position, step in enumerate(steps):
            at = position
            draft = drafts.get(step.key)
            if draft is None:
                draft = drafts[step.key] = Draft.of(step.key, keys, now)
            if step.revision not in (ANY_REVISION, draft.revision):
                reason = f"the key {step.key!r} has revision {draft.revision}, not {step.revision}"
                raise Refusal(Status.CONFLICT, reason, draft.revision)
        for step in steps:
            at = len(results)
            results.append(drafts[step.key].apply(step, now))
    except Refusal as refusal:
        refusal.position = at
        raise
    # What came and went within the batch has changed nothing.
    changed = [d for d in drafts.values() if d.changed and (d.exists or d.before is not None)]
    return changed, tuple(results)
