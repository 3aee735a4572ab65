"""The broker: who publishes, what is kept, who gets it. It knows nothing of sessions.

Other services of the process build on it: `publish`, `subscribe`, `read`, and streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.journal import Journal
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.consumer import ConsumerConfig, Progress
from jetstreamproto.services.events.model.event import Event, Receipt
from jetstreamproto.services.events.model.limits import DEFAULT_LIMITS, MAX_PAYLOAD, EventLimits
from jetstreamproto.services.events.model.routes import TopicIndex
from jetstreamproto.services.events.model.streams import StreamConfig, check_stream, stream_for
from jetstreamproto.services.events.model.topics import (
    check_name,
    check_pattern,
    check_topic,
)
from jetstreamproto.services.events.outlet import Group, Listener, Live, QueueTotal
from jetstreamproto.services.events.reader import EventReader
from jetstreamproto.services.events.reading import DurableConsumer
from jetstreamproto.services.events.runs import Target, cut_runs
from jetstreamproto.services.events.store import Appended, EventStore, StoredStream
from jetstreamproto.services.events.stream import Stream

TRIM_INTERVAL = 10.0
"""Seconds between two looks for events that are too old."""

_log = Logger()


class Taken(NamedTuple):
    """Published events were taken: their sequences (none: all 0), and which were duplicates."""

    sequences: Sequence[int] = ()
    duplicates: Sequence[bool] = ()

    def receipt(self, index: int) -> Receipt:
        """Of the event with that index."""
        return Receipt(
            self.sequences[index] if self.sequences else 0,
            bool(self.duplicates and self.duplicates[index]),
        )


class EventBroker:
    """Topics, streams and subscriptions of one process.

    `wall` returns microseconds since 1970; `clock` is the reactor.
    """

    def __init__(
        self,
        journal: Journal,
        reader: EventReader,
        clock: IReactorTime,
        wall: Callable[[], int],
        limits: EventLimits = DEFAULT_LIMITS,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.journal = journal
        self.queues = QueueTotal(limits.total_queue)
        self._reader = reader
        self._wall = wall
        self._targets: TopicIndex[Target] = TopicIndex()
        self._keepers: TopicIndex[Stream] = TopicIndex()
        self._groups: dict[tuple[str, str], Group] = {}
        self._streams: dict[str, Stream] = {}
        self._keys: dict[int, Stream] = {}
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        self._changing = DeferredLock()
        self._trimming: IDelayedCall | None = clock.callLater(TRIM_INTERVAL, self._trim)
        for stored in reader.streams():
            stream = self._register(stored)
            for config, progress in reader.consumers(stream.id):
                stream.consumers[config.name] = DurableConsumer(stream, config, progress, clock)

    def stop(self) -> Deferred[None]:
        """Keep what consumers have acknowledged, and end; fires when all is on disk."""
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None
        for stream in self._streams.values():
            for consumer in stream.consumers.values():
                consumer.stop()
        stopping = self.journal.stop()
        stopping.addCallback(lambda _: self._reader.close())
        return stopping

    # --- publishing ---------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes) -> Deferred[Receipt]:
        """Publish one event of this process; topics of the system are allowed.

        Fires once it is on disk, or at once if no stream keeps the topic. Raises `EventError`.
        """
        check_topic(topic, system=True)
        if len(payload) > MAX_PAYLOAD:
            raise EventError(EventCode.LIMIT, f"an event has at most {MAX_PAYLOAD} bytes")
        taking = self.publish_batch((topic,), [(topic, payload)])
        return taking.addCallback(lambda taken: taken.receipt(0))

    def publish_batch(
        self,
        names: Sequence[str],
        events: Sequence[tuple[str, bytes]],
        publisher: bytes = b"",
        number: int = 0,
    ) -> Deferred[Taken]:
        """Publish events on the topics `names`, all of which the caller has checked.

        With a `publisher`, event i has the number `number + i`, and those that are not above the
        last number of that publisher are duplicates.
        """
        keepers = [self._keeper(name) for name in names]
        first = keepers[0]
        numbers = range(number, number + len(events)) if publisher else ()
        if any(keeper is not first for keeper in keepers):
            kept = dict(zip(names, keepers, strict=True))
            return self._publish_mixed(kept, events, publisher, numbers)
        if first is None:
            return succeed(self._publish_live(events, publisher, numbers))
        return self._append(first, events, publisher, numbers)

    def _keeper(self, topic: str) -> Stream | None:
        found = self._keepers.match(topic)
        return found[0] if found else None

    def _publish_mixed(
        self,
        keepers: dict[str, Stream | None],
        events: Sequence[tuple[str, bytes]],
        publisher: bytes,
        numbers: Sequence[int],
    ) -> Deferred[Taken]:
        """Each stream's events in one piece; answered when all are on disk."""
        parts: dict[Stream | None, list[int]] = {}
        for index, (topic, _) in enumerate(events):
            parts.setdefault(keepers[topic], []).append(index)
        sequences, duplicates = [0] * len(events), [False] * len(events)

        async def publish() -> Taken:
            waiting = []
            for stream, indexes in parts.items():
                some = [events[index] for index in indexes]
                mine = [numbers[index] for index in indexes] if publisher else ()
                if stream is None:
                    waiting.append((indexes, succeed(self._publish_live(some, publisher, mine))))
                else:
                    waiting.append((indexes, self._append(stream, some, publisher, mine)))
            failure: EventError | None = None
            for indexes, taking in waiting:
                try:
                    taken = await taking
                except EventError as error:
                    failure = error
                    continue
                for position, index in enumerate(indexes):
                    sequences[index], duplicates[index] = taken.receipt(position)
            if failure is not None:
                raise failure
            return Taken(sequences, duplicates if any(duplicates) else ())

        return Deferred.fromCoroutine(publish())

    def _publish_live(
        self, events: Sequence[tuple[str, bytes]], publisher: bytes, numbers: Sequence[int]
    ) -> Taken:
        duplicates: Sequence[bool] = ()
        if publisher:
            newest = self._numbers.pop(publisher, -1)
            self._numbers[publisher] = max(newest, numbers[-1])
            if len(self._numbers) > self.limits.publishers:
                self._numbers.popitem(last=False)
            if numbers[0] <= newest:
                duplicates = [number <= newest for number in numbers]
                events = [e for e, again in zip(events, duplicates, strict=True) if not again]
        if events:
            time = self._wall()
            make = tuple.__new__
            fresh = [make(Event, (topic, payload, 0, time, 1)) for topic, payload in events]
            self._fan_out(fresh, 0)
        return Taken((), duplicates)

    def _append(
        self,
        stream: Stream,
        events: Sequence[tuple[str, bytes]],
        publisher: bytes,
        numbers: Sequence[int],
    ) -> Deferred[Taken]:
        key, time = stream.id, self._wall()
        size = sum([len(payload) for _, payload in events])
        if self.journal.waiting + size > 2 * self.limits.journal_bytes:
            full: Deferred[Taken] = Deferred()
            full.errback(EventError(EventCode.LIMIT, "too many events wait for the disk"))
            return full

        def write(store: EventStore) -> Appended:
            return store.append(key, events, time, publisher, numbers)

        def written(appended: Appended) -> Taken:
            self.committed(appended)
            sequences = appended.sequences
            return Taken(sequences, () if all(sequences) else [not one for one in sequences])

        return self.journal.submit(write, size).addCallback(written)

    def committed(self, appended: Appended) -> None:
        """Events are on disk: tell whoever is subscribed, live or to the stream."""
        stream = self._keys.get(appended.stream.id)
        if stream is None:
            if appended.stream.info.config.name in self._streams:
                return  # the stream was removed meanwhile, and made anew
            stream = self._register(appended.stream)
        stream.info = appended.stream.info
        if appended.events:
            self._fan_out(appended.events, stream.id)
            for consumer in stream.consumers.values():
                if consumer.members:
                    consumer.wake()

    def _fan_out(self, events: Sequence[Event], stream: int) -> None:
        for targets, run in cut_runs(self._targets, events, stream):
            for target in targets:
                target.deliver(run)

    # --- subscribing ----------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, receive: Callable[[Sequence[Event]], None]
    ) -> Callable[[], None]:
        """Have `receive` called with events as they come, kept or not; returns how to stop that.

        It is called in the turn in which they are published (or committed, if a stream keeps
        them), and what it raises is logged. Raises `EventError`.
        """
        listener = Listener(receive)
        self._targets.add(check_pattern(pattern), listener)

        def stop() -> None:
            with suppress(KeyError):
                self._targets.remove(pattern, listener)

        return stop

    def attach(self, pattern: str, target: Target) -> None:
        """Deliver to `target` what matches."""
        self._targets.add(pattern, target)

    def detach(self, pattern: str, target: Target) -> None:
        """Undo `attach`."""
        self._targets.remove(pattern, target)

    def join_group(self, pattern: str, name: str, member: Live) -> None:
        """Deliver to one of the group's members what matches."""
        group = self._groups.get((pattern, name))
        if group is None:
            group = self._groups[pattern, name] = Group()
            self._targets.add(pattern, group)
        group.members.append(member)

    def leave_group(self, pattern: str, name: str, member: Live) -> None:
        """Undo `join_group`."""
        group = self._groups[pattern, name]
        group.members.remove(member)
        if not group.members:
            del self._groups[pattern, name]
            self._targets.remove(pattern, group)

    # --- streams ----------------------------------------------------------------------------------

    def streams(self) -> Sequence[Stream]:
        """All streams, by name."""
        return [self._streams[name] for name in sorted(self._streams)]

    def stream(self, name: str) -> Stream:
        """The stream of that name. Raises `EventError` if there is none."""
        stream = self._streams.get(name)
        if stream is None:
            raise EventError(EventCode.NO_STREAM, f"there is no stream {name!r}")
        return stream

    def stream_for(self, pattern: str) -> Stream:
        """The one stream that keeps some of what matches. Raises `EventError` if it is not one."""
        return self._streams[stream_for(pattern, [one.config for one in self.streams()])]

    def read(self, name: str, sequence: int, count: int, size: int = 1 << 20) -> Sequence[Event]:
        """Events of a stream from `sequence` on: at most `count`, and about `size` bytes."""
        return self.stream(name).read(sequence, count, size)

    async def add_stream(self, config: StreamConfig) -> Stream:
        """A stream like that; one of that name that is there gets these topics and limits.

        It is on disk when this returns. Raises `EventError`.
        """
        return await self._changing.run(Deferred.fromCoroutine, self._add_stream(config))

    async def _add_stream(self, config: StreamConfig) -> Stream:
        others = [one.config for one in self.streams() if one.config.name != config.name]
        check_stream(config, others, self.limits)
        old = self._streams.get(config.name)
        if old is None:
            stored = await self.journal.submit(lambda store: store.add_stream(config))
            return self._register(stored)
        if old.config != config:
            key, before = old.id, old.config
            stored = await self.journal.submit(lambda store: store.change_stream(key, config))
            for topic in before.topics:
                self._keepers.remove(topic, old)
            old.info = stored.info
            for topic in config.topics:
                self._keepers.add(topic, old)
        return old

    async def remove_stream(self, name: str) -> None:
        """Remove a stream with all that is in it. Raises `EventError`."""
        await self._changing.run(Deferred.fromCoroutine, self._remove_stream(name))

    async def _remove_stream(self, name: str) -> None:
        stream = self.stream(name)
        for consumer in tuple(stream.consumers.values()):
            for member in tuple(consumer.members):
                member.reset(EventCode.NO_STREAM, f"the stream {name} was removed")
            consumer.stop()
        for topic in stream.config.topics:
            self._keepers.remove(topic, stream)
        del self._streams[name], self._keys[stream.id]
        await self.journal.submit(lambda store: store.remove_stream(stream.id))

    # --- consumers ----------------------------------------------------------------------------

    async def consumer(self, stream: Stream, config: ConsumerConfig, begin: int) -> DurableConsumer:
        """The durable consumer of that name, made if there is none, to start at `begin`.

        Raises `EventError` if it is there with other settings.
        """
        check_name(config.name, "consumer")
        found = stream.consumers.get(config.name)
        if found is None:
            if len(stream.consumers) >= self.limits.consumers:
                raise EventError(EventCode.LIMIT, f"{len(stream.consumers)} consumers already")
            progress = Progress(begin - 1)
            key = stream.id
            found = DurableConsumer(stream, config, progress, self.clock)
            stream.consumers[config.name] = found
            try:
                await self.journal.submit(lambda s: s.save_consumer(key, config, progress))
            except EventError:
                stream.consumers.pop(config.name, None)
                raise
        if found.config != config:
            raise EventError(
                EventCode.CONSUMER_CONFLICT,
                f"the consumer {config.name} has other settings: {found.config}",
            )
        return found

    async def forget_consumer(self, stream: Stream, name: str) -> None:
        """Remove a durable consumer. Raises `EventError`."""
        consumer = stream.consumers.pop(name, None)
        if consumer is None:
            raise EventError(EventCode.NO_CONSUMER, f"there is no consumer {name!r}")
        for member in tuple(consumer.members):
            member.reset(EventCode.NO_CONSUMER, f"the consumer {name} was removed")
        consumer.stop()
        key = stream.id
        await self.journal.submit(lambda store: store.remove_consumer(key, name))

    # --- inside -------------------------------------------------------------------------------

    def _register(self, stored: StoredStream) -> Stream:
        stream = Stream(stored, self._reader, self.journal, self.committed)
        self._streams[stream.config.name] = self._keys[stream.id] = stream
        for topic in stream.config.topics:
            self._keepers.add(topic, stream)
        return stream

    def _trim(self) -> None:
        self._trimming = self.clock.callLater(TRIM_INTERVAL, self._trim)
        if any(stream.config.max_age for stream in self._streams.values()):
            now = self._wall()
            trimming = self.journal.submit(lambda store: store.trim(now))
            trimming.addCallbacks(self._trimmed, self._not_trimmed)

    def _trimmed(self, changed: Sequence[StoredStream]) -> None:
        for key, info in changed:
            if key in self._keys:
                self._keys[key].info = info

    def _not_trimmed(self, failure: Any) -> None:
        _log.warn("events are not trimmed: {error}", error=failure.value)
