"""Changes of keys as events: on topics of the system, for those who take events anyway.

The topic is `$kv.BUCKET.` and the key, of which each part between slashes is one token. What a
topic cannot hold is percent-encoded (RFC 3986), dots too. Keys that make no topic at all, as they
are too long or have too many parts, or empty ones, are told on `$kv.BUCKET.%`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from twisted.logger import Logger

from jetstreamproto.errors import EventError
from jetstreamproto.services.kv.model import ChangeKind

_log = Logger(namespace="jetstream.kv")

_MOST_BYTES, _MOST_PARTS = 255, 14  # of a topic; of a key, with two tokens before them
_OTHER = "%"


class Touched(NamedTuple):
    """A key that a commit has changed."""

    bucket: str
    key: str
    kind: ChangeKind
    revision: int


Publish = Callable[[str, bytes], object]
"""Publishes an event's payload on a topic."""


def change_topic(bucket: str, key: str) -> str:
    """The topic for changes of a key."""
    start = f"$kv.{_token(bucket)}."
    parts = [_token(part) for part in key.split("/")]
    topic = start + ".".join(parts)
    fits = len(topic) <= _MOST_BYTES and len(parts) <= _MOST_PARTS and "" not in parts
    return topic if fits else start + _OTHER


def announce(publish: Publish, touched: Sequence[Touched]) -> None:
    """Publish changes that are on disk. The payload is a JSON object without the value."""
    for bucket, key, kind, revision in touched:
        change = {"kind": kind.name.lower(), "bucket": bucket, "key": key, "revision": revision}
        try:
            publish(change_topic(bucket, key), json.dumps(change).encode())
        except EventError as error:
            _log.warn("{bucket}/{key}: {error}", bucket=bucket, key=key, error=str(error))


def _token(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")
