"""A channel: one conversation of messages inside a session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from zope.interface import implementer

from jetstreamproto.errors import (
    ChannelClosed,
    ChannelReset,
    JetStreamError,
    MessageTooLarge,
    QueueFull,
)
from jetstreamproto.session.codes import MAX_FRAGMENT, PACKET_COST, ResetCode
from jetstreamproto.session.credit import SendCredit
from jetstreamproto.session.delivery import Delivery
from jetstreamproto.session.guard import call_application
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.unordered import UnorderedDelivery
from jetstreamproto.transports.link import Link
from jetstreamproto.wire.compression import Compressor
from jetstreamproto.wire.packet import Flag, Kind, encode_head
from jetstreamproto.wire.session_messages import Mode, Open

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session

_MORE = int(Flag.MORE)
_LZ4 = int(Flag.LZ4)
_ORDERED = Mode.ORDERED
_DATA, _END = int(Kind.DATA), int(Kind.END)

MIN_ROOM = 1024
"""Credit below this is not worth a fragment, unless the rest of the message fits."""
_MAX_UNORDERED = MIN_ROOM << 16
"""The largest message on a channel that numbers fragments, which it does in 16 bits."""


_NOBODY = ChannelProtocol()
"""The protocol of channels that are closed: they and their own do not keep each other alive."""


class ChannelState(Enum):
    following: tuple[ChannelState, ...]
    """Those that may be next."""

    OPENING = "opening"  # waiting for the peer's ACCEPT
    OPEN = "open"
    ENDED = "ended"  # we sent END, the peer has not
    PEER_ENDED = "peer ended"  # the peer sent END, we have not
    CLOSED = "closed"


ChannelState.OPENING.following = (ChannelState.OPEN, ChannelState.ENDED, ChannelState.CLOSED)
ChannelState.OPEN.following = (ChannelState.ENDED, ChannelState.PEER_ENDED, ChannelState.CLOSED)
ChannelState.ENDED.following = (ChannelState.CLOSED,)
ChannelState.PEER_ENDED.following = (ChannelState.CLOSED,)
ChannelState.CLOSED.following = ()
_OPENING, _OPEN, _ENDED, _PEER_ENDED, _CLOSED = ChannelState  # slow to get at in the enum


@implementer(IConsumer, IPushProducer)
class Channel:
    """One channel of a session; `Session.open` and the service registry make them.

    As a Twisted consumer it pauses a registered producer while more than the high-water mark
    waits to be sent; as a Twisted producer it stops delivering, and in time the peer stops
    sending, while it is paused.

    `mode` says whether messages wait for those sent before them, `deadline` after how many seconds
    one is of no use (None for never), and `expired` counts those that an EXPIRING channel lost.
    """

    __slots__ = (
        "_close_reason",
        "_closed_waiters",
        "_compressor",
        "_drain_waiters",
        "_end_sent",
        "_ending",
        "_high_water",
        "_index",
        "_index_step",
        "_offset",
        "_producer",
        "_producer_paused",
        "_queue",
        "_send_credit",
        "_send_limit",
        "_send_seq",
        "_streaming",
        "deadline",
        "delivery",
        "expired",
        "id",
        "mode",
        "protocol",
        "queued",
        "scheduled",
        "service",
        "session",
        "state",
        "urgency",
    )

    def __init__(
        self,
        session: Session,
        channel_id: int,
        request: Open,
        protocol: ChannelProtocol,
    ) -> None:
        self.session = session
        self.id = channel_id
        self.service = request.service
        self.protocol = protocol
        protocol.channel = self
        self.mode = request.mode
        self.deadline = request.deadline_ms / 1000 if request.deadline_ms else None
        self.urgency = request.urgency
        self.state = _OPENING
        self.scheduled = False
        # sending
        self.queued = 0  # bytes waiting, each message's packet cost included
        self._queue: deque[bytes | memoryview] = deque()
        self._offset = 0  # of the first queued message, already sent
        self._ending = False  # `end` was called
        self._end_sent = False
        self._send_seq = 0
        self._index = 0  # of the next fragment in its message, counted where it is sent along
        ordered = request.mode is _ORDERED
        self._index_step = 0 if ordered else 1
        self._send_credit = SendCredit(session.peer_hello.channel_window)
        self._send_limit = session.settings.send_limit
        self._high_water = session.settings.high_water
        policy = session.settings.compression
        compress = policy is not None and session.peer_hello.lz4 and not request.secret
        self._compressor = Compressor(policy) if policy is not None and compress else None
        self._producer: IProducer | None = None
        self._streaming = False
        self._producer_paused = False
        self._drain_waiters: list[Deferred[None]] = []
        # receiving
        self.expired = 0
        self.delivery = Delivery(self) if ordered else UnorderedDelivery(self)
        # ends
        self._close_reason: JetStreamError | None = None
        self._closed_waiters: list[Deferred[None]] = []

    def __repr__(self) -> str:
        return f"<Channel {self.id} {self.service!r} {self.state.value}>"

    # --- for the application: sending -------------------------------------------------

    def send(self, message: bytes | bytearray | memoryview) -> None:
        """Queue one message. They are sent in order, as credit, priorities and the link allow.

        Raises `ChannelClosed` after `end` or when the channel is over, `MessageTooLarge` when
        the peer would refuse it, and `QueueFull` when `send_limit` bytes are waiting already.
        """
        self._check_open()
        if type(message) is not bytes:
            message = bytes(message)
        size = len(message)
        if size > self.session.peer_hello.max_message:
            raise MessageTooLarge(
                f"a message of {size} bytes; the peer takes {self.session.peer_hello.max_message}"
            )
        if size > _MAX_UNORDERED and self._index_step:
            raise MessageTooLarge(f"a message of {size} bytes on a channel without order")
        self._queue.append(message)
        self.queued = queued = self.queued + size + PACKET_COST
        if not self.scheduled:
            self.session.outbox.put_channel(self)
        if queued >= self._high_water and self._producer is not None:
            self._pause_producer()

    def before_sending(self, call: Callable[[], None]) -> None:
        """Have `call` called once, before the session next sends: what it sends leaves with that.

        In this way what collects within a turn of the reactor can become one message. Raises
        `ChannelClosed` and `QueueFull` as `send` does. There is no call if the session breaks.
        """
        self._check_open()
        self.session.outbox.ask(self, call)

    def _check_open(self) -> None:
        """Raise what keeps another message from being queued."""
        if self._ending or self.state is _CLOSED:
            raise ChannelClosed(f"channel {self.id} ({self.service}) takes no more messages")
        if self.queued >= self._send_limit:
            raise QueueFull(f"{self.queued} bytes are waiting to be sent on channel {self.id}")

    def end(self) -> None:
        """Send what is queued and then no more; the peer can still send. Again is no harm."""
        if not self._ending and self.state is not _CLOSED:
            self._ending = True
            if self._end_due:
                self.session.outbox.put_control(Kind.END, self.id, seq=self._send_seq)
                self._our_end_sent()

    def reset(self, code: int = ResetCode.CANCELLED, reason: str = "") -> None:
        """Drop both directions now, and tell the peer why. What is queued is lost."""
        if self.state is not _CLOSED:
            self.session.send_reset(self.id, code, reason)
            self.close(ChannelReset(code, reason))

    def drained(self) -> Deferred[None]:
        """Fires when the queue is below half the high-water mark; fails if the channel breaks."""
        waiter: Deferred[None] = Deferred(self._drain_waiters.remove)
        if self.state is _CLOSED:
            waiter.errback(ChannelClosed(f"channel {self.id} is closed"))
        elif self.queued <= self._low_water:
            waiter.callback(None)
        else:
            self._drain_waiters.append(waiter)
        return waiter

    def when_closed(self) -> Deferred[None]:
        """Fires when both sides have ended; fails with what broke the channel off otherwise."""
        waiter: Deferred[None] = Deferred()
        if self.state is not _CLOSED:
            self._closed_waiters.append(waiter)
        elif self._close_reason is None:
            waiter.callback(None)
        else:
            waiter.errback(self._close_reason)
        return waiter

    # --- IConsumer -------------------------------------------------------------------

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if self.state is _CLOSED:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._producer_paused = not streaming
        if not streaming:
            self._resume_producer()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.send(data)

    def _pause_producer(self) -> None:
        producer = self._producer
        if producer is not None and self._streaming and not self._producer_paused:
            self._producer_paused = True
            call_application(self, producer.pauseProducing)  # type: ignore[attr-defined]

    def _resume_producer(self) -> None:
        producer = self._producer
        if producer is None or self._ending:
            return
        if self._producer_paused or not self._streaming:
            self._producer_paused = False
            call_application(self, producer.resumeProducing)  # type: ignore[attr-defined]

    # --- IPushProducer: the application reading ---------------------------------------

    def pauseProducing(self) -> None:
        """Deliver no messages until `resumeProducing`; the peer is stopped by its credit."""
        if self.state is not _CLOSED:
            self.delivery.pause()

    def resumeProducing(self) -> None:
        """Deliver again, first what arrived meanwhile."""
        if self.state is not _CLOSED:
            self.delivery.resume()

    def stopProducing(self) -> None:
        """The application does not want the channel any more."""
        self.reset(ResetCode.CANCELLED, "the receiver stopped")

    # --- for the session: sending -----------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is a message to send that the channel's credit allows."""
        if not self._queue:
            return False
        rest = len(self._queue[0]) - self._offset
        return self._send_credit.available >= PACKET_COST + min(rest, MIN_ROOM)

    def emit(self, link: Link, session_credit: SendCredit, quantum: int) -> int:
        """Give the link packets for one turn, of `quantum` bytes; the bytes that they took."""
        spent = 0
        while self._queue and spent < quantum and (not spent or link.writable):
            taken = self._emit_fragment(link, session_credit)
            if not taken:
                break
            spent += taken
        if self.queued <= self._low_water:
            self._drained()
        if self._ending and self._end_due:
            link.send_packet(encode_head(self._send_seq, self.id, _END, 0, 0, 0), b"", self.id)
            self._our_end_sent()
        return spent

    def _emit_fragment(self, link: Link, session_credit: SendCredit) -> int:
        """Send one fragment of the first queued message; what it took, 0 without credit for it."""
        message = self._queue[0]
        offset, credit = self._offset, self._send_credit
        size = rest = len(message) - offset
        room = credit.available
        if session_credit.available < room:
            room = session_credit.available
        room -= PACKET_COST
        if size > MAX_FRAGMENT:
            size = MAX_FRAGMENT
        if room < size:
            if room < MIN_ROOM:
                return 0
            size = room
        whole = size == len(message)
        payload = message if whole else memoryview(message)[offset : offset + size]
        flags = _MORE if size < rest else 0
        if self._compressor is not None:
            block = self._compressor.compress(payload)
            if block is not None:
                payload = block
                flags |= _LZ4
        length = len(payload)
        head = encode_head(self._send_seq, self.id, _DATA, flags, self._index, length)
        link.send_packet(head, payload, self.id)
        self._send_seq += 1
        cost = length + PACKET_COST
        credit.available -= cost
        session_credit.available -= cost
        if flags & _MORE:
            self._offset = offset + size
            self._index += self._index_step
            self.queued -= size
        else:
            self._queue.popleft()
            self._offset = self._index = 0
            self.queued -= size + PACKET_COST
        return size + PACKET_COST  # not the cost: a turn is as long for what compresses well

    @property
    def _low_water(self) -> int:
        return self._high_water >> 1

    def _drained(self) -> None:
        self._resume_producer()
        if self._drain_waiters:
            waiters, self._drain_waiters = self._drain_waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def credit_received(self, limit: int) -> None:
        if self._send_credit.grant(limit) and self.ready:
            self.session.outbox.put_channel(self)

    @property
    def _end_due(self) -> bool:
        if self._end_sent or self._queue or not self._ending:
            return False
        return self.state is not _CLOSED  # an END would make a reset look clean

    # --- life ------------------------------------------------------------------------

    def opened(self) -> None:
        """Both sides agree that the channel is there."""
        self._move(_ENDED if self._end_sent else _OPEN)
        self.delivery.receiving = True
        call_application(self, self.protocol.channel_opened)

    def close(self, reason: JetStreamError | None) -> None:
        """Forget everything; `reason` is None when both sides ended."""
        if self.state is _CLOSED:
            return
        was_opening = self.state is _OPENING
        self._close_reason = reason
        self._move(_CLOSED)
        self.session.channel_gone(self, reason)
        self._queue.clear()
        self.queued = 0
        self.delivery.stop()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            call_application(self, producer.stopProducing)
        self._tell_waiters(reason)
        if not was_opening:
            call_application(self, self.protocol.channel_closed, reason)
        self.protocol = _NOBODY
        del self.delivery

    def _our_end_sent(self) -> None:
        self._end_sent = True
        if self.state is _PEER_ENDED:
            self.close(None)
        elif self.state is _OPEN:
            self._move(_ENDED)

    def peer_end_delivered(self) -> None:
        """The application has everything that came before the peer's end."""
        if self.delivery.unfinished:
            self.reset(ResetCode.BAD_MESSAGE, "the channel ended inside a message")
            return
        if self.state is _ENDED:
            call_application(self, self.protocol.end_received)
            self.close(None)
        elif self.state is _OPEN:
            self._move(_PEER_ENDED)
            self.delivery.receiving = False
            call_application(self, self.protocol.end_received)

    def _tell_waiters(self, reason: JetStreamError | None) -> None:
        drains, self._drain_waiters = self._drain_waiters, []
        for waiter in drains:
            waiter.errback(reason or ChannelClosed(f"channel {self.id} is closed"))
        closes, self._closed_waiters = self._closed_waiters, []
        for waiter in closes:
            if reason is None:
                waiter.callback(None)
            else:
                waiter.errback(reason)

    def _move(self, state: ChannelState) -> None:
        if state not in self.state.following:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state
