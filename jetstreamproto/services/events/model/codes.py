"""Why something about events was refused."""

from __future__ import annotations

from enum import IntEnum


class EventCode(IntEnum):
    """The codes of `EventError`, and of the service's resets."""

    BAD_TOPIC = 256
    """A topic, pattern or name breaks the grammar."""
    NO_STREAM = 257
    """There is no such stream, or none that keeps what the pattern matches."""
    STREAM_CONFLICT = 258
    """A stream of that name is different, or another stream keeps some of its topics."""
    CONSUMER_CONFLICT = 259
    """The durable consumer was made with other settings, or is not shared by a group."""
    TOO_SLOW = 260
    """The subscription's queue is full, and its policy is to disconnect."""
    TAKEN_OVER = 261
    """A newer subscription has taken over the durable consumer."""
    STORE_FAILED = 262
    """The event could not be stored: nothing of the batch was."""
    LIMIT = 263
    """More than the server allows."""
    VERSION = 264
    """The other side speaks another version of the service."""
    NO_CONSUMER = 265
    """There is no such consumer."""
