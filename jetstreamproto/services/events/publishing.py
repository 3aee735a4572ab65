"""The client's publisher: batches, confirmations, and what is sent again in the next session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from jetstreamproto.errors import (
    EventError,
    JetStreamError,
    MessageTooLarge,
    QueueFull,
    SessionClosed,
    WireError,
)
from jetstreamproto.services.events.messages import (
    EVENTS,
    PUBLISHED,
    REFUSED,
    Kind,
    decode_part,
    encode_part,
    encode_publish,
)
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.event import Receipt
from jetstreamproto.services.events.model.limits import MAX_PAYLOAD
from jetstreamproto.services.events.model.topics import check_topic
from jetstreamproto.services.events.refusals import RETRY, expected, is_over, refusal, reset_refusal
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

BATCH_EVENTS, BATCH_BYTES = 512, 1 << 16
"""A batch leaves when it has so many events, or so many bytes, or when the turn ends."""
MAX_EVENTS, MAX_BYTES = 1 << 18, 64 << 20
"""Events and bytes that may be unconfirmed; beyond that `QueueFull` is raised."""
_ROOM_EVENTS, _ROOM_BYTES = 1 << 14, 8 << 20  # below this there is room

_KNOWN_TOPICS = 4096


class _Batch:
    """Events that travel together, and who waits for each."""

    __slots__ = ("deadline", "events", "message", "number", "size", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[tuple[str, bytes]] = []
        self.waiting: list[tuple[Deferred[Any], int]] = []  # with how many events of it
        self.size = 0
        self.deadline = 0.0
        self.message = b""

    def fail(self, error: JetStreamError) -> None:
        for waiting, _ in self.waiting:
            waiting.errback(error)


class Publishing:
    """Publishes in order, over one channel of whichever session there is."""

    def __init__(
        self,
        get_session: Callable[[], Deferred[Session]],
        clock: IReactorTime,
        publisher: bytes,
        number: int,
        timeout: float,
    ) -> None:
        self._get_session = get_session
        self._clock = clock
        self._publisher = publisher
        self._number = number
        self._timeout = timeout
        self._batch: _Batch | None = None
        self._unconfirmed: dict[int, _Batch] = {}  # by number, in that order
        self._events = self._size = 0
        self._flush: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._link: _Link | None = None
        self._connecting: Deferred[None] | None = None
        self._known: set[str] = set()
        self._drained: deque[Deferred[None]] = deque()
        self._closed: Deferred[None] | None = None

    def publish(self, topic: str, payload: bytes | str) -> Deferred[Receipt]:
        """See `EventClient.publish`."""
        waiting: Deferred[Receipt] = Deferred()
        batch = self._add(topic, payload)
        batch.waiting.append((waiting, 1))
        self._send_if_full(batch)
        return waiting

    def publish_many(self, events: Sequence[tuple[str, bytes]]) -> Deferred[list[Receipt]]:
        """See `EventClient.publish_many`."""
        parts: list[tuple[_Batch, Deferred[Any], int]] = []
        for topic, payload in events:
            batch = self._add(topic, payload)
            if parts and parts[-1][0] is batch:
                parts[-1] = (batch, parts[-1][1], parts[-1][2] + 1)
                batch.waiting[-1] = parts[-1][1:]
            else:
                parts.append((batch, Deferred(), 1))
                batch.waiting.append(parts[-1][1:])
            self._send_if_full(batch)
        gathered = gatherResults([waiting for _, waiting, _ in parts], consumeErrors=True)
        return gathered.addCallbacks(_receipts, _first)

    def drained(self) -> Deferred[None]:
        """See `EventClient.drained`."""
        room: Deferred[None] = Deferred()
        if self._has_room:
            room.callback(None)
        else:
            self._drained.append(room)
        return room

    def close(self) -> Deferred[None]:
        """Take no more; fires when everything is confirmed or has failed."""
        if self._closed is None:
            self._closed = Deferred()
            self._leave()
            self._check_closed()
        closed: Deferred[None] = Deferred()
        self._closed.chainDeferred(closed)
        return closed

    # --- batches ------------------------------------------------------------------------------

    @property
    def _has_room(self) -> bool:
        return self._events <= _ROOM_EVENTS and self._size <= _ROOM_BYTES

    def _add(self, topic: str, payload: bytes | str) -> _Batch:
        if topic not in self._known:
            check_topic(topic)
            if len(self._known) >= _KNOWN_TOPICS:
                self._known.clear()
            self._known.add(topic)
        data = payload.encode() if isinstance(payload, str) else payload
        if len(data) > MAX_PAYLOAD:
            raise EventError(EventCode.LIMIT, f"an event has at most {MAX_PAYLOAD} bytes")
        if self._closed is not None:
            raise SessionClosed("this client of events is closed")
        if self._events >= MAX_EVENTS or self._size >= MAX_BYTES:
            raise QueueFull(f"{self._events} events are not confirmed")
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch(self._number)
            if self._flush is None:
                self._flush = self._clock.callLater(0, self._flushed)
        batch.events.append((topic, data))
        size = len(data)
        batch.size += size
        self._number += 1
        self._events += 1
        self._size += size
        return batch

    def _send_if_full(self, batch: _Batch) -> None:
        if len(batch.events) >= BATCH_EVENTS or batch.size >= BATCH_BYTES:
            self._leave()

    def _flushed(self) -> None:
        self._flush = None
        self._leave()

    def _leave(self) -> None:
        """The batch that is being filled is sent."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        batch.deadline = self._clock.seconds() + self._timeout
        batch.message = encode_part(Kind.PUBLISH, encode_publish(batch.events), batch.number)
        self._unconfirmed[batch.number] = batch
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout, self._expire)
        if self._link is not None:
            self._send(self._link, batch)
        else:
            self._connect()

    def _send(self, link: _Link, batch: _Batch) -> None:
        try:
            link.channel.send(batch.message)
        except MessageTooLarge as error:
            self._settle(batch.number, error)
        except JetStreamError:
            link.channel.reset(ResetCode.CANCELLED)  # then it is sent over the next one

    # --- sessions -------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._connecting is None:
            connecting = Deferred.fromCoroutine(self._open())
            if not connecting.called:
                self._connecting = connecting
            connecting.addErrback(self._not_connected)

    async def _open(self) -> None:
        session = await self._get_session()
        link = _Link(self)
        opening = session.open(EVENTS, link)
        link.channel.send(encode_part(Kind.PUBLISHER, self._publisher))
        self._link = link
        for batch in tuple(self._unconfirmed.values()):
            self._send(link, batch)
        try:
            await opening
        except JetStreamError as error:
            self.lost(link, error, final=is_over(error))
        finally:
            self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if failure.check(CancelledError):
            return
        self.lost(None, expected(failure), final=True)

    def received(self, message: bytes) -> None:
        """An answer of the server's."""
        kind, number, body = decode_part(message)
        if number not in self._unconfirmed:
            return  # its time was over
        if kind == Kind.PUBLISHED:
            published = PUBLISHED.decode(body)
            self._settle(number, published)
        elif kind == Kind.REFUSED:
            refused = REFUSED.decode(body)
            self._settle(number, refusal(refused.code, refused.reason))
        else:
            raise WireError(f"message {kind} for a publisher")

    def lost(self, link: _Link | None, reason: JetStreamError | None, *, final: bool) -> None:
        """The channel is gone; unless that is final, what is unconfirmed goes over another."""
        if link is not self._link and link is not None:
            return
        self._link = None
        if final:
            error = reset_refusal(reason) if reason is not None else SessionClosed("ended")
            for number in tuple(self._unconfirmed):
                self._settle(number, error)
        elif self._unconfirmed:
            self._retry = self._clock.callLater(RETRY, self._connect_again)

    def _connect_again(self) -> None:
        if self._unconfirmed and self._link is None:
            self._connect()

    # --- confirmations --------------------------------------------------------------------------

    def _settle(self, number: int, outcome: Any) -> None:
        batch = self._unconfirmed.pop(number)
        count = len(batch.events)
        self._events -= count
        self._size -= batch.size
        if isinstance(outcome, JetStreamError):
            batch.fail(outcome)
        else:
            sequences = outcome.sequences or (0,) * count
            flags = outcome.duplicates
            if len(sequences) != count or len(flags) not in (0, count):
                batch.fail(WireError("receipts for another number of events"))
            else:
                self._confirm(batch, sequences, flags)
        while self._drained and self._has_room:
            self._drained.popleft().callback(None)
        self._check_closed()

    def _confirm(self, batch: _Batch, sequences: Sequence[int], flags: bytes) -> None:
        index = 0
        for waiting, count in batch.waiting:
            if count == 1:
                waiting.callback(Receipt(sequences[index], bool(flags and flags[index])))
            else:
                part = range(index, index + count)
                waiting.callback([Receipt(sequences[i], bool(flags and flags[i])) for i in part])
            index += count

    def _expire(self) -> None:
        """What has waited too long fails; it may have been taken."""
        self._timer = None
        now = self._clock.seconds()
        for number, batch in tuple(self._unconfirmed.items()):
            if batch.deadline > now + 1e-6:
                break
            self._settle(number, SessionClosed(f"not confirmed within {self._timeout:g} s"))
        if self._unconfirmed:
            oldest = next(iter(self._unconfirmed.values()))
            self._timer = self._clock.callLater(max(0.0, oldest.deadline - now), self._expire)

    def _check_closed(self) -> None:
        if self._unconfirmed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closed is None or self._closed.called:
            return
        for call in (self._flush, self._retry):
            if call is not None and call.active():
                call.cancel()
        self._flush = self._retry = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.channel.end()
        self._closed.callback(None)


class _Link(ChannelProtocol):
    """The publisher's channel in one session."""

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing

    def message_received(self, message: bytes) -> None:
        try:
            self._publishing.received(message)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))

    def session_closing(self) -> None:
        """The server goes away: what it has is answered, the rest goes over the next session."""
        self.channel.end()
        self._publishing.lost(self, None, final=False)

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._publishing.lost(self, reason, final=is_over(reason))


def _receipts(parts: list[Any]) -> list[Receipt]:
    found: list[Receipt] = []
    for part in parts:
        if isinstance(part, Receipt):
            found.append(part)
        else:
            found += part
    return found


def _first(failure: Failure) -> Any:
    assert isinstance(failure.value, FirstError)
    return failure.value.subFailure
