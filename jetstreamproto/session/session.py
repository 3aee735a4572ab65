"""A session: one authenticated conversation between two hosts, carrying many channels.

It sits on a `Link` and above nothing else: whether TCP, QUIC or UDP is below makes no difference
here. All its deadlines run on one clock that is given to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jetstreamproto.errors import (
    ChannelReset,
    HandshakeTimeout,
    JetStreamError,
    NotAllowed,
    PeerSilent,
    ProtocolViolation,
    Refused,
    ServiceNotFound,
    SessionClosed,
    SessionCut,
    WireError,
)
from jetstreamproto.session.channel import MIN_ROOM, Channel
from jetstreamproto.session.codes import (
    DEFAULT_URGENCY,
    LOWEST_URGENCY,
    MAX_FRAGMENT,
    MAX_REASON,
    MAX_SERVICE_NAME,
    MIN_WINDOW,
    PACKET_COST,
    PROTOCOL_VERSION,
    ResetCode,
)
from jetstreamproto.session.credit import ReceiveCredit, SendCredit
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.scheduler import Scheduler
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.transports.link import Link, Peer
from jetstreamproto.wire.packet import Kind, PacketParts, encode_head
from jetstreamproto.wire.session_messages import HELLO, OPEN, Hello, Mode, Open

_log = Logger()

P = TypeVar("P", bound=ChannelProtocol)

_TURN_BYTES = 1 << 20
"""What a session sends before the reactor has a turn for others."""
_MAX_CONTROL = 8192
"""Packets of the session itself that may wait to be sent; only a hostile peer causes more."""
_MAX_PINGS = 64

_CLIENT_SIDE, _SERVER_SIDE = 1, 0  # parity of the channel numbers that a side opens


class SessionState(Enum):
    CONNECTING = "connecting"  # until the peer's HELLO under the new keys
    OPEN = "open"
    DRAINING = "draining"  # either side is going away: no new channels
    ENDING = "ending"  # no channels are left: the authenticated end is being exchanged
    CLOSED = "closed"


_NEXT_STATES = {
    SessionState.CONNECTING: {SessionState.OPEN, SessionState.ENDING, SessionState.CLOSED},
    SessionState.OPEN: {SessionState.DRAINING, SessionState.ENDING, SessionState.CLOSED},
    SessionState.DRAINING: {SessionState.ENDING, SessionState.CLOSED},
    SessionState.ENDING: {SessionState.CLOSED},
    SessionState.CLOSED: set(),
}


class SessionHost(Protocol):
    """What a session needs of the factory it belongs to."""

    settings: SessionSettings

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        """The protocol for a channel the peer opens; raises `ServiceNotFound` or `NotAllowed`."""

    def authenticate(self, session: Session, hello: Hello) -> Deferred[object] | None:
        """Judge a client's credentials: None to accept, or a Deferred of its avatar."""

    def credentials(self) -> tuple[str, str] | None:
        """The user name and password that a client introduces itself with."""

    def session_made(self, session: Session) -> None: ...

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None: ...


