"""Topics are dotted names; patterns have `*` for one token and a last `>` for one or more.

A wildcard in front matches no topic that starts with `$`: those are the system's, and whoever wants
them says so, as in `$dead.>` (MQTT 5 section 4.7.2 has the same rule).
"""

from __future__ import annotations

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.model.codes import EventCode

MAX_TOPIC = 255
"""Bytes of a topic or pattern in UTF-8."""
MAX_TOKENS = 16
"""Tokens of a topic or pattern, which also bounds the cost of a match."""
ONE, REST = "*", ">"
SYSTEM = "$"
"""What the topics and streams of the system start with."""


def check_topic(text: str, *, system: bool = False) -> str:
    """`text` if it is a topic that may be published to. Raises `EventError`."""
    _check_tokens(text, "topic")
    if ONE in text or REST in text:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r} has wildcards, so it is no topic")
    if text.startswith(SYSTEM) and not system:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r}: topics with {SYSTEM} are the system's")
    return text


def check_pattern(text: str) -> str:
    """`text` if it is a pattern (which every topic is). Raises `EventError`."""
    tokens = _check_tokens(text, "pattern")
    for token in tokens:
        if token not in (ONE, REST) and (ONE in token or REST in token):
            raise EventError(EventCode.BAD_TOPIC, f"{text!r}: a wildcard is a whole token")
    if REST in tokens[:-1]:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r}: {REST} may only come last")
    return text


def check_name(text: str, what: str) -> str:
    """`text` if it can be the name of a stream, a consumer or a group: one token, no wildcard."""
    if len(_check_tokens(text, what)) > 1 or text in (ONE, REST) or len(text.encode()) > 64:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r} is no name of a {what}")
    return check_pattern(text)


def _check_tokens(text: str, what: str) -> list[str]:
    tokens = text.split(".")
    if not text.isprintable() or " " in text:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r}: no spaces or control characters")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r} is not UTF-8") from None
    if size > MAX_TOPIC or len(tokens) > MAX_TOKENS:
        raise EventError(
            EventCode.BAD_TOPIC,
            f"a {what} has at most {MAX_TOPIC} bytes and {MAX_TOKENS} tokens",
        )
    if "" in tokens:
        raise EventError(EventCode.BAD_TOPIC, f"{text!r} has an empty token")
    return tokens


def matches(pattern: str, topic: str) -> bool:
    """Whether the pattern covers the topic."""
    return contains(pattern, topic)


def contains(granted: str, requested: str) -> bool:
    """Whether every topic that `requested` matches is matched by `granted` too."""
    outer, inner = granted.split("."), requested.split(".")
    if outer[0] in (ONE, REST) and inner[0].startswith(SYSTEM):
        return False
    for index, token in enumerate(outer):
        if index == len(inner):
            return False
        if token == REST:
            return True
        if inner[index] == REST or (token not in (ONE, inner[index])):
            return False
    return len(outer) == len(inner)


def overlaps(one: str, other: str) -> bool:
    """Whether there is a topic that both patterns match."""
    left, right = one.split("."), other.split(".")
    for first, second in ((left[0], right[0]), (right[0], left[0])):
        if first in (ONE, REST) and second.startswith(SYSTEM):
            return False
    for a, b in zip(left, right, strict=False):
        if REST in (a, b):
            return True
        if a != b and ONE not in (a, b):
            return False
    return len(left) == len(right)
