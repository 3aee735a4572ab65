"""The client's subscription: events as they come, acknowledgements, going on after a reconnect."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelClosed, JetStreamError, SessionClosed, WireError
from jetstreamproto.services.events.messages import (
    ACK,
    EVENTS,
    SUBSCRIBE,
    SUBSCRIBED,
    Ack,
    Answer,
    Kind,
    Subscribe,
    decode_events,
    decode_part,
    encode_part,
)
from jetstreamproto.services.events.model.event import Event, Policy, Start
from jetstreamproto.services.events.refusals import RETRY, expected, is_over, reset_refusal
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

HIGH_WATER = 1 << 20
"""Bytes waiting to be taken at which the server is held back."""
_EVENT_COST = 64
_ACKS = 1024  # in one message
_REMEMBERED = 1 << 16  # acknowledged sequences


class Subscription:
    """Events of a pattern: `async for event in subscription`, or `get` and `get_many`.

    `missed` counts the events that this side was too slow for, and `reconnects` how often it went
    on in another session; what was published in between is lost to a live subscription only.
    `stream` is the name of the stream it reads, empty if it is live.
    """

    def __init__(
        self,
        get_session: Callable[[], Deferred[Session]],
        clock: IReactorTime,
        request: Subscribe,
    ) -> None:
        self.missed = 0
        self.reconnects = -1
        self.stream = ""
        self._get_session = get_session
        self._clock = clock
        self._request = request
        self._stream_id = 0
        self._events: deque[Event] = deque()
        self._size = 0
        self._repeated = False  # whether some that wait have come before
        self._waiting: deque[tuple[Deferred[Any], bool]] = deque()  # and whether for all
        self._link: _Link | None = None
        self._started: Deferred[Subscription] | None = None
        self._connecting: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self._over: JetStreamError | None = None
        self._over_waiters: list[Deferred[None]] = []
        # acknowledgements
        self._answers: list[tuple[Answer, float, list[int]]] = []
        self._flush: IDelayedCall | None = None
        self._told: list[Deferred[None]] = []
        self._number = 0
        self._unconfirmed: OrderedDict[int, tuple[Ack, list[Deferred[None]]]] = OrderedDict()
        self._done: OrderedDict[int, None] = OrderedDict()

    # --- for the application ------------------------------------------------------------------

    @property
    def durable(self) -> bool:
        """Whether events are to be acknowledged."""
        return bool(self._request.durable)

    def get(self) -> Deferred[Event]:
        """The next event. Fails with `ChannelClosed` after `close`, or with what ended it."""
        return self._get(False)

    def get_many(self) -> Deferred[list[Event]]:
        """All events that are there, at least one: much less work for each of them."""
        return self._get(True)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        try:
            event: Event = await self._get(False)
        except ChannelClosed:
            raise StopAsyncIteration from None
        return event

    def ack(self, *events: Event) -> Deferred[None]:
        """These are done; fires once that is on disk at the server: then they never come again.

        Only for durable consumers. Those of one turn of the reactor travel together; what is not
        confirmed when the session is lost is told again in the next.
        """
        return self._answer(Answer.DONE, 0.0, events)

    def nak(self, *events: Event, delay: float = 0.0) -> Deferred[None]:
        """These could not be worked on: deliver them again, `delay` seconds from now."""
        return self._answer(Answer.AGAIN, delay, events)

    def give_up(self, *events: Event) -> Deferred[None]:
        """These never can be worked on: to the dead letters with them."""
        return self._answer(Answer.GIVE_UP, 0.0, events)

    def close(self) -> None:
        """No more events; those that were not acknowledged go to others, or to us next time."""
        self._end(ChannelClosed("the subscription is closed"))

    def when_over(self) -> Deferred[None]:
        """Fires when there will be no more events: closed, or refused."""
        over: Deferred[None] = Deferred()
        if self._over is not None:
            over.callback(None)
        else:
            self._over_waiters.append(over)
        return over

    # --- connecting -----------------------------------------------------------------------------

    def started(self, timeout: float) -> Deferred[Subscription]:
        """Subscribe; fires with this once the server has."""
        self._started = Deferred(lambda _: self.close())
        self._connect()

        def too_late(_result: object, seconds: float) -> Subscription:
            raise SessionClosed(f"not subscribed within {seconds:g} s")

        return self._started.addTimeout(timeout, self._clock, too_late)

    def _connect(self) -> None:
        if self._over is None and self._connecting is None and self._link is None:
            connecting = Deferred.fromCoroutine(self._open())
            if not connecting.called:
                self._connecting = connecting
            connecting.addErrback(self._not_connected)

    async def _open(self) -> None:
        session = await self._get_session()
        self._connecting = None
        if self._over is not None:
            return
        done = [s for ack, _ in self._unconfirmed.values() for s in _done_in(ack)]
        link = self._link = _Link(self)
        opening = session.open(EVENTS, link)
        request = self._request._replace(done=tuple(done))
        link.channel.send(encode_part(Kind.SUBSCRIBE, SUBSCRIBE.encode(request)))
        opening.addErrback(lambda failure: self._refused(link, failure))

    def _refused(self, link: _Link, failure: Failure) -> _Link:
        self.lost(link, expected(failure))
        return link

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if not failure.check(CancelledError):
            self._end(expected(failure))

    def lost(self, link: _Link, reason: JetStreamError | None) -> None:
        """The channel is gone; unless that is final, go on in the next session."""
        if link is not self._link:
            return
        self._link = None
        if is_over(reason):
            assert reason is not None
            self._end(reset_refusal(reason))
            return
        if self._request.durable:  # they come again
            self._events.clear()
            self._size = 0
        self._retry = self._clock.callLater(RETRY, self._connect)

    # --- what comes -------------------------------------------------------------------------------

    def received(self, link: _Link, message: bytes) -> None:
        """A message of the server's."""
        if link is not self._link:
            return
        kind, number, body = decode_part(message)
        if kind == Kind.EVENTS:
            self._take(decode_events(body))
        elif kind == Kind.ACKED:
            _, waiting = self._unconfirmed.pop(number, (None, []))
            for one in waiting:
                one.callback(None)
        elif kind == Kind.MISSED:
            self.missed += number
        elif kind == Kind.SUBSCRIBED:
            self._subscribed(body)
        else:
            raise WireError(f"message {kind} for a subscriber")

    def _subscribed(self, body: memoryview) -> None:
        told = SUBSCRIBED.decode(body)
        self.reconnects += 1
        self.stream = told.stream
        if told.stream_id != self._stream_id:
            self._done.clear()
            self._stream_id = told.stream_id
        if told.stream and not self._request.durable:
            self._go_on_from(told.next)
        self._tell_again()
        started, self._started = self._started, None
        if started is not None:
            started.callback(self)

    def _go_on_from(self, sequence: int) -> None:
        self._request = self._request._replace(
            start=Start.SEQUENCE, origin=sequence, policy=Policy.PAUSE
        )

    def _take(self, events: list[Event]) -> None:
        if self._request.durable:
            known = [event for event in events if event.sequence in self._done]
            if known:  # they were acknowledged while they came again
                self._answer(Answer.DONE, 0.0, known).addErrback(lambda _: None)
                events = [event for event in events if event.sequence not in self._done]
            self._repeated = self._repeated or any(event.attempt > 1 for event in events)
        elif self.stream:
            self._request = self._request._replace(origin=events[-1].sequence + 1)
        if not events:
            return
        if self._waiting and not self._events:
            self._serve(events)
            return
        self._events.extend(events)
        self._count(events, 1)
        if self._size >= HIGH_WATER and self._link is not None:
            self._link.channel.pauseProducing()

    def _serve(self, events: list[Event]) -> None:
        """Give fresh events to who waits, and keep the rest."""
        waiting, wants_all = self._waiting.popleft()
        rest = [] if wants_all else events[1:]
        self._events.extend(rest)
        self._count(rest, 1)
        waiting.callback(events if wants_all else events[0])
        while self._waiting and self._events:
            waiting, wants_all = self._waiting.popleft()
            waiting.callback(self._next(wants_all))

    def _get(self, wants_all: bool) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        if self._events:
            waiting.callback(self._next(wants_all))
        elif self._over is not None:
            waiting.errback(self._over)
        else:
            entry = (waiting, wants_all)
            waiting = Deferred(lambda _: self._waiting.remove(entry))
            entry = (waiting, wants_all)
            self._waiting.append(entry)
        return waiting

    def _next(self, wants_all: bool) -> Any:
        if wants_all:
            events = list(self._events)
            self._events.clear()
            self._size = 0
        else:
            event = self._events.popleft()
            self._count([event], -1)
        if self._size <= HIGH_WATER >> 1 and self._link is not None:
            self._link.channel.resumeProducing()
        return events if wants_all else event

    def _count(self, events: Iterable[Event], sign: int) -> None:
        self._size += sign * sum([len(event[1]) + _EVENT_COST for event in events])

    # --- acknowledgements -----------------------------------------------------------------------

    def _answer(self, answer: Answer, delay: float, events: Iterable[Event]) -> Deferred[None]:
        if not self._request.durable:
            raise ValueError("only events of a durable consumer are acknowledged")
        told: Deferred[None] = Deferred()
        if self._over is not None:
            told.errback(self._over)
            return told
        sequences = [event.sequence for event in events]
        if answer is Answer.DONE:
            self._done.update(dict.fromkeys(sequences))
            while len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
            self._forget_repeated()
        last = self._answers[-1] if self._answers else None
        if last is not None and last[:2] == (answer, delay):
            last[2].extend(sequences)
        else:
            self._answers.append((answer, delay, sequences))
        if self._flush is None:
            self._flush = self._clock.callLater(0, self._tell)
        self._told.append(told)
        return told

    def _forget_repeated(self) -> None:
        """What has come again, and waits here, is not to be given out once it is done."""
        if self._repeated:
            kept = [event for event in self._events if event.sequence not in self._done]
            self._events = deque(kept)
            self._size = 0
            self._count(kept, 1)
            self._repeated = any(event.attempt > 1 for event in kept)

    def _tell(self) -> None:
        """Send what was answered in this turn."""
        self._flush = None
        told, self._told = self._told, []
        answers, self._answers = self._answers, []
        acks = [
            Ack(tuple(sequences[start : start + _ACKS]), answer, round(delay * 1000))
            for answer, delay, sequences in answers
            for start in range(0, len(sequences), _ACKS)
        ]
        for ack in acks:
            self._number += 1
            self._unconfirmed[self._number] = (ack, told if ack is acks[-1] else [])
            self._send_ack(self._number, ack)
        if not acks:
            for one in told:
                one.callback(None)

    def _tell_again(self) -> None:
        for number, (ack, _) in tuple(self._unconfirmed.items()):
            self._send_ack(number, ack)

    def _send_ack(self, number: int, ack: Ack) -> None:
        if self._link is not None and self._link.welcome:
            try:
                self._link.channel.send(encode_part(Kind.ACK, ACK.encode(ack), number))
            except JetStreamError:  # its end is on the way; it is sent again in the next session
                return

    # --- the end ----------------------------------------------------------------------------------

    def _end(self, reason: JetStreamError) -> None:
        if self._over is not None:
            return
        self._over = reason
        link, self._link = self._link, None
        if link is not None:
            self._leave(link)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        started, self._started = self._started, None
        if started is not None and not started.called:
            started.errback(reason)
        waiting, self._waiting = self._waiting, deque()
        for one, _ in waiting:
            one.errback(reason)
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        told, self._told = self._told, []
        for _, more in self._unconfirmed.values():
            told += more
        self._unconfirmed.clear()
        for each in told:
            each.errback(reason)
        over, self._over_waiters = self._over_waiters, []
        for waiter in over:
            waiter.callback(None)

    def _leave(self, link: _Link) -> None:
        link.channel.resumeProducing()  # what comes until the server's end is dropped
        link.channel.end()


class _Link(ChannelProtocol):
    """A subscription's channel in one session."""

    def __init__(self, subscription: Subscription) -> None:
        self.welcome = False
        self._subscription = subscription

    def message_received(self, message: bytes) -> None:
        self.welcome = True
        try:
            self._subscription.received(self, message)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))

    def end_received(self) -> None:
        self.channel.end()
        self._subscription.lost(self, None)

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._subscription.lost(self, reason)


def _done_in(ack: Ack) -> tuple[int, ...]:
    return ack.sequences if ack.answer is Answer.DONE else ()
