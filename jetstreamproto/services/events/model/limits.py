"""How much of everything there may be."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PAYLOAD = 1 << 20
"""Bytes of one event."""
MAX_BATCH = 4096
"""Events in one message."""
MAX_BATCH_BYTES = 2 << 20
"""Bytes of payloads in one message."""


@dataclass(frozen=True)
class EventLimits:
    """Counts and bytes that a broker holds at most.

    - `streams`: those that keep events; `consumers`: durable consumers of each stream;
      `stream_topics`: patterns of each stream.
    - `queue_events`, `queue_bytes`: what may wait for one live subscription; one may ask for less.
    - `total_queue`: bytes that wait for all live subscriptions together.
    - `journal_bytes`: bytes of events that wait for the disk; publishers are paused then.
    - `publishers`: publishers whose last number is remembered, a stream, and of live events.
    - `max_pending`: events of a consumer that are delivered and not acknowledged.
    - `request_timeout`: seconds for a channel's first message.
    """

    streams: int = 256
    consumers: int = 256
    stream_topics: int = 64
    queue_events: int = 65536
    queue_bytes: int = 8 << 20
    total_queue: int = 256 << 20
    journal_bytes: int = 64 << 20
    publishers: int = 10_000
    max_pending: int = 8192
    request_timeout: float = 10.0


DEFAULT_LIMITS = EventLimits()
