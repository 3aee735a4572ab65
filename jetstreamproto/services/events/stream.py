"""One stream of a broker, for its readers and consumers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jetstreamproto.services.events.journal import Journal
from jetstreamproto.services.events.model.event import Event, Start
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.events.reader import EventReader
from jetstreamproto.services.events.reading import DurableConsumer
from jetstreamproto.services.events.store import Appended, StoredStream

LAST_REACH = 65536
"""Events that are looked through, from the end, for the last one of a pattern."""


class Stream:
    """One stream of a broker, for its readers and consumers."""

    def __init__(
        self,
        stored: StoredStream,
        reader: EventReader,
        journal: Journal,
        committed: Callable[[Appended], None],
    ) -> None:
        self.id, self.info = stored
        self.consumers: dict[str, DurableConsumer] = {}
        self.write = journal.submit
        self._reader = reader
        self.buried = committed
        """Called with dead letters that were written."""

    @property
    def config(self) -> StreamConfig:
        return self.info.config

    @property
    def last(self) -> int:
        return self.info.last

    def read(self, sequence: int, count: int, size: int) -> Sequence[Event]:
        """Events from `sequence` on, at most `count`, and about `size` bytes of them."""
        return self._reader.read(self.id, sequence, count, size)

    def pick(self, sequences: Sequence[int]) -> Sequence[Event]:
        """Those with these sequences that are still there."""
        return self._reader.pick(self.id, sequences)

    def begin(self, start: Start, origin: int, pattern: str) -> int:
        """The sequence that reading begins with."""
        first, last = self.info.first, self.info.last
        if start is Start.ALL:
            return first
        if start is Start.SEQUENCE:
            return max(first, origin)
        if start is Start.TIME:
            return self._reader.at_time(self.info, self.id, origin)
        if start is Start.LAST:
            return self._reader.newest(self.id, pattern, max(first, last - LAST_REACH + 1), last)
        return last + 1