class Session:
    """Made by a transport's protocol; applications get it from `when_connected` and friends."""

    __slots__ = (
        "__weakref__",
        "_assembled",
        "_channels",
        "_client",
        "_close_waiters",
        "_connect_waiters",
        "_control",
        "_deadline",
        "_heard",
        "_heartbeat",
        "_host",
        "_in_turn",
        "_last_peer_channel",
        "_link",
        "_next_channel",
        "_next_ping",
        "_openings",
        "_pings",
        "_quiet",
        "_receive_credit",
        "_refusal",
        "_scheduler",
        "_send_credit",
        "_wake",
        "avatar",
        "clock",
        "close_reason",
        "peer_hello",
        "settings",
        "state",
    )

    def __init__(self, host: SessionHost, clock: IReactorTime, *, client: bool) -> None:
        self.settings = host.settings
        self.clock = clock
        self.state = SessionState.CONNECTING
        self.peer_hello: Hello
        self.avatar: object | None = None
        self.close_reason: JetStreamError | None = None
        self._host = host
        self._client = client
        self._link: Link
        self._channels: dict[int, Channel] = {}
        self._openings: dict[int, tuple[Deferred[Any], IDelayedCall]] = {}
        self._next_channel = 1 if client else 2
        self._last_peer_channel = 0
        self._scheduler: Scheduler[Channel] = Scheduler()
        self._control: deque[tuple[bytes, bytes, int]] = deque()
        self._send_credit: SendCredit
        self._receive_credit = ReceiveCredit(self.settings.session_window)
        self._assembled = 0
        self._in_turn = False
        self._wake: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._heartbeat: IDelayedCall | None = None
        self._heard = False
        self._quiet = 0.0
        self._pings: dict[int, tuple[Deferred[float], float]] = {}
        self._next_ping = 1
        self._refusal: JetStreamError | None = None
        self._connect_waiters: list[Deferred[Session]] = []
        self._close_waiters: list[Deferred[None]] = []

    def __repr__(self) -> str:
        return f"<Session with {self._link.peer.address}, {self.state.value}>"

    def start(self, link: Link) -> None:
        """The transport is there; the handshake may begin."""
        self._link = link
        self._deadline = self.clock.callLater(
            self.settings.handshake_timeout, self._handshake_timed_out
        )

    # --- for the application ----------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._link.peer

    @property
    def link(self) -> Link:
        """What carries this session; its `stats` count the bytes."""
        return self._link

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels there are now."""
        return tuple(self._channels.values())

    def open(
        self,
        service: str,
        protocol: P | None = None,
        *,
        urgency: int = DEFAULT_URGENCY,
        mode: Mode = Mode.ORDERED,
        secret: bool = False,
    ) -> Deferred[P]:
        """Open a channel to a service of the peer; fires with `protocol` once it is accepted.

        Without a `protocol` it fires with an `Inbox`. `urgency` is 0 (first) to 7; a `secret`
        channel is never compressed. Fails with `ServiceNotFound`, `NotAllowed`, `ChannelReset`
        (also after `open_timeout`) or `SessionClosed`. Cancelling gives the channel up.
        """
        if self.state is not SessionState.OPEN:
            result: Deferred[P] = Deferred()
            result.errback(SessionClosed(f"no new channels: the session is {self.state.value}"))
            return result
        name = service.encode()
        if not 0 < len(name) <= MAX_SERVICE_NAME or not 0 <= urgency <= LOWEST_URGENCY:
            raise ValueError("a service name has 1 to 255 bytes of UTF-8, an urgency is 0 to 7")
        channel_id = self._next_channel
        self._next_channel += 2
        channel = Channel(
            self,
            channel_id,
            service,
            Inbox() if protocol is None else protocol,
            mode=mode,
            urgency=urgency,
            secret=secret,
        )
        self._channels[channel_id] = channel
        opened: Deferred[P] = Deferred(lambda _: channel.reset(ResetCode.CANCELLED))
        timer = self.clock.callLater(
            self.settings.open_timeout, channel.reset, ResetCode.TIMED_OUT, "no answer to the open"
        )
        self._openings[channel_id] = (opened, timer)
        payload = OPEN.encode(Open(service, mode, urgency, 0))
        self._send_control(Kind.OPEN, channel_id, payload=payload)
        return opened

    def ping(self) -> Deferred[float]:
        """Ask the peer for an answer; fires with the round-trip time in seconds."""
        result: Deferred[float] = Deferred()
        if self.state in (SessionState.CONNECTING, SessionState.CLOSED):
            result.errback(SessionClosed(f"no ping: the session is {self.state.value}"))
        elif len(self._pings) >= _MAX_PINGS:
            result.errback(SessionClosed("too many pings are unanswered"))
        else:
            number = self._next_ping
            self._next_ping += 1
            self._pings[number] = (result, self.clock.seconds())
            self._send_control(Kind.PING, 0, seq=number)
            if not self._in_turn:
                self._pump()
        return result

    def close(self) -> Deferred[None]:
        """End every channel, then the session, within `drain_timeout`; fires when it is gone."""
        if self.state is SessionState.CONNECTING:
            self._link.abort()
        elif self.state is SessionState.OPEN:
            self._go_away(ResetCode.NO_ERROR, "")
        for channel in self.channels:
            channel.end()
        return self.when_closed()

    def drain(self, reason: str = "") -> Deferred[None]:
        """Tell the peer to finish its work here and go; after `drain_timeout` it is ended."""
        if self.state is SessionState.CONNECTING:
            self._link.abort()
        elif self.state is SessionState.OPEN:
            self._go_away(ResetCode.GOING_AWAY, reason)
        return self.when_closed()

    def abort(self) -> None:
        """Drop the connection at once. The peer sees a cut."""
        self._link.abort()

    def when_connected(self) -> Deferred[Session]:
        """Fires with this session once the peer has answered under the new keys."""
        waiter: Deferred[Session] = Deferred()
        if self.state is SessionState.CONNECTING:
            self._connect_waiters.append(waiter)
        elif self.state is SessionState.CLOSED:
            waiter.errback(self.close_reason or SessionClosed("the session has ended"))
        else:
            waiter.callback(self)
        return waiter

    def when_closed(self) -> Deferred[None]:
        """Fires when the session is gone, however it ended; `close_reason` then says how."""
        waiter: Deferred[None] = Deferred()
        if self.state is SessionState.CLOSED:
            waiter.callback(None)
        else:
            self._close_waiters.append(waiter)
        return waiter

    # --- LinkUser ---------------------------------------------------------------------

    def link_ready(self) -> None:
        if self._client:
            self._send_hello()

    def packets_received(self, packets: Sequence[PacketParts]) -> None:
        self._heard = True
        self._in_turn = True
        channels = self._channels
        data = Kind.DATA
        try:
            for seq, channel_id, kind, flags, code, payload in packets:
                if kind == data and self.state is not SessionState.CONNECTING:
                    cost = len(payload) + PACKET_COST
                    self._receive_credit.receive(cost)
                    channel = channels.get(channel_id)
                    if len(payload) > MAX_FRAGMENT:
                        raise ProtocolViolation(f"a fragment of {len(payload)} bytes")
                    if channel is None:
                        self._check_past(channel_id)
                        self.consumed(cost)
                    else:
                        channel.data_received(seq, flags, payload)
                else:
                    self._control_received(seq, channel_id, kind, code, payload)
        except (ProtocolViolation, WireError) as error:
            self._violated(error)
        finally:
            self._in_turn = False
        self._pump()

    def link_writable(self) -> None:
        self._pump()

    def link_ended(self) -> None:
        self._drop_channels(SessionClosed("the peer ended the session"))
        if self.state is not SessionState.CLOSED:
            self._end()

    def link_lost(self, reason: JetStreamError | None) -> None:
        connecting = self.state is SessionState.CONNECTING
        reason = self._refusal or reason
        self.close_reason = reason
        self._move(SessionState.CLOSED)
        for call in (self._deadline, self._heartbeat, self._wake):
            if call is not None and call.active():
                call.cancel()
        self._deadline = self._heartbeat = self._wake = None
        ended = reason or SessionClosed("the session has ended")
        self._drop_channels(ended)
        self._control.clear()
        pings, self._pings = self._pings, {}
        for ping, _ in pings.values():
            ping.errback(ended)
        connects, self._connect_waiters = self._connect_waiters, []
        for connect in connects:
            connect.errback(ended)
        self._host.session_lost(self, reason if not connecting else ended)
        closes, self._close_waiters = self._close_waiters, []
        for close in closes:
            close.callback(None)

    # --- for channels ------------------------------------------------------------------

    def sender_ready(self, channel: Channel) -> None:
        self._scheduler.add(channel)
        self._wake_up()

    def send_reset(self, channel_id: int, code: int, reason: str) -> None:
        payload = reason.encode()[:MAX_REASON]
        self._send_control(Kind.RESET, channel_id, code=code, payload=payload)

    def send_credit(self, channel_id: int, limit: int) -> None:
        self._send_control(Kind.CREDIT, channel_id, seq=limit)

    def consumed(self, cost: int) -> None:
        limit = self._receive_credit.consume(cost)
        if limit is not None:
            self.send_credit(0, limit)

    def reserve_assembly(self, size: int) -> bool:
        """Count `size` more bytes of unfinished messages; False if that is too much."""
        if size > 0 and self._assembled + size > self.settings.max_assembly:
            return False
        self._assembled += size
        return True

    def channel_gone(self, channel: Channel) -> None:
        self._scheduler.discard(channel)
        del self._channels[channel.id]
        opening = self._openings.pop(channel.id, None)
        if opening is not None:
            opened, timer = opening
            if timer.active():
                timer.cancel()
            if not opened.called:
                opened.errback(ChannelReset(ResetCode.CANCELLED, "the channel was given up"))
        if self.state is SessionState.DRAINING and not self._channels:
            self._end()

    def call_application(self, channel: Channel, call: Callable[..., None], *args: Any) -> None:
        """Call into the application; what it raises resets the channel and is logged."""
        try:
            call(*args)
        except Exception:
            self.application_failed(channel)

    def application_failed(self, channel: Channel) -> None:
        _log.failure(
            "The application's protocol for channel {id} ({service}) failed",
            id=channel.id,
            service=channel.service,
        )
        channel.reset(ResetCode.INTERNAL_ERROR, "the application failed")

    # --- sending ----------------------------------------------------------------------

    def _send_control(
        self, kind: Kind, channel_id: int, *, seq: int = 0, code: int = 0, payload: bytes = b""
    ) -> None:
        head = encode_head(seq, channel_id, kind, 0, code, len(payload))
        self._control.append((head, payload, channel_id))
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is None and not self._in_turn and self.state is not SessionState.CLOSED:
            self._wake = self.clock.callLater(0, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._pump()

    def _pump(self) -> None:
        """Hand the link what is to be sent, most urgent first, until it has no room."""
        link = self._link
        if self._in_turn or not link.writable:
            return
        self._in_turn = True
        try:
            finished = self._send_ready(link)
            link.flush()
        finally:
            self._in_turn = False
        if not finished:
            self._wake_up()
        elif self.state is SessionState.ENDING and link.writable:
            link.close()

    def _send_ready(self, link: Link) -> bool:
        """Whether everything that can be sent now was handed over within this turn's bytes."""
        control, scheduler, spent = self._control, self._scheduler, 0
        while link.writable:
            while control:
                link.send_packet(*control.popleft())
            if not scheduler or self._send_credit.available < PACKET_COST + MIN_ROOM:
                break
            if spent >= _TURN_BYTES:
                return False
            channel = scheduler.take()
            if channel is not None:
                spent += channel.emit(link, self._send_credit)
                if channel.ready:
                    scheduler.add(channel)
        return True

    # --- receiving --------------------------------------------------------------------

    def _control_received(
        self, seq: int, channel_id: int, kind: int, code: int, payload: memoryview
    ) -> None:
        if self.state is SessionState.CONNECTING:
            if kind == Kind.HELLO:
                self._hello_received(HELLO.decode(payload))
            elif kind == Kind.GOAWAY and self._client:
                self._refusal = Refused(f"the server turned us away: {_text(payload)}")
            else:
                raise ProtocolViolation(f"packet kind {kind} before HELLO")
        elif len(self._control) > _MAX_CONTROL:
            raise ProtocolViolation("the peer asks for more than it reads")
        elif kind == Kind.CREDIT:
            self._credit_received(channel_id, seq)
        elif kind == Kind.END:
            channel = self._channels.get(channel_id)
            if channel is None:
                self._check_past(channel_id)
            else:
                channel.peer_ended()
        elif kind == Kind.OPEN:
            self._open_received(channel_id, OPEN.decode(payload))
        elif kind == Kind.ACCEPT:
            self._accept_received(channel_id)
        elif kind == Kind.RESET:
            self._reset_received(channel_id, code, _text(payload))
        elif kind == Kind.PING:
            self._send_control(Kind.PONG, 0, seq=seq)
        elif kind == Kind.PONG:
            self._pong_received(seq)
        elif kind == Kind.GOAWAY:
            self._goaway_received()
        else:
            raise ProtocolViolation(f"unknown packet kind {kind}")

    def _hello_received(self, hello: Hello) -> None:
        if hello.version < 1:
            raise ProtocolViolation(f"protocol version {hello.version}")
        if min(hello.channel_window, hello.session_window) < MIN_WINDOW or not hello.max_message:
            raise ProtocolViolation("the peer announced windows too small to work with")
        self.peer_hello = hello
        self._send_credit = SendCredit(hello.session_window)
        if self._client:
            self._connected()
            return
        verdict = self._host.authenticate(self, hello)
        if verdict is None:
            self._connected()
        else:
            verdict.addCallbacks(self._authenticated, self._not_authenticated)

    def _authenticated(self, avatar: object) -> None:
        self.avatar = avatar
        if self.state is SessionState.CONNECTING:
            self._connected()
            self._wake_up()

    def _not_authenticated(self, failure: Any) -> None:
        _log.info(
            "{peer} is not let in: {error}", peer=self.peer.address, error=failure.getErrorMessage()
        )
        if self.state is SessionState.CONNECTING:
            self._refusal = NotAllowed(ResetCode.NOT_ALLOWED, "the peer is not let in")
            reason = b"unknown user or wrong password"
            self._send_control(Kind.GOAWAY, 0, code=ResetCode.NOT_ALLOWED, payload=reason)
            self._end()

    def _connected(self) -> None:
        if not self._client:
            self._send_hello()
        self._move(SessionState.OPEN)
        self._cancel_deadline()
        self._heartbeat = self.clock.callLater(self.settings.heartbeat, self._beat)
        self._host.session_made(self)
        waiters, self._connect_waiters = self._connect_waiters, []
        for waiter in waiters:
            waiter.callback(self)

    def _send_hello(self) -> None:
        settings = self.settings
        username, password = (self._client and self._host.credentials()) or (None, None)
        hello = Hello(
            version=PROTOCOL_VERSION,
            max_message=settings.max_message,
            max_channels=settings.max_channels,
            channel_window=settings.channel_window,
            session_window=settings.session_window,
            lz4=settings.compression is not None,
            agent=settings.agent,
            username=username,
            password=password,
        )
        self._send_control(Kind.HELLO, 0, payload=HELLO.encode(hello))
        if self._client:
            self._pump()

    def _open_received(self, channel_id: int, request: Open) -> None:
        side = _SERVER_SIDE if self._client else _CLIENT_SIDE
        if channel_id % 2 != side or channel_id <= self._last_peer_channel:
            raise ProtocolViolation(f"the peer may not open channel {channel_id}")
        self._last_peer_channel = channel_id
        if request.urgency > LOWEST_URGENCY or not request.service:
            raise ProtocolViolation("an OPEN without a service, or with an urgency over 7")
        if self.state is not SessionState.OPEN:
            self.send_reset(channel_id, ResetCode.GOING_AWAY, "the session is closing")
            return
        theirs = sum(1 for known in self._channels if known % 2 == side)
        if theirs >= self.settings.max_channels:
            self.send_reset(channel_id, ResetCode.LIMIT_EXCEEDED, "too many channels are open")
            return
        try:
            protocol = self._host.accept(self, request.service)
        except ChannelReset as refusal:
            self.send_reset(channel_id, refusal.code, refusal.reason)
            return
        except Exception:
            _log.failure("Service {service} failed to start", service=request.service)
            self.send_reset(channel_id, ResetCode.INTERNAL_ERROR, "the service failed to start")
            return
        channel = Channel(
            self,
            channel_id,
            request.service,
            protocol,
            mode=request.mode,
            urgency=request.urgency,
            secret=False,
        )
        self._channels[channel_id] = channel
        self._send_control(Kind.ACCEPT, channel_id)
        channel.opened()

    def _accept_received(self, channel_id: int) -> None:
        opening = self._openings.pop(channel_id, None)
        if opening is None:
            self._check_past(channel_id)
            return
        opened, timer = opening
        timer.cancel()
        channel = self._channels[channel_id]
        channel.opened()
        opened.callback(channel.protocol)

    def _reset_received(self, channel_id: int, code: int, reason: str) -> None:
        channel = self._channels.get(channel_id)
        if channel is None:
            self._check_past(channel_id)
            return
        error = _reset_error(code, reason, channel.service)
        opening = self._openings.pop(channel_id, None)
        channel.close(error)
        if opening is not None:
            opened, timer = opening
            timer.cancel()
            opened.errback(error)

    def _credit_received(self, channel_id: int, limit: int) -> None:
        if channel_id == 0:
            self._send_credit.grant(limit)
            return
        channel = self._channels.get(channel_id)
        if channel is None:
            self._check_past(channel_id)
        else:
            channel.credit_received(limit)

    def _pong_received(self, number: int) -> None:
        waiting = self._pings.pop(number, None)
        if waiting is not None:
            result, sent = waiting
            result.callback(max(0.0, self.clock.seconds() - sent))

    def _check_past(self, channel_id: int) -> None:
        """A packet for a channel that is gone may be late; for one that never was, it is wrong."""
        ours = channel_id % 2 == (_CLIENT_SIDE if self._client else _SERVER_SIDE)
        newest = self._next_channel - 2 if ours else self._last_peer_channel
        if channel_id == 0 or channel_id > newest:
            raise ProtocolViolation(f"a packet for channel {channel_id}, which was never opened")

    # --- deadlines --------------------------------------------------------------------

    def _handshake_timed_out(self) -> None:
        self._deadline = None
        seconds = self.settings.handshake_timeout
        self._refusal = HandshakeTimeout(f"no session after {seconds:g} s of handshake")
        self._link.abort()

    def _beat(self) -> None:
        """A heartbeat's time has passed: was anything heard in it?"""
        self._heartbeat = None
        if self._heard:
            self._heard = False
            self._quiet = 0.0
        else:
            self._quiet += self.settings.heartbeat
            if self._quiet >= self.settings.idle_timeout:
                self._refusal = PeerSilent(f"no sign of the peer for {self._quiet:g} s")
                self._link.abort()
                return
            self._send_control(Kind.PING, 0)
        self._heartbeat = self.clock.callLater(self.settings.heartbeat, self._beat)

    def _drain_timed_out(self) -> None:
        self._deadline = None
        if self.state is SessionState.DRAINING:
            for channel in self.channels:
                channel.reset(ResetCode.GOING_AWAY, "the session is closing")
        else:
            self._refusal = SessionCut("the peer did not end the session in time")
            self._link.abort()

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.clock.callLater(self.settings.drain_timeout, self._drain_timed_out)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- ends -------------------------------------------------------------------------

    def _go_away(self, code: int, reason: str) -> None:
        payload = reason.encode()[:MAX_REASON]
        last = self._last_peer_channel
        self._send_control(Kind.GOAWAY, 0, seq=last, code=code, payload=payload)
        self._start_draining()
        if self.state is SessionState.DRAINING:
            self._set_deadline()

    def _goaway_received(self) -> None:
        if self.state is SessionState.OPEN:
            self._start_draining()
            for channel in self.channels:
                if channel.id not in self._openings:
                    self.call_application(channel, channel.protocol.session_closing)

    def _start_draining(self) -> None:
        self._move(SessionState.DRAINING)
        if not self._channels:
            self._end()

    def _end(self) -> None:
        """Nothing is left to do: send what waits, then the authenticated end."""
        if self.state is not SessionState.ENDING:
            self._move(SessionState.ENDING)
            self._set_deadline()
        self._wake_up()

    def _violated(self, error: JetStreamError) -> None:
        _log.warn("{peer} broke the protocol: {error}", peer=self.peer.address, error=str(error))
        self._refusal = error
        payload = str(error).encode()[:MAX_REASON]
        head = encode_head(0, 0, Kind.GOAWAY, 0, ResetCode.PROTOCOL_ERROR, len(payload))
        self._link.send_packet(head, payload, 0)
        self._link.flush()
        self._link.fail(error)

    def _drop_channels(self, reason: JetStreamError) -> None:
        for channel in self.channels:
            opening = self._openings.pop(channel.id, None)
            channel.close(reason)
            if opening is not None:
                opened, timer = opening
                timer.cancel()
                opened.errback(reason)

    def _move(self, state: SessionState) -> None:
        if state not in _NEXT_STATES[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state


def _text(payload: memoryview) -> str:
    """A reason the peer gave, fit to be shown."""
    text = bytes(payload[:MAX_REASON]).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _reset_error(code: int, reason: str, service: str) -> ChannelReset:
    if code == ResetCode.SERVICE_NOT_FOUND:
        return ServiceNotFound(code, reason or f"no service {service!r}")
    if code == ResetCode.NOT_ALLOWED:
        return NotAllowed(code, reason)
    return ChannelReset(code, reason)
