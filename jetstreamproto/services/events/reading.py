"""Readers of streams: a subscription that reads at its own pace, and a durable consumer."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.services.events.messages import Answer
from jetstreamproto.services.events.model.consumer import ConsumerConfig, ConsumerState, Progress
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.model.topics import matches
from jetstreamproto.services.events.outlet import Outlet
from jetstreamproto.services.events.runs import Run
from jetstreamproto.services.events.store import Appended, EventStore

PAGE_EVENTS, PAGE_BYTES = 256, 1 << 18
_RETRY = 5.0  # seconds after which what could not be stored is tried again

_log = Logger()


class Source(Protocol):
    """A stream, for its readers."""

    id: int

    @property
    def last(self) -> int:
        """The newest sequence that is committed and was told."""

    def read(self, sequence: int, count: int, size: int) -> Sequence[Event]:
        """See `EventReader.read`."""

    def pick(self, sequences: Sequence[int]) -> Sequence[Event]:
        """See `EventReader.pick`."""

    def write(self, work: Callable[[EventStore], Any]) -> Deferred[Any]:
        """See `Journal.submit`."""

    def buried(self, appended: Appended) -> None:
        """Dead letters were written."""


class StreamReader:
    """Sends a stream from `next` on: from the store until it has caught up, then as events come.

    While its channel has no room it only falls behind.
    """

    def __init__(self, stream: Source, pattern: str, next_: int, clock: IReactorTime) -> None:
        self.out: Outlet
        self.next = next_
        self._stream = stream
        self._pattern = pattern
        self._clock = clock
        self._tailing = False
        self._again: IDelayedCall | None = None

    def deliver(self, run: Run) -> None:
        """Events were committed, which are sent if everything before them was."""
        if run.stream != self._stream.id or not self._tailing:
            return
        if not self.out.ready:
            self._tailing = False
            return
        if run.events[0].sequence < self.next:  # they had been read already
            rest = [event for event in run.events if event.sequence >= self.next]
            if not rest:
                return
            run = Run(rest, run.stream)
        self.next = run.events[-1].sequence + 1
        self.out.send(run)

    def resumed(self) -> None:
        """There is room in the channel."""
        if not self._tailing and self._again is None:
            self._again = self._clock.callLater(0, self._read)

    def stop(self) -> None:
        """Read no more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _read(self) -> None:
        self._again = None
        if not self.out.ready:
            return
        page = self._stream.read(self.next, PAGE_EVENTS, PAGE_BYTES)
        if not page:
            self._tailing = True
            return
        self.next = page[-1].sequence + 1
        found = [event for event in page if matches(self._pattern, event.topic)]
        if found:
            self.out.send(Run(found, self._stream.id))
        self.resumed()


