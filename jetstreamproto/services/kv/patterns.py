"""Patterns of keys, for rules of access: `*`, `BUCKET/*`, `BUCKET/PREFIX*` or `BUCKET/KEY`.

A `*` for BUCKET stands for every bucket; a `*` at the end, for whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jetstreamproto.services.kv.model import Refusal, check_bucket, check_name

_ANY = "*"


class KeyPattern(NamedTuple):
    """Keys that are `name`, or (if `open_ended`) start with it. No bucket means all."""

    bucket: str
    name: str
    open_ended: bool

    def __str__(self) -> str:
        return f"{self.bucket or _ANY}/{self.name}{_ANY if self.open_ended else ''}"


def parse_pattern(text: str) -> KeyPattern:
    """The pattern that `text` is. Raises `ValueError`."""
    if text == _ANY:
        return KeyPattern("", "", True)
    bucket, slash, name = text.partition("/")
    open_ended = name.endswith(_ANY)
    name = name.removesuffix(_ANY)
    try:
        if bucket != _ANY:
            check_bucket(bucket)
        check_name(name, least=0 if open_ended else 1)
        good = slash and _ANY not in name
    except Refusal:
        good = False
    if not good:
        raise ValueError(
            f"{text!r} is not a pattern of keys: *, BUCKET/*, BUCKET/PREFIX* or BUCKET/KEY"
        )
    return KeyPattern("" if bucket == _ANY else bucket, name, open_ended)


def read_pattern(text: str) -> str:
    """A pattern in its canonical form; raises `ValueError` for what is none."""
    return _ANY if text == _ANY else str(parse_pattern(text))


class KeyPatterns:
    """What some patterns allow together."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(parse_pattern(text) for text in patterns)
        self._all = KeyPattern("", "", True) in self._patterns

    def allow_key(self, bucket: str, key: str) -> bool:
        """Whether one of them covers the key."""
        return self._all or any(
            pattern.bucket in ("", bucket)
            and (key.startswith(pattern.name) if pattern.open_ended else key == pattern.name)
            for pattern in self._patterns
        )

    def allow_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether one of them covers every key that starts with `prefix`."""
        return self._all or any(
            pattern.bucket in ("", bucket)
            and pattern.open_ended
            and prefix.startswith(pattern.name)
            for pattern in self._patterns
        )

    @property
    def buckets(self) -> Sequence[str] | None:
        """The buckets that they are about, in order; None for all that there are."""
        names = {pattern.bucket for pattern in self._patterns}
        return None if "" in names else sorted(names)
