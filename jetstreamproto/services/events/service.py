"""The service `events`: publishers, subscribers and managers of streams, one to a channel.

A channel's first message says what it is for. What is wrong with a publish or a request is
answered, and the channel lives; what is wrong with a subscription, or is no message at all, resets
the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import ChannelReset, EventError, JetStreamError, WireError
from jetstreamproto.services.events.broker import EventBroker, Taken
from jetstreamproto.services.events.messages import (
    EVENTS,
    MANAGE,
    PUBLISHED,
    REFUSED,
    STREAMS,
    SUBSCRIBE,
    Action,
    Consumer,
    Kind,
    Manage,
    Published,
    Refused,
    Streams,
    UnknownVersion,
    decode_part,
    decode_publish,
    encode_part,
    pack_flags,
)
from jetstreamproto.services.events.messages import Stream as StreamMessage
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.limits import MAX_BATCH_BYTES, MAX_PAYLOAD
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.events.model.topics import check_name, check_topic, contains
from jetstreamproto.services.events.refusals import refused_for
from jetstreamproto.services.events.stream import Stream
from jetstreamproto.services.events.subscriber import Subscriber
from jetstreamproto.services.offer import Permissions
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

DEFAULT_SCOPES: Mapping[str, tuple[str, ...]] = {
    "publish": (">",),
    "subscribe": (">", "$dead.>"),
    "streams": ("*", "$dead"),
}
"""What a peer may do by a rule that lets it use the service, and says nothing else."""
MAX_PUBLISHER = 64
"""Bytes of a publisher's id."""

_MAX_MESSAGE = MAX_BATCH_BYTES + (1 << 20)
_KNOWN_TOPICS = 4096  # of a channel, for which access need not be asked again


class Role(Protocol):
    """What a channel is for, once that is known."""

    def received(self, kind: int, number: int, body: memoryview) -> None:
        """A message came."""

    def ended(self) -> None:
        """The peer sends no more, or the session is closing: finish, then end the channel."""

    def closed(self) -> None:
        """The channel is over."""


class EventChannel(ChannelProtocol):
    """Finds out what the channel is for."""

    def __init__(self, broker: EventBroker, permissions: Permissions) -> None:
        self.broker = broker
        self._permissions = permissions
        self._role: Role | None = None
        self._timer: IDelayedCall | None = None

    def channel_opened(self) -> None:
        self._timer = self.broker.clock.callLater(
            self.broker.limits.request_timeout,
            self.channel.reset,
            ResetCode.TIMED_OUT,
            "nothing was asked for",
        )

    def message_received(self, message: bytes) -> None:
        try:
            if len(message) > _MAX_MESSAGE:
                raise WireError(f"a message of {len(message)} bytes")
            kind, number, body = decode_part(message)
            if self._role is None:
                self._begin(kind, number, body)
            else:
                self._role.received(kind, number, body)
        except UnknownVersion as error:
            self.channel.reset(EventCode.VERSION, str(error))
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
        except EventError as error:
            self.channel.reset(error.code, error.reason)
        except ChannelReset as refusal:
            self.channel.reset(refusal.code, refusal.reason)

    def end_received(self) -> None:
        if self._role is None:
            self.channel.end()
        else:
            self._role.ended()

    def session_closing(self) -> None:
        self.end_received()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._stop_timer()
        if self._role is not None:
            self._role.closed()

    def allows(self, scope: str, pattern: str) -> bool:
        """Whether everything that `pattern` matches is within the peer's scope."""
        granted = self._permissions(self.channel.session, EVENTS, scope, DEFAULT_SCOPES[scope])
        return any(contains(one, pattern) for one in granted)

    def check(self, scope: str, pattern: str) -> None:
        """Raise `ChannelReset` unless `pattern` is within the scope."""
        if not self.allows(scope, pattern):
            raise ChannelReset(ResetCode.NOT_ALLOWED, f"{scope}: {pattern} is not allowed here")

    def _begin(self, kind: int, number: int, body: memoryview) -> None:
        self._stop_timer()
        if kind == Kind.PUBLISHER:
            self._role = Publisher(self, bytes(body))
        elif kind == Kind.SUBSCRIBE:
            request = SUBSCRIBE.decode(body)
            self._role = Subscriber(self.broker, self.channel, request, self.check)
        elif kind == Kind.MANAGE:
            self._role = StreamDesk(self)
            self._role.received(kind, number, body)
        else:
            raise WireError(f"message {kind} cannot come first")

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


