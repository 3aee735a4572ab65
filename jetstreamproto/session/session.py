"""A session: one authenticated conversation between two hosts, carrying many channels.

It sits on a `Link` and above nothing else: whether TCP, QUIC or UDP is below makes no difference
here. All its deadlines run on one clock that is given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jetstreamproto.errors import (
    HandshakeTimeout,
    JetStreamError,
    NotLetIn,
    PeerSilent,
    ProtocolViolation,
    Refused,
    SessionClosed,
    SessionCut,
    WireError,
)
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import (
    DEFAULT_URGENCY,
    MAX_CODE,
    MAX_FRAGMENT,
    PACKET_COST,
    ResetCode,
    reason_bytes,
    reason_text,
)
from jetstreamproto.session.credit import ReceiveCredit, SendCredit
from jetstreamproto.session.guard import call_application
from jetstreamproto.session.host import SessionHost
from jetstreamproto.session.intake import Intake
from jetstreamproto.session.introduction import introduce, meet
from jetstreamproto.session.outbox import Outbox
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.pulse import Pulse
from jetstreamproto.session.state import NEXT_STATES, SessionState
from jetstreamproto.session.table import ChannelTable
from jetstreamproto.transports.link import Link, Peer
from jetstreamproto.wire.packet import Kind, PacketParts, encode_head
from jetstreamproto.wire.session_messages import OPEN, Hello, Mode

_log = Logger()
_DATA = int(Kind.DATA)

P = TypeVar("P", bound=ChannelProtocol)

_MAX_REPLIES = 8192
"""Answers to a peer's packets that may wait to be sent; only a hostile peer causes more."""


