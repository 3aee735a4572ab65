"""A session: one authenticated conversation between two hosts, carrying many channels.

It sits on a `Link` and above nothing else: whether TCP, QUIC or UDP is below makes no difference
here. All its deadlines run on one clock that is given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from jetstreamproto.errors import (
    JetStreamError,
    PeerSilent,
    ProtocolViolation,
    SessionClosed,
    WireError,
)
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import (
    DEFAULT_URGENCY,
    MAX_CODE,
    ResetCode,
    reason_bytes,
)
from jetstreamproto.session.credit import ReceiveCredit, SendCredit
from jetstreamproto.session.departure import Departure
from jetstreamproto.session.host import SessionHost
from jetstreamproto.session.inbound import take_packets
from jetstreamproto.session.intake import Intake
from jetstreamproto.session.introduction import Introduction
from jetstreamproto.session.outbox import Outbox
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.pulse import Pulse
from jetstreamproto.session.state import SessionState
from jetstreamproto.session.table import ChannelTable
from jetstreamproto.transports.link import Link, Peer, transport_name
from jetstreamproto.transports.timeouts import Timeouts
from jetstreamproto.wire.packet import Kind, PacketParts, encode_head
from jetstreamproto.wire.session_messages import Hello, Mode

_log = Logger()

_CONNECTING, _OPEN, _DRAINING, _ENDING, _CLOSED = SessionState  # slow to get at in the enum

P = TypeVar("P", bound=ChannelProtocol)


class Session:
    """Made by a transport's protocol; applications get it from `when_connected` and friends."""

    __slots__ = (
        "__weakref__",
        "_close_waiters",
        "_connect_waiters",
        "_host",
        "_linked",
        "_table",
        "_was_open",
        "avatar",
        "channel_window",
        "clock",
        "close_reason",
        "departure",
        "fallback",
        "intake",
        "introduction",
        "link",
        "outbox",
        "peer_hello",
        "pulse",
        "refusal",
        "settings",
        "state",
        "timeouts",
    )

    def __init__(self, host: SessionHost, timeouts: Timeouts, *, client: bool) -> None:
        self.settings = host.settings
        self.timeouts = timeouts
        self.clock = clock = timeouts.clock
        self.state = _CONNECTING
        self.peer_hello: Hello
        self.channel_window = host.settings.channel_window
        """Credit that we give every new channel."""
        self.avatar: object | None = None
        self.close_reason: JetStreamError | None = None
        self.fallback: str | None = None
        """Why it is not over the transport that should have served best; None if it is."""
        self.refusal: JetStreamError | None = None
        """Why the session ends, where that is known before its link says so."""
        self.link: Link
        self._linked = False
        self._was_open = False
        self.outbox = Outbox(clock, self._outbox_empty)
        self._host = host
        self._table = ChannelTable(self, host, client=client)
        self.intake = Intake(self.settings, lambda credit: self.renew_credit(0, credit))
        self.pulse = Pulse(
            timeouts,
            self.settings.heartbeat,
            self.settings.idle_timeout,
            lambda: self.link.stats.bytes_received,
            self._send_ping,
            self._peer_silent,
        )
        self.introduction: Introduction | None = Introduction(self, host, client=client)
        self.departure = Departure(self, self._table)
        self._connect_waiters: list[Deferred[Session]] = []
        self._close_waiters: list[Deferred[None]] = []

    def __repr__(self) -> str:
        where = f"with {self.link.peer.address}, " if self._linked else ""
        return f"<Session {where}{self.state.value}>"

    def start(self, link: Link) -> None:
        """The transport is there; the handshake may begin."""
        self.link = self.outbox.link = link
        self._linked = True
        if self.refusal is not None:
            link.abort()
        elif self.introduction is not None:
            self.introduction.start()

    # --- for the application ----------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self.link.peer

    @property
    def transport(self) -> str:
        """The name of what carries it: "tcp", "udp" or "quic"."""
        return transport_name(self.link)

    @property
    def was_connected(self) -> bool:
        """Whether the peer has ever answered under the new keys."""
        return self._was_open

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels there are now."""
        return tuple(self._table)

    @property
    def accepts_channels(self) -> bool:
        """Whether new channels may be opened: connected, and neither side is going away."""
        return self.state is _OPEN

    def open(
        self,
        service: str,
        protocol: P | None = None,
        *,
        urgency: int = DEFAULT_URGENCY,
        mode: Mode = Mode.ORDERED,
        deadline: float | None = None,
        secret: bool = False,
    ) -> Deferred[P]:
        """Open a channel to a service of the peer; fires with `protocol` once it is accepted.

        Without a `protocol` it fires with an `Inbox`. Messages that are sent on
        `protocol.channel` before that travel with the request, and are lost if it is refused.
        `urgency` is 0 (first) to 7; a `secret` channel is never compressed.

        Messages of an UNORDERED channel do not wait for each other where the transport can do
        that; those of an EXPIRING one may also be given up, `deadline` seconds (rounded up to
        milliseconds) after they have left the channel's queue. For other modes a `deadline` is a
        hint of what is worth protecting. Both hold for both directions.

        Fails with `ServiceNotFound`, `NotAllowed`, `ChannelReset` (also after `open_timeout`) or
        `SessionClosed`. Cancelling gives the channel up. Raises `ValueError` for arguments that
        are out of range, and for EXPIRING without a deadline.
        """
        if not self.accepts_channels:
            result: Deferred[P] = Deferred()
            result.errback(SessionClosed(f"no new channels: the session is {self.state.value}"))
            return result
        return self._table.open(
            service, protocol, urgency=urgency, mode=mode, deadline=deadline, secret=secret
        )

    def ping(self) -> Deferred[float]:
        """Ask the peer for an answer; fires with the round-trip time in seconds."""
        if not self._was_open or self.state is _CLOSED:
            result: Deferred[float] = Deferred()
            result.errback(SessionClosed(f"no ping: the session is {self.state.value}"))
            return result
        result = self.pulse.ping()
        self.outbox.pump()
        return result

    def close(self) -> Deferred[None]:
        """End every channel, then the session, within `drain_timeout`; fires when it is gone."""
        if self.state is not _CLOSED:
            self.departure.leave(ResetCode.NO_ERROR, "")
            for channel in self.channels:
                channel.end()
        return self.when_closed()

    def drain(self, reason: str = "") -> Deferred[None]:
        """Tell the peer to finish its work here and go; after `drain_timeout` it is ended."""
        if self.state is not _CLOSED:
            self.departure.leave(ResetCode.GOING_AWAY, reason)
        return self.when_closed()

    def abort(self) -> None:
        """Drop the connection at once. The peer sees a cut."""
        if self._linked:
            self.link.abort()
        elif self.refusal is None:
            self.refusal = SessionClosed("the session was given up before it was connected")

    def give_up(self, reason: JetStreamError) -> None:
        """Drop the connection at once because of `reason`, which `close_reason` will be."""
        if self.refusal is None:
            self.refusal = reason
        self.link.abort()

    def when_connected(self) -> Deferred[Session]:
        """Fires with this session once the peer has answered under the new keys."""
        waiter: Deferred[Session] = Deferred(self._connect_waiters.remove)
        if self.state is _CLOSED:
            waiter.errback(self.close_reason or SessionClosed("the session has ended"))
        elif self._was_open:
            waiter.callback(self)
        else:
            self._connect_waiters.append(waiter)
        return waiter

    def when_closed(self) -> Deferred[None]:
        """Fires when the session is gone, however it ended; `close_reason` then says how."""
        waiter: Deferred[None] = Deferred()
        if self.state is _CLOSED:
            waiter.callback(None)
        else:
            self._close_waiters.append(waiter)
        return waiter

    # --- LinkUser ---------------------------------------------------------------------

    def link_ready(self) -> None:
        if self.introduction is not None:
            self.outbox.hold()
            self.introduction.link_ready()
            self.outbox.release()

    def link_half_ready(self) -> None:
        if self.introduction is not None:
            self.outbox.hold()
            self.introduction.link_half_ready()
            self.outbox.release()

    def packets_received(self, packets: Sequence[PacketParts]) -> None:
        self.pulse.heard = True
        outbox = self.outbox
        outbox.hold()
        try:
            take_packets(self, self._table, packets)
        except (ProtocolViolation, WireError) as error:
            self._violated(error)
        finally:
            outbox.release()

    def link_writable(self) -> None:
        self.outbox.pump()

    def link_ended(self) -> None:
        self._table.close_all(SessionClosed("the peer ended the session"))
        if self.state is not _CLOSED:
            self.departure.end()

    def link_lost(self, reason: JetStreamError | None) -> None:
        connecting = self.state is _CONNECTING
        reason = self.refusal or reason
        self.close_reason = reason
        self.move(_CLOSED)
        self.departure.stop()
        self.outbox.stop()
        ended = reason or SessionClosed("the session has ended")
        self._table.close_all(ended)
        self.pulse.stop(ended)
        connects, self._connect_waiters = self._connect_waiters, []
        for connect in connects:
            connect.errback(ended)
        try:
            self._host.session_lost(self, reason if not connecting else ended)
        finally:
            closes, self._close_waiters = self._close_waiters, []
            for close in closes:
                close.callback(None)

    def let_go(self) -> None:
        """Have it freed as soon as nobody uses it, not when the garbage collector runs next.

        Call it after `link_lost`, when nothing that is part of the session is running.
        """
        for part in (self._table, self.departure, self.intake, self.outbox, self.pulse):
            part.let_go()

    # --- for channels ------------------------------------------------------------------

    @property
    def admits_channels(self) -> bool:
        """Whether the peer may open channels. If it is going away, that overtook its OPEN."""
        overtaken = self.state is _DRAINING and self.link.streams
        return self.accepts_channels or (overtaken and not self.departure.leaving)

    def send_reset(self, channel_id: int, code: int, reason: str, *, asked: bool = False) -> None:
        """Reset a channel, or answer the OPEN of one (`asked`)."""
        put = self.outbox.put_reply if asked else self.outbox.put_control
        put(Kind.RESET, channel_id, code=min(code, MAX_CODE), payload=reason_bytes(reason))

    def renew_credit(self, channel_id: int, credit: ReceiveCredit) -> None:
        """Announce a new limit of a channel, or of the session (0)."""
        rtt = self.link.rtt
        if rtt is None:
            self.pulse.probe()
            rtt = self.pulse.rtt
        limit = credit.renew(self.clock.seconds(), rtt)
        self.outbox.put_control(Kind.CREDIT, channel_id, seq=limit)

    def channel_gone(self, channel: Channel, reason: JetStreamError | None) -> None:
        """`channel` has closed, because of `reason` if not by both sides' ends."""
        self.outbox.discard(channel)
        self.outbox.put_end_of_channel(channel.id)
        self._table.forget(channel, reason)
        self.departure.channel_gone()

    # --- for the introduction ----------------------------------------------------------

    def meet(self, hello: Hello) -> None:
        """The peer has introduced itself."""
        if hello.password is not None:
            hello = hello._replace(password=None)  # not to be kept in memory
        self.peer_hello = hello
        self.outbox.credit = SendCredit(hello.session_window)

    def connected(self) -> None:
        """Both sides accept each other."""
        self.move(_OPEN)
        self._was_open = True
        self.pulse.start()
        self._host.session_made(self)
        waiters, self._connect_waiters = self._connect_waiters, []
        for waiter in waiters:
            waiter.callback(self)

    # --- endings ----------------------------------------------------------------------

    def _send_ping(self, number: int) -> None:
        self.outbox.put_control(Kind.PING, 0, seq=number)

    def _peer_silent(self, seconds: float) -> None:
        self.give_up(PeerSilent(f"no sign of the peer for {seconds:g} s"))

    def _outbox_empty(self) -> None:
        if self.state is _ENDING:
            self.outbox.stop()
            self.link.close()

    def _violated(self, error: JetStreamError) -> None:
        _log.warn("{peer} broke the protocol: {error}", peer=self.peer.address, error=str(error))
        self.refusal = error
        payload = reason_bytes(str(error))
        head = encode_head(0, 0, Kind.GOAWAY, 0, ResetCode.PROTOCOL_ERROR, len(payload))
        self.link.send_packet(head, payload, 0)
        self.link.flush()
        self.link.fail(error)

    def move(self, state: SessionState) -> None:
        """Go on to `state`."""
        if state not in self.state.following:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state
        introduction, self.introduction = self.introduction, None
        if introduction is not None:
            introduction.stop()