@implementer(IPushProducer)
class Publisher:
    """Takes batches, and answers each once it is taken. Reads on only while answers are read, and
    the disk keeps up."""

    def __init__(self, host: EventChannel, publisher: bytes) -> None:
        if not 0 < len(publisher) <= MAX_PUBLISHER:
            raise WireError(f"a publisher's id has 1 to {MAX_PUBLISHER} bytes")
        self._host = host
        self._broker = host.broker
        self._channel = host.channel
        self._publisher = publisher
        self._known: set[str] = set()
        self._under_way = 0
        self._ending = False
        self._is_closed = False
        self._holds: set[str] = set()
        self._channel.registerProducer(self, True)

    def received(self, kind: int, number: int, body: memoryview) -> None:
        if kind != Kind.PUBLISH:
            raise WireError(f"message {kind} from a publisher")
        names, events = decode_publish(body)
        if number + len(events) >= 1 << 63:
            raise WireError("a publisher's number is below 2**63")
        try:
            self._check(names, events)
        except (EventError, ChannelReset) as error:
            self._refuse(number, error.code, error.reason)
            return
        taking = self._broker.publish_batch(names, events, self._publisher, number)
        self._under_way += 1
        taking.addCallbacks(self._taken, self._not_taken, (number,), {}, (number,))
        if self._broker.journal.waiting > self._broker.limits.journal_bytes:
            self._hold("disk")
            self._wait_for_disk()

    def ended(self) -> None:
        self._ending = True
        if not self._under_way:
            self._channel.end()

    def closed(self) -> None:
        self._is_closed = True

    def _check(self, names: tuple[str, ...], events: list[tuple[str, bytes]]) -> None:
        for name in names:
            if name not in self._known:
                self._host.check("publish", check_topic(name))
                if len(self._known) >= _KNOWN_TOPICS:
                    self._known.clear()
                self._known.add(name)
        if max([len(payload) for _, payload in events]) > MAX_PAYLOAD:
            raise EventError(EventCode.LIMIT, f"an event has at most {MAX_PAYLOAD} bytes")

    def _taken(self, taken: Taken, number: int) -> None:
        published = Published(tuple(taken.sequences), pack_flags(taken.duplicates))
        self._answer(Kind.PUBLISHED, PUBLISHED.encode(published), number)

    def _not_taken(self, failure: Failure, number: int) -> None:
        error = refused_for(failure)
        self._answer(Kind.REFUSED, _refused(error.code, error.reason), number)

    def _answer(self, kind: Kind, body: bytes, number: int) -> None:
        self._under_way -= 1
        if not self._is_closed:
            self._say(kind, body, number)
            if self._ending and not self._under_way:
                self._channel.end()

    def _refuse(self, number: int, code: int, reason: str) -> None:
        self._say(Kind.REFUSED, _refused(code, reason), number)

    def _say(self, kind: Kind, body: bytes, number: int) -> None:
        try:
            self._channel.send(encode_part(kind, body, number))
        except JetStreamError:  # the channel is over, so nobody waits for the answer
            self._channel.reset(ResetCode.CANCELLED, "answers are not read")

    # --- no faster than ... -----------------------------------------------------------------

    def _hold(self, why: str) -> None:
        if not self._holds:
            self._channel.pauseProducing()
        self._holds.add(why)

    def _release(self, why: str) -> None:
        self._holds.discard(why)
        if not self._holds and not self._is_closed:
            self._channel.resumeProducing()

    def _wait_for_disk(self) -> None:
        room = self._broker.journal.when_below(self._broker.limits.journal_bytes)
        room.addCallback(lambda _: self._release("disk"))

    def pauseProducing(self) -> None:
        self._hold("answers")

    def resumeProducing(self) -> None:
        self._release("answers")

    def stopProducing(self) -> None:
        """The channel is over."""


class StreamDesk:
    """Answers what is asked about streams, one request after the other."""

    def __init__(self, host: EventChannel) -> None:
        self._host = host
        self._channel = host.channel
        self._broker = host.broker

    def received(self, kind: int, number: int, body: memoryview) -> None:
        if kind != Kind.MANAGE:
            raise WireError(f"message {kind} from a manager of streams")
        request = MANAGE.decode(body)
        self._channel.pauseProducing()
        done = Deferred.fromCoroutine(self._do(request))
        done.addCallbacks(
            lambda streams: self._answer(Kind.STREAMS, STREAMS.encode(Streams(streams)), number),
            lambda failure: self._failed(failure, number),
        )

    def ended(self) -> None:
        self._channel.end()

    def closed(self) -> None:
        """What was begun is finished."""

    async def _do(self, request: Manage) -> tuple[StreamMessage, ...]:
        broker, action = self._broker, request.action
        if action is Action.LIST:
            mine = [s for s in broker.streams() if self._host.allows("streams", s.config.name)]
            return tuple(describe(stream) for stream in mine)
        config = request.stream
        if config is None:
            raise EventError(EventCode.BAD_TOPIC, "the stream has no name")
        self._host.check("streams", check_name(config.name, "stream"))
        if action is Action.ADD:
            stream = await broker.add_stream(StreamConfig(*config))
        elif action is Action.REMOVE:
            stream = broker.stream(config.name)
            await broker.remove_stream(config.name)
        else:
            stream = broker.stream(config.name)
            if action is Action.FORGET:
                await broker.forget_consumer(stream, request.consumer)
        return (describe(stream, consumers=True),)

    def _failed(self, failure: Failure, number: int) -> None:
        error = refused_for(failure)
        self._answer(Kind.REFUSED, _refused(error.code, error.reason), number)

    def _answer(self, kind: Kind, body: bytes, number: int) -> None:
        try:
            self._channel.send(encode_part(kind, body, number))
            self._channel.resumeProducing()
        except JetStreamError as error:
            self._channel.reset(ResetCode.CANCELLED, str(error))


def describe(stream: Stream, *, consumers: bool = False) -> StreamMessage:
    """A stream as it is told."""
    found = [
        Consumer(
            one.config.name,
            one.config.pattern,
            one.config.group,
            one.state.floor,
            one.state.outstanding,
            len(one.members),
        )
        for one in (stream.consumers.values() if consumers else ())
    ]
    info = stream.info
    return StreamMessage(info.config, info.first, info.last, info.events, info.size, tuple(found))


def _refused(code: int, reason: str) -> bytes:
    return REFUSED.encode(Refused(code, reason[:500]))


def event_service(
    get_broker: Callable[[], EventBroker], permissions: Permissions
) -> Callable[[], ChannelProtocol]:
    """What makes the protocol of a channel to the service."""
    return lambda: EventChannel(get_broker(), permissions)