class Session:
    """Made by a transport's protocol; applications get it from `when_connected` and friends."""

    __slots__ = (
        "__weakref__",
        "_client",
        "_close_waiters",
        "_connect_waiters",
        "_deadline",
        "_host",
        "_introduced",
        "_linked",
        "_pulse",
        "_refusal",
        "_table",
        "_was_open",
        "avatar",
        "clock",
        "close_reason",
        "intake",
        "link",
        "outbox",
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
        self.link: Link
        self._linked = False
        self._introduced = False
        self._was_open = False
        self.outbox = Outbox(clock, self._outbox_empty)
        self._host = host
        self._client = client
        self._table = ChannelTable(self, host, client=client)
        self.intake = Intake(self.settings, lambda credit: self.renew_credit(0, credit))
        self._pulse = Pulse(
            clock,
            self.settings.heartbeat,
            self.settings.idle_timeout,
            lambda: self.link.stats.bytes_received,
            self._send_ping,
            self._peer_silent,
        )
        self._deadline: IDelayedCall | None = None
        self._refusal: JetStreamError | None = None
        self._connect_waiters: list[Deferred[Session]] = []
        self._close_waiters: list[Deferred[None]] = []

    def __repr__(self) -> str:
        where = f"with {self.link.peer.address}, " if self._linked else ""
        return f"<Session {where}{self.state.value}>"

    def start(self, link: Link) -> None:
        """The transport is there; the handshake may begin."""
        self.link = self.outbox.link = link
        self._linked = True
        if self._refusal is not None:
            link.abort()
            return
        self._deadline = self.clock.callLater(
            self.settings.handshake_timeout, self._handshake_timed_out
        )

    # --- for the application ----------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self.link.peer

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels there are now."""
        return tuple(self._table)

    @property
    def accepts_channels(self) -> bool:
        """Whether new channels may be opened: connected, and neither side is going away."""
        return self.state is SessionState.OPEN

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

        Without a `protocol` it fires with an `Inbox`. Messages that are sent on
        `protocol.channel` before that travel with the request, and are lost if it is refused.
        `urgency` is 0 (first) to 7; a `secret` channel is never compressed. Fails with
        `ServiceNotFound`, `NotAllowed`, `ChannelReset` (also after `open_timeout`) or
        `SessionClosed`. Cancelling gives the channel up.
        """
        if not self.accepts_channels:
            result: Deferred[P] = Deferred()
            result.errback(SessionClosed(f"no new channels: the session is {self.state.value}"))
            return result
        return self._table.open(service, protocol, urgency=urgency, mode=mode, secret=secret)

    def ping(self) -> Deferred[float]:
        """Ask the peer for an answer; fires with the round-trip time in seconds."""
        if not self._was_open or self.state is SessionState.CLOSED:
            result: Deferred[float] = Deferred()
            result.errback(SessionClosed(f"no ping: the session is {self.state.value}"))
            return result
        result = self._pulse.ping()
        self.outbox.pump()
        return result

    def close(self) -> Deferred[None]:
        """End every channel, then the session, within `drain_timeout`; fires when it is gone."""
        self._leave(ResetCode.NO_ERROR, "")
        for channel in self.channels:
            channel.end()
        return self.when_closed()

    def drain(self, reason: str = "") -> Deferred[None]:
        """Tell the peer to finish its work here and go; after `drain_timeout` it is ended."""
        self._leave(ResetCode.GOING_AWAY, reason)
        return self.when_closed()

    def abort(self) -> None:
        """Drop the connection at once. The peer sees a cut."""
        if self._linked:
            self.link.abort()
        elif self._refusal is None:
            self._refusal = SessionClosed("the session was given up before it was connected")

    def when_connected(self) -> Deferred[Session]:
        """Fires with this session once the peer has answered under the new keys."""
        waiter: Deferred[Session] = Deferred(self._connect_waiters.remove)
        if self.state is SessionState.CLOSED:
            waiter.errback(self.close_reason or SessionClosed("the session has ended"))
        elif self._was_open:
            waiter.callback(self)
        else:
            self._connect_waiters.append(waiter)
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
        self._pulse.heard = True
        outbox, find, intake = self.outbox, self._table.find, self.intake
        outbox.hold()
        try:
            for seq, channel_id, kind, flags, code, payload in packets:
                if kind == _DATA and self.state is not SessionState.CONNECTING:
                    size = len(payload)
                    if size > MAX_FRAGMENT:
                        raise ProtocolViolation(f"a fragment of {size} bytes")
                    intake.credit.receive(size + PACKET_COST)
                    channel = find(channel_id)
                    if channel is None:
                        intake.consumed(size + PACKET_COST)
                    else:
                        channel.data_received(seq, flags, payload)
                else:
                    self._control_received(seq, channel_id, kind, code, payload)
        except (ProtocolViolation, WireError) as error:
            self._violated(error)
        finally:
            outbox.release()

    def link_writable(self) -> None:
        self.outbox.pump()

    def link_ended(self) -> None:
        self._table.close_all(SessionClosed("the peer ended the session"))
        if self.state is not SessionState.CLOSED:
            self._end()

    def link_lost(self, reason: JetStreamError | None) -> None:
        connecting = self.state is SessionState.CONNECTING
        reason = self._refusal or reason
        self.close_reason = reason
        self._move(SessionState.CLOSED)
        self._cancel_deadline()
        self.outbox.stop()
        ended = reason or SessionClosed("the session has ended")
        self._table.close_all(ended)
        self._pulse.stop(ended)
        connects, self._connect_waiters = self._connect_waiters, []
        for connect in connects:
            connect.errback(ended)
        try:
            self._host.session_lost(self, reason if not connecting else ended)
        finally:
            closes, self._close_waiters = self._close_waiters, []
            for close in closes:
                close.callback(None)

    # --- for channels ------------------------------------------------------------------

    def send_reset(self, channel_id: int, code: int, reason: str, *, asked: bool = False) -> None:
        """Reset a channel, or answer the OPEN of one (`asked`)."""
        put = self.outbox.put_reply if asked else self.outbox.put_control
        put(Kind.RESET, channel_id, code=min(code, MAX_CODE), payload=reason_bytes(reason))

    def renew_credit(self, channel_id: int, credit: ReceiveCredit) -> None:
        """Announce a new limit of a channel, or of the session (0)."""
        self._pulse.probe()
        limit = credit.renew(self.clock.seconds(), self._pulse.rtt)
        self.outbox.put_control(Kind.CREDIT, channel_id, seq=limit)

    def channel_gone(self, channel: Channel, reason: JetStreamError | None) -> None:
        """`channel` has closed, because of `reason` if not by both sides' ends."""
        self.outbox.discard(channel)
        self._table.forget(channel, reason)
        if self.state is SessionState.DRAINING and not self._table:
            self._end()

    # --- receiving --------------------------------------------------------------------

    def _control_received(
        self, seq: int, channel_id: int, kind: int, code: int, payload: memoryview
    ) -> None:
        if self.state is SessionState.CONNECTING:
            if kind == Kind.HELLO:
                self._hello_received(meet(payload))
            elif kind == Kind.GOAWAY and self._client:
                kind_of = NotLetIn if code == ResetCode.NOT_ALLOWED else Refused
                self._refusal = kind_of(f"the server turned us away: {reason_text(payload)}")
            else:
                raise ProtocolViolation(f"packet kind {kind} before HELLO")
        elif self.outbox.replies > _MAX_REPLIES:
            raise ProtocolViolation("the peer asks for more than it reads")
        elif kind == Kind.CREDIT:
            self._credit_received(channel_id, seq)
        elif kind == Kind.END:
            channel = self._table.find(channel_id)
            if channel is not None:
                channel.peer_ended()
        elif kind == Kind.OPEN:
            self._table.open_received(channel_id, OPEN.decode(payload))
        elif kind == Kind.ACCEPT:
            self._table.accept_received(channel_id)
        elif kind == Kind.RESET:
            self._table.reset_received(channel_id, code, reason_text(payload))
        elif kind == Kind.PING:
            self.outbox.put_reply(Kind.PONG, 0, seq=seq)
        elif kind == Kind.PONG:
            self._pulse.pong_received(seq)
        elif kind == Kind.GOAWAY:
            self._goaway_received(code, reason_text(payload))
        else:
            raise ProtocolViolation(f"unknown packet kind {kind}")

    def _hello_received(self, hello: Hello) -> None:
        if self._introduced:
            raise ProtocolViolation("a second HELLO")
        self._introduced = True
        self.peer_hello = hello._replace(password=None)  # not to be kept in memory
        self.outbox.credit = SendCredit(hello.session_window)
        if self._client:
            self._connected()
            return
        try:
            verdict = self._host.authenticate(self, hello)
        except Exception:
            _log.failure("The judge of credentials failed")
            verdict = fail()
        if verdict is None:
            self._connected()
        else:
            verdict.addCallbacks(self._authenticated, self._not_authenticated)

    def _authenticated(self, avatar: object) -> None:
        self.avatar = avatar
        if self.state is SessionState.CONNECTING:
            self._connected()

    def _not_authenticated(self, failure: Any) -> None:
        _log.info(
            "{peer} is not let in: {error}", peer=self.peer.address, error=failure.getErrorMessage()
        )
        if self.state is SessionState.CONNECTING:
            self._refusal = NotLetIn("the peer is not let in")
            reason = b"unknown user or wrong password"
            self.outbox.put_control(Kind.GOAWAY, 0, code=ResetCode.NOT_ALLOWED, payload=reason)
            self._end()

    def _connected(self) -> None:
        if not self._client:
            self._send_hello()
        self._move(SessionState.OPEN)
        self._was_open = True
        self._cancel_deadline()
        self._pulse.start()
        self._host.session_made(self)
        waiters, self._connect_waiters = self._connect_waiters, []
        for waiter in waiters:
            waiter.callback(self)

    def _send_hello(self) -> None:
        credentials = self._host.credentials() if self._client else None
        payload = introduce(self.settings, credentials)
        self.outbox.put_control(Kind.HELLO, 0, payload=payload)
        self.outbox.pump()

    def _credit_received(self, channel_id: int, limit: int) -> None:
        if channel_id == 0:
            if self.outbox.credit.grant(limit):
                self.outbox.wake()
            return
        channel = self._table.find(channel_id)
        if channel is not None:
            channel.credit_received(limit)

    # --- deadlines --------------------------------------------------------------------

    def _handshake_timed_out(self) -> None:
        self._deadline = None
        seconds = self.settings.handshake_timeout
        self._refusal = HandshakeTimeout(f"no session after {seconds:g} s of handshake")
        self.link.abort()

    def _send_ping(self, number: int) -> None:
        self.outbox.put_control(Kind.PING, 0, seq=number)

    def _peer_silent(self, seconds: float) -> None:
        self._refusal = PeerSilent(f"no sign of the peer for {seconds:g} s")
        self.link.abort()

    def _drain_timed_out(self) -> None:
        self._deadline = None
        if self.state is SessionState.DRAINING:
            for channel in self.channels:
                channel.reset(ResetCode.GOING_AWAY, "the session is closing")
        else:
            self._refusal = SessionCut("the peer did not end the session in time")
            self.link.abort()

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.clock.callLater(self.settings.drain_timeout, self._drain_timed_out)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- ends -------------------------------------------------------------------------

    def _leave(self, code: int, reason: str) -> None:
        """This side wants to end the session: at the latest when the deadline comes."""
        if self.state is SessionState.CONNECTING:
            self.abort()
        elif self.state is SessionState.OPEN and not self._table and code == ResetCode.NO_ERROR:
            self._end()  # which says it all
        elif self.state is SessionState.OPEN:
            self._go_away(code, reason)
        elif self.state is SessionState.DRAINING and self._deadline is None:
            self._set_deadline()

    def _go_away(self, code: int, reason: str) -> None:
        payload = reason_bytes(reason)
        last = self._table.newest_of_peer
        self.outbox.put_control(Kind.GOAWAY, 0, seq=last, code=code, payload=payload)
        self._start_draining()
        if self.state is SessionState.DRAINING:
            self._set_deadline()

    def _goaway_received(self, code: int, reason: str) -> None:
        if code not in (ResetCode.NO_ERROR, ResetCode.GOING_AWAY):
            self._refusal = SessionCut(f"the peer ended the session: {reason or code}")
        if self.state is SessionState.OPEN:
            self._start_draining()
            for channel in self.channels:
                if not self._table.is_opening(channel):
                    call_application(channel, channel.protocol.session_closing)

    def _start_draining(self) -> None:
        self._move(SessionState.DRAINING)
        if not self._table:
            self._end()

    def _end(self) -> None:
        """Nothing is left to do: send what waits, then the authenticated end."""
        if self.state is not SessionState.ENDING:
            self._move(SessionState.ENDING)
            self._set_deadline()
        self.outbox.pump()

    def _outbox_empty(self) -> None:
        if self.state is SessionState.ENDING:
            self.link.close()

    def _violated(self, error: JetStreamError) -> None:
        _log.warn("{peer} broke the protocol: {error}", peer=self.peer.address, error=str(error))
        self._refusal = error
        payload = reason_bytes(str(error))
        head = encode_head(0, 0, Kind.GOAWAY, 0, ResetCode.PROTOCOL_ERROR, len(payload))
        self.link.send_packet(head, payload, 0)
        self.link.flush()
        self.link.fail(error)

    def _move(self, state: SessionState) -> None:
        if state not in NEXT_STATES[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state
