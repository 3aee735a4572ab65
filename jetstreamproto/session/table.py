"""The channel table: which channels a session has, how they come to be and how they go."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from jetstreamproto.errors import (
    ChannelReset,
    JetStreamError,
    NotAllowed,
    ProtocolViolation,
    ServiceNotFound,
)
from jetstreamproto.reliability.intervals import IntervalSet
from jetstreamproto.session.channel import Channel, ChannelState
from jetstreamproto.session.codes import (
    LOWEST_URGENCY,
    MAX_DEADLINE_MS,
    MAX_SERVICE_NAME,
    ResetCode,
)
from jetstreamproto.session.guard import call_application
from jetstreamproto.session.host import SessionHost
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.transports.timeouts import Timeout
from jetstreamproto.wire.packet import Kind
from jetstreamproto.wire.session_messages import OPEN, Mode, Open

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session

_log = Logger()

P = TypeVar("P", bound=ChannelProtocol)

_CLIENT_SIDE, _SERVER_SIDE = 1, 0  # parity of the channel numbers that a side opens
_MAX_GAPS = 1 << 12  # in the numbers that a peer has opened


class ChannelTable:
    """The channels of `session`. A client's have odd numbers, a server's even ones.

    Each side uses its numbers once and rising, but where the link has `streams`, OPENs overtake
    each other, and whatever is said about one channel may overtake what was said about another.
    """

    __slots__ = (
        "_channels",
        "_host",
        "_newest",
        "_next",
        "_opened",
        "_openings",
        "_session",
        "_side",
        "_theirs",
    )

    def __init__(self, session: Session, host: SessionHost, *, client: bool) -> None:
        self._session = session
        self._host = host
        self._side = _CLIENT_SIDE if client else _SERVER_SIDE
        self._channels: dict[int, Channel] = {}
        self._openings: dict[int, tuple[Deferred[Any], Timeout]] = {}
        self._next = 1 if client else 2
        self._newest = 0  # of the peer's channels
        self._opened = IntervalSet()  # halves of their numbers, where they may come in any order
        self._theirs = 0  # how many of them there are

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        """The channels there are now; they may come and go meanwhile."""
        return iter(tuple(self._channels.values()))

    @property
    def newest_of_peer(self) -> int:
        """The highest number of a channel that the peer has opened."""
        return self._newest

    def is_opening(self, channel: Channel) -> bool:
        """Whether the peer has not answered yet."""
        return channel.id in self._openings

    def find(self, channel_id: int) -> Channel | None:
        """The channel of that number; None if it is gone, and something came late for it.

        Raises `ProtocolViolation` for a channel that never was.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            ours = channel_id % 2 == self._side
            was = channel_id < self._next if ours else self._was_opened(channel_id)
            if channel_id == 0 or not was:
                raise ProtocolViolation(f"a packet for channel {channel_id}, which never was")
        return channel

    def _was_opened(self, channel_id: int) -> bool:
        """Whether the peer has opened the channel of that number."""
        if self._session.link.streams:
            return channel_id >> 1 in self._opened
        return channel_id <= self._newest

    # --- opening ---------------------------------------------------------------------

    def open(
        self,
        service: str,
        protocol: P | None,
        *,
        urgency: int,
        mode: Mode,
        deadline: float | None,
        secret: bool,
    ) -> Deferred[P]:
        """Ask the peer for a channel; see `Session.open`."""
        if not 0 < len(service.encode()) <= MAX_SERVICE_NAME:
            raise ValueError(f"a service name has 1 to {MAX_SERVICE_NAME} bytes of UTF-8")
        if not 0 <= urgency <= LOWEST_URGENCY:
            raise ValueError(f"an urgency is 0 to {LOWEST_URGENCY}")
        request = Open(service, Mode(mode), urgency, _milliseconds(mode, deadline), secret)
        channel = self._add(self._next, request, Inbox() if protocol is None else protocol)
        self._next += 2
        opened: Deferred[P] = Deferred(lambda _: self._give_up(channel))
        session = self._session
        timer = session.timeouts.after(
            session.settings.open_timeout,
            lambda: channel.reset(ResetCode.TIMED_OUT, "no answer to OPEN"),
        )
        self._openings[channel.id] = (opened, timer)
        session.outbox.put_control(Kind.OPEN, channel.id, payload=OPEN.encode(request))
        return opened

    def _give_up(self, channel: Channel) -> None:
        """Whoever asked for `channel` has cancelled; its Deferred fails by that."""
        _, timer = self._openings.pop(channel.id)
        timer.cancel()
        channel.reset(ResetCode.CANCELLED)

    def accept_received(self, channel_id: int) -> None:
        """The peer accepts a channel that we opened."""
        opening = self._openings.get(channel_id)
        if opening is None:
            if self.find(channel_id) is not None:
                raise ProtocolViolation(f"an ACCEPT for channel {channel_id}, which is open")
            return
        opened, timer = opening
        timer.cancel()
        channel = self._channels[channel_id]
        channel.opened()
        if self._openings.pop(channel_id, None) is not None:  # not closed meanwhile
            opened.callback(channel.protocol)

    def open_received(self, channel_id: int, request: Open) -> None:
        """The peer opens a channel: accept it or answer with a reset."""
        self._check_number(channel_id)
        if request.urgency > LOWEST_URGENCY:
            raise ProtocolViolation(f"an OPEN of urgency {request.urgency}")
        if not 0 < len(request.service.encode()) <= MAX_SERVICE_NAME:
            raise ProtocolViolation("an OPEN without a service name, or with one that is too long")
        session = self._session
        try:
            protocol = self._admit(request.service)
        except ChannelReset as refusal:
            session.send_reset(channel_id, refusal.code, refusal.reason, asked=True)
            session.outbox.put_end_of_channel(channel_id)
            return
        channel = self._add(channel_id, request, protocol)
        self._theirs += 1
        session.outbox.put_reply(Kind.ACCEPT, channel_id)
        channel.opened()
        if not session.accepts_channels and channel.state is not ChannelState.CLOSED:
            call_application(channel, protocol.session_closing)  # its OPEN was overtaken

    def _check_number(self, channel_id: int) -> None:
        """`ProtocolViolation` if the peer may not open that channel; it has from now on."""
        fresh = channel_id > self._newest
        if channel_id % 2 == self._side or channel_id == 0:
            fresh = False
        elif self._session.link.streams:
            fresh = self._opened.add(channel_id >> 1)
            if self._opened.intervals > _MAX_GAPS:
                raise ProtocolViolation("the peer leaves too many channel numbers out")
        if not fresh:
            raise ProtocolViolation(f"the peer may not open channel {channel_id}")
        self._newest = max(self._newest, channel_id)

    def _admit(self, service: str) -> ChannelProtocol:
        """The protocol for a channel of the peer's; raises `ChannelReset` to refuse it."""
        session = self._session
        if not session.admits_channels:
            raise ChannelReset(ResetCode.GOING_AWAY, "the session is closing")
        if self._theirs >= session.settings.max_channels and not self._makes_room():
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many channels are open")
        try:
            protocol = self._host.accept(session, service)
            if not isinstance(protocol, ChannelProtocol):
                raise TypeError(f"service {service!r} made {protocol!r}, not a ChannelProtocol")
            return protocol
        except ChannelReset:
            raise
        except Exception:
            _log.failure("Service {service} failed to start", service=service)
            raise ChannelReset(ResetCode.INTERNAL_ERROR, "the service failed to start") from None

    def _makes_room(self) -> bool:
        """Whether an OPEN over the limit may have overtaken ends that make room for it.

        There are never more than twice as many channels as the limit says.
        """
        limit = self._session.settings.max_channels
        if not self._session.link.streams or self._theirs >= 2 * limit:
            return False
        ending = sum(
            channel.state is ChannelState.ENDED and channel.id % 2 != self._side
            for channel in self._channels.values()
        )
        return self._theirs - ending < limit

    def _add(self, channel_id: int, request: Open, protocol: ChannelProtocol) -> Channel:
        channel = Channel(self._session, channel_id, request, protocol)
        self._channels[channel_id] = channel
        link = self._session.link
        if link.streams and (channel.mode is not Mode.ORDERED or channel.deadline is not None):
            link.set_mode(channel_id, channel.mode, channel.deadline)
        return channel

    # --- going -----------------------------------------------------------------------

    def reset_received(self, channel_id: int, code: int, reason: str) -> None:
        """The peer drops a channel, or refuses one that we opened."""
        channel = self.find(channel_id)
        if channel is not None:
            channel.close(_reset_error(code, reason, channel.service))

    def close_all(self, reason: JetStreamError) -> None:
        """The session is over for every channel."""
        for channel in self:
            channel.close(reason)

    def let_go(self) -> None:
        """The session is over, all channels are closed, and none comes any more."""
        del self._session

    def forget(self, channel: Channel, reason: JetStreamError | None) -> None:
        """`channel` is closed; if it was being opened, that fails with `reason`."""
        del self._channels[channel.id]
        if channel.id % 2 != self._side:
            self._theirs -= 1
        opening = self._openings.pop(channel.id, None)
        if opening is not None:
            opened, timer = opening
            timer.cancel()
            opened.errback(reason or ChannelReset(ResetCode.CANCELLED))


def _milliseconds(mode: Mode, deadline: float | None) -> int:
    """A deadline as OPEN carries it, rounded up; `ValueError` for one that it cannot carry."""
    if deadline is None:
        if mode is Mode.EXPIRING:
            raise ValueError("messages that expire need a deadline")
        return 0
    if not 0 < deadline <= MAX_DEADLINE_MS / 1000:
        raise ValueError(f"a deadline is up to {MAX_DEADLINE_MS / 1000} seconds, not {deadline}")
    return min(ceil(deadline * 1000), MAX_DEADLINE_MS)


def _reset_error(code: int, reason: str, service: str) -> ChannelReset:
    if code == ResetCode.SERVICE_NOT_FOUND:
        return ServiceNotFound(code, reason or f"no service {service!r}")
    if code == ResetCode.NOT_ALLOWED:
        return NotAllowed(code, reason)
    return ChannelReset(code, reason)
