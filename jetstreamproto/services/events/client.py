"""`EventClient`: publish, subscribe, and streams, on a session or on whichever session there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from jetstreamproto.errors import SessionClosed
from jetstreamproto.services.events.messages import (
    EVENTS,
    MANAGE,
    REFUSED,
    STREAMS,
    SUBSCRIBE,
    Action,
    Kind,
    Manage,
    Stream,
    Subscribe,
    decode_part,
    encode_part,
)
from jetstreamproto.services.events.model.event import Policy, Receipt, Start
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.events.publishing import Publishing
from jetstreamproto.services.events.receiving import Subscription
from jetstreamproto.services.events.refusals import refusal
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session

GetSession = Callable[[], Deferred[Session]]


class EventClient:
    """Events of a server.

    `source` is a session, or a function that returns a Deferred of the one there is or will be, as
    `ReconnectingClient.when_connected`: then what was published and not confirmed is sent again in
    the next session (and taken once, see `publisher`), and subscriptions go on.

    `publisher` is an id of up to 64 bytes, and `number` that of its next event. The server drops
    events whose number is not above the publisher's last one in that stream. By default the id is
    random, so that retries of this client are taken once; one that is kept, with the number, does
    so beyond its life. `timeout` is for every publish and request, in seconds.
    """

    def __init__(
        self,
        source: Session | GetSession,
        *,
        publisher: bytes | None = None,
        number: int = 1,
        timeout: float = 30.0,
        clock: IReactorTime | None = None,
    ) -> None:
        if isinstance(source, Session):
            session = source
            clock = session.clock
            self._get_session: GetSession = lambda: _living(session)
        else:
            self._get_session = source
        if clock is None:
            from twisted.internet import reactor

            clock = IReactorTime(reactor)
        self._clock = clock
        self._timeout = timeout
        self._publishing = Publishing(
            self._get_session, clock, publisher or os.urandom(16), number, timeout
        )
        self._subscriptions: set[Subscription] = set()

    # --- publishing ---------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes | str) -> Deferred[Receipt]:
        """Publish one event; text is sent in UTF-8.

        Fires once the server has taken it, and has it on disk if a stream keeps the topic. Events
        that are published in one turn of the reactor travel together. Fails with `EventError`,
        `NotAllowed` or `SessionClosed` (also after `timeout`; then it may have been taken). Raises
        `EventError` for what is no topic, and `QueueFull` when too many are not confirmed.
        """
        return self._publishing.publish(topic, payload)

    def publish_many(self, events: Iterable[tuple[str, bytes]]) -> Deferred[list[Receipt]]:
        """Publish several, in order; fires with all receipts, or fails with the first failure."""
        return self._publishing.publish_many(list(events))

    def drained(self) -> Deferred[None]:
        """Fires when there is room to publish more: wait for it to publish no faster than taken."""
        return self._publishing.drained()

    # --- subscribing --------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        *,
        start: Start = Start.NEW,
        origin: int = 0,
        policy: Policy = Policy.DROP,
        queue_events: int = 0,
        queue_bytes: int = 0,
        durable: str = "",
        group: str = "",
        ack_wait: float = 0.0,
        max_deliver: int = 0,
        max_pending: int = 0,
    ) -> Deferred[Subscription]:
        """Subscribe to the topics that match; fires once the server has done so.

        By itself that is live: what is published from now on, and `policy` says what becomes of
        what this side is too slow for. With another `start` (`origin` is its sequence, or its time
        in microseconds since 1970) or `Policy.PAUSE` it reads the one stream that keeps such
        topics, and misses nothing. With `durable` it is a consumer of that name at the server,
        where `start` counts only when it is new, and every event is to be acknowledged
        (`Subscription.ack`). Members of a `group` share the events. 0 is the server's default.

        Fails with `EventError`, `NotAllowed`, or `SessionClosed`.
        """
        request = Subscribe(
            pattern,
            start,
            origin,
            policy,
            queue_events,
            queue_bytes,
            durable,
            group,
            round(ack_wait * 1000),
            max_deliver,
            max_pending,
        )
        SUBSCRIBE.encode(request)  # raises ValueError for what is out of range
        subscription = Subscription(self._get_session, self._clock, request)
        self._subscriptions.add(subscription)
        subscription.when_over().addBoth(lambda _: self._subscriptions.discard(subscription))
        return subscription.started(self._timeout)

    # --- streams --------------------------------------------------------------------------------

    def streams(self) -> Deferred[tuple[Stream, ...]]:
        """All streams that we may manage."""
        return self._manage(Manage(Action.LIST))

    def add_stream(
        self,
        name: str,
        topics: Sequence[str],
        *,
        max_age: float = 0.0,
        max_bytes: int = 0,
        max_count: int = 0,
    ) -> Deferred[Stream]:
        """Have a stream keep what matches `topics`, or change the one of that name to that.

        The oldest events go when there are more than `max_count` or `max_bytes`, or when they are
        older than `max_age` seconds; 0 is no limit. Fails with `EventError` or `NotAllowed`.
        """
        config = StreamConfig(name, tuple(topics), float(max_age), max_bytes, max_count)
        return self._manage(Manage(Action.ADD, config)).addCallback(_only)

    def remove_stream(self, name: str) -> Deferred[Stream]:
        """Remove a stream, its events and its consumers."""
        return self._manage(Manage(Action.REMOVE, StreamConfig(name, ()))).addCallback(_only)

    def stream(self, name: str) -> Deferred[Stream]:
        """A stream, with its durable consumers."""
        return self._manage(Manage(Action.INFO, StreamConfig(name, ()))).addCallback(_only)

    def forget_consumer(self, stream: str, consumer: str) -> Deferred[Stream]:
        """Remove a durable consumer."""
        config = StreamConfig(stream, ())
        return self._manage(Manage(Action.FORGET, config, consumer)).addCallback(_only)

    def close(self) -> Deferred[None]:
        """End all subscriptions, and publishing once everything is confirmed; fires then."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
        return self._publishing.close()

    def _manage(self, request: Manage) -> Deferred[tuple[Stream, ...]]:
        message = encode_part(Kind.MANAGE, MANAGE.encode(request))

        async def ask() -> tuple[Stream, ...]:
            session = await self._get_session()
            inbox = Inbox()
            opening = session.open(EVENTS, inbox)
            inbox.channel.send(message)
            try:
                await opening
                kind, _, body = decode_part(await inbox.get())
            finally:
                inbox.channel.end()
            if kind == Kind.STREAMS:
                return STREAMS.decode(body).streams
            refused = REFUSED.decode(body)
            raise refusal(refused.code, refused.reason)

        asking = Deferred.fromCoroutine(ask())
        return asking.addTimeout(self._timeout, self._clock, _too_late)


def _living(session: Session) -> Deferred[Session]:
    if session.accepts_channels:
        return succeed(session)
    ended: Deferred[Session] = Deferred()
    ended.errback(session.close_reason or SessionClosed("the session is closing"))
    return ended


def _too_late(_result: object, seconds: float) -> tuple[Stream, ...]:
    raise SessionClosed(f"no answer within {seconds:g} s")


def _only(streams: tuple[Stream, ...]) -> Stream:
    return streams[0]
