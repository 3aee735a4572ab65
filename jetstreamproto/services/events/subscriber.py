"""One subscription of a session."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.errors import EventError, WireError
from jetstreamproto.services.events.broker import EventBroker
from jetstreamproto.services.events.messages import (
    ACK,
    SUBSCRIBED,
    Ack,
    Answer,
    Kind,
    Subscribe,
    Subscribed,
)
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.consumer import MAX_ATTEMPTS, ConsumerConfig
from jetstreamproto.services.events.model.event import Policy, Start
from jetstreamproto.services.events.model.limits import EventLimits
from jetstreamproto.services.events.model.topics import check_name, check_pattern
from jetstreamproto.services.events.outlet import Live, Outlet
from jetstreamproto.services.events.reading import DurableConsumer, StreamReader
from jetstreamproto.services.events.refusals import refused_for
from jetstreamproto.services.events.stream import Stream
from jetstreamproto.session.channel import Channel

MAX_ACK_WAIT = 86400.0
"""Seconds."""


class Subscriber:
    """Gives a channel what it asks for, live or from a stream; `check` raises if denied."""

    def __init__(
        self,
        broker: EventBroker,
        channel: Channel,
        request: Subscribe,
        check: Callable[[str, str], None],
    ) -> None:
        self._broker = broker
        self._channel = channel
        self._request = request
        self._consumer: DurableConsumer | None = None
        self._is_closed = False
        self._undo: Callable[[], None] = lambda: None
        self._outlet: Outlet
        check_pattern(request.pattern)
        check("subscribe", request.pattern)
        if request.durable:
            beginning = Deferred.fromCoroutine(self._begin_durable())
            beginning.addErrback(self._failed)
        elif request.start is not Start.NEW or request.policy is Policy.PAUSE:
            self._begin_reading()
        else:
            self._begin_live()

    def received(self, kind: int, number: int, body: memoryview) -> None:
        if kind != Kind.ACK or self._consumer is None:
            raise WireError(f"message {kind} from a subscriber")
        self._acknowledge(self._consumer, ACK.decode(body), number)

    def ended(self) -> None:
        self._channel.end()

    def closed(self) -> None:
        self._is_closed = True
        undo, self._undo = self._undo, lambda: None
        undo()

    # --- live ---------------------------------------------------------------------------------

    def _begin_live(self) -> None:
        request, broker, limits = self._request, self._broker, self._broker.limits
        live = Live(
            request.policy,
            _at_most(request.queue_events, limits.queue_events),
            _at_most(request.queue_bytes, limits.queue_bytes),
            broker.queues,
        )
        live.out = self._outlet = Outlet(self._channel, live.resumed)
        pattern, group = request.pattern, request.group
        if group:
            broker.join_group(pattern, check_name(group, "group"), live)
            leave = lambda: broker.leave_group(pattern, group, live)  # noqa: E731
        else:
            broker.attach(pattern, live)
            leave = lambda: broker.detach(pattern, live)  # noqa: E731

        def undo() -> None:
            leave()
            live.stop()

        self._undo = undo
        self._outlet.tell(Kind.SUBSCRIBED, SUBSCRIBED.encode(Subscribed()))

    # --- from a stream ----------------------------------------------------------------------------

    def _begin_reading(self) -> None:
        request, broker = self._request, self._broker
        if request.group:
            raise EventError(
                EventCode.CONSUMER_CONFLICT, "a group that reads a stream has a durable consumer"
            )
        stream = broker.stream_for(request.pattern)
        begin = stream.begin(request.start, request.origin, request.pattern)
        reader = StreamReader(stream, request.pattern, begin, broker.clock)
        reader.out = self._outlet = Outlet(self._channel, reader.resumed)
        broker.attach(request.pattern, reader)

        def undo() -> None:
            broker.detach(request.pattern, reader)
            reader.stop()

        self._undo = undo
        self._welcome(stream, begin)
        reader.resumed()

    async def _begin_durable(self) -> None:
        request, broker = self._request, self._broker
        stream = broker.stream_for(request.pattern)
        config = _consumer_config(request, stream, broker.limits)
        begin = stream.begin(request.start, request.origin, request.pattern)
        consumer = await broker.consumer(stream, config, begin)
        if request.done:
            await consumer.answer(request.done, Answer.DONE, 0.0)
        if self._is_closed:
            return
        if not config.group:
            for member in tuple(consumer.members):
                member.reset(EventCode.TAKEN_OVER, "a newer subscription has the consumer now")
        self._consumer = consumer
        outlet = self._outlet = Outlet(self._channel, consumer.wake)
        self._undo = lambda: consumer.leave(outlet)
        self._welcome(stream, consumer.state.floor + 1)
        consumer.join(outlet)

    def _welcome(self, stream: Stream, begin: int) -> None:
        told = Subscribed(stream.config.name, stream.id, max(begin, 0))
        self._outlet.tell(Kind.SUBSCRIBED, SUBSCRIBED.encode(told))

    def _failed(self, failure: Failure) -> None:
        error = refused_for(failure)
        self._channel.reset(error.code, error.reason)

    def _acknowledge(self, consumer: DurableConsumer, ack: Ack, number: int) -> None:
        if len(ack.sequences) > self._broker.limits.max_pending:
            raise WireError(f"{len(ack.sequences)} acknowledgements in one message")

        def kept(_: None) -> None:
            if not self._is_closed:
                self._outlet.tell(Kind.ACKED, number=number)

        answered = consumer.answer(ack.sequences, ack.answer, ack.delay_ms / 1000)
        answered.addCallbacks(kept, self._failed)


def _at_most(asked: int, limit: int) -> int:
    return min(asked, limit) if asked else limit


def _consumer_config(request: Subscribe, stream: Stream, limits: EventLimits) -> ConsumerConfig:
    """What is asked for; what is not said is as it was, or else the default."""
    known = stream.consumers.get(request.durable)
    old = known.config if known is not None else ConsumerConfig(request.durable, request.pattern)
    wait = request.ack_wait_ms / 1000 or old.ack_wait
    pending = request.max_pending or min(old.max_pending, limits.max_pending)
    if request.group:
        check_name(request.group, "group")
    if wait > MAX_ACK_WAIT or pending > limits.max_pending or request.max_deliver > MAX_ATTEMPTS:
        raise EventError(
            EventCode.LIMIT,
            f"a consumer waits at most {MAX_ACK_WAIT:g} s for acknowledgements, has at most"
            f" {limits.max_pending} pending and delivers at most {MAX_ATTEMPTS} times",
        )
    return ConsumerConfig(
        request.durable,
        request.pattern,
        request.group,
        wait,
        request.max_deliver or old.max_deliver,
        pending,
    )