class DurableConsumer:
    """Delivers a stream to its members, until each event is acknowledged."""

    def __init__(
        self, stream: Source, config: ConsumerConfig, progress: Progress, clock: IReactorTime
    ) -> None:
        self.config = config
        self.state = ConsumerState(config, progress)
        self.members: list[Outlet] = []
        self._stream = stream
        self._clock = clock
        self._turn = 0
        self._again: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._saving: tuple[IDelayedCall, list[Deferred[None]]] | None = None
        self._burying: set[int] = set()  # done, as soon as the journal has got that far

    # --- members ----------------------------------------------------------------------------

    def join(self, member: Outlet) -> None:
        """Deliver to `member` too."""
        self.members.append(member)
        self.wake()

    def leave(self, member: Outlet) -> None:
        """What `member` has not acknowledged goes to the others."""
        if member in self.members:
            self.members.remove(member)
            self.state.member_gone(member, self._clock.seconds())
            self.wake()

    def answer(self, sequences: Sequence[int], answer: Answer, delay: float) -> Deferred[None]:
        """A member says what became of events; fires once that is on disk."""
        now = self._clock.seconds()
        if answer is Answer.DONE:
            self.state.finish(sequences)
        for sequence in sequences if answer is not Answer.DONE else ():
            if answer is Answer.GIVE_UP or self.state.exhausted(sequence):
                if self.state.hold(sequence):
                    self._bury(sequence)
            else:
                self.state.postpone(sequence, now, delay)
        self.wake()
        saved: Deferred[None] = Deferred()
        if self._saving is None:
            self._saving = (self._clock.callLater(0, self._save), [])
        self._saving[1].append(saved)
        return saved

    def stop(self) -> None:
        """Deliver no more, and keep what was acknowledged."""
        for call in (self._again, self._timer):
            if call is not None:
                call.cancel()
        self._again = self._timer = None
        self.members.clear()
        if self._saving is not None:
            self._saving[0].cancel()
            self._save()

    # --- delivering ---------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to deliver."""
        if self._again is None:
            self._again = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        self._again = None
        ready = [member for member in self.members if member.ready]
        if ready:
            now = self._clock.seconds()
            events = self._redeliveries(now)
            events += self._new_ones()
            self._share(events, ready, now)
        self._set_timer()

    def _redeliveries(self, now: float) -> list[Event]:
        state = self.state
        due = state.due(now, PAGE_EVENTS)
        exhausted = {sequence for sequence in due if state.exhausted(sequence)}
        for sequence in exhausted:
            self._bury(sequence)
        again = [sequence for sequence in due if sequence not in exhausted]
        events = list(self._stream.pick(again))
        if len(events) < len(again):  # the stream no longer has them
            state.finish(set(again).difference(event.sequence for event in events))
        if len(due) == PAGE_EVENTS:
            self.wake()
        return events

    def _new_ones(self) -> list[Event]:
        state, stream = self.state, self._stream
        found: list[Event] = []
        room = min(state.room, PAGE_EVENTS)
        if room <= 0 or state.next > stream.last:
            return found
        page = stream.read(state.next, max(room, 16), PAGE_BYTES)
        for event in page:
            if not matches(self.config.pattern, event.topic):
                state.skip_to(event.sequence + 1)
            elif len(found) >= room:
                break
            elif state.offer(event.sequence):
                if state.exhausted(event.sequence):
                    self._bury(event.sequence)
                else:
                    found.append(event)
        if not page:
            state.skip_to(stream.last + 1)
        elif state.room > 0 and state.next <= stream.last:
            self.wake()
        return found

    def _share(self, events: Sequence[Event], ready: Sequence[Outlet], now: float) -> None:
        shares: dict[int, list[Event]] = {}
        for event in events:
            number = self._turn % len(ready)
            self._turn += 1
            attempt = self.state.deliver(event.sequence, ready[number], now)
            shares.setdefault(number, []).append(event._replace(attempt=attempt))
        for number, share in shares.items():
            ready[number].send(Run(share, self._stream.id))

    def _set_timer(self) -> None:
        due = self.state.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None and self.members:
            delay = max(0.0, due - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._timed)

    def _timed(self) -> None:
        self._timer = None
        if any(member.ready for member in self.members):
            self._deliver()

    # --- keeping --------------------------------------------------------------------------------

    def _save(self) -> None:
        assert self._saving is not None
        waiting, self._saving = self._saving[1], None
        key, config, progress = self._stream.id, self.config, self._progress()

        def saved(result: Any) -> None:
            for one in waiting:
                if isinstance(result, Failure):
                    one.errback(result)
                else:
                    one.callback(None)

        writing = self._stream.write(lambda store: store.save_consumer(key, config, progress))
        writing.addBoth(saved)

    def _progress(self) -> Progress:
        floor, done, attempts = self.state.progress()
        return Progress(floor, done + array("Q", sorted(self._burying)).tobytes(), attempts)

    def _bury(self, sequence: int) -> None:
        """Move an event that is waiting to the dead letters, and be done with it, at once."""
        key, config = self._stream.id, self.config
        self._burying.add(sequence)
        progress = self._progress()

        def write(store: EventStore) -> Appended | None:
            store.save_consumer(key, config, progress)
            return store.bury(key, config.name, sequence)

        def written(appended: Appended | None) -> None:
            self._burying.discard(sequence)
            self.state.finish([sequence])
            if appended is not None:
                self._stream.buried(appended)
            self.wake()

        def failed(failure: Failure) -> None:
            self._burying.discard(sequence)
            _log.warn("event {n} is not buried: {error}", n=sequence, error=failure.value)
            self.state.postpone(sequence, self._clock.seconds(), _RETRY)

        self._stream.write(write).addCallbacks(written, failed)
