"""Runs: consecutive events for the same subscriptions, encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from jetstreamproto.services.events.messages import Kind, encode_events, encode_part
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.model.routes import TopicIndex


class Run:
    """Some events in order, all of one stream (its id; 0: kept by none)."""

    __slots__ = ("_message", "events", "size", "stream")

    def __init__(self, events: Sequence[Event], stream: int) -> None:
        self.events = events
        self.stream = stream
        self.size = sum([len(event[1]) for event in events])
        """Bytes of payloads."""
        self._message: bytes | None = None

    @property
    def message(self) -> bytes:
        """The message that carries them."""
        if self._message is None:
            self._message = encode_part(Kind.EVENTS, encode_events(self.events))
        return self._message


class Target(Protocol):
    """What runs are delivered to."""

    def deliver(self, run: Run) -> None:
        """Take a run. Must not raise."""


def cut_runs(
    index: TopicIndex[Target], events: Sequence[Event], stream: int
) -> Iterator[tuple[tuple[Target, ...], Run]]:
    """Runs of `events`, as long as they go, and who gets each. Those for nobody are left out."""
    match = index.match
    start, topic = 0, events[0].topic
    targets = match(topic)
    for position, event in enumerate(events):
        if event.topic == topic:
            continue
        topic = event.topic
        others = match(topic)
        if others is not targets:  # equal answers are the same tuple
            if targets:
                yield targets, Run(events[start:position], stream)
            start, targets = position, others
    if targets:
        yield targets, Run(events[start:] if start else events, stream)
