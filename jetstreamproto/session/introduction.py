"""The introduction: what happens between the link's handshake and a session that can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import fail
from twisted.logger import Logger

from jetstreamproto.errors import HandshakeTimeout, NotLetIn, ProtocolViolation, Refused
from jetstreamproto.session.codes import ResetCode, reason_text
from jetstreamproto.session.hello import first_windows, introduce, meet
from jetstreamproto.session.host import SessionHost
from jetstreamproto.session.state import SessionState
from jetstreamproto.transports.timeouts import Timeout
from jetstreamproto.wire.packet import Kind, PacketParts
from jetstreamproto.wire.session_messages import Hello

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session

_log = Logger()

_CONNECTING = SessionState.CONNECTING

MAX_EARLY_BYTES = 1 << 20
"""Bytes of payload that may wait for HELLO."""
MAX_EARLY_PACKETS = 1 << 12
"""Packets that may wait for HELLO."""


class Introduction:
    """The start of a session, until both sides have said HELLO, within `handshake_timeout`.

    On a link with `streams` other channels' packets may overtake the HELLO: they wait for it here,
    within bounds.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_early",
        "_early_size",
        "_greeted",
        "_host",
        "_in_turn",
        "_met",
        "_session",
    )

    def __init__(self, session: Session, host: SessionHost, *, client: bool) -> None:
        self._session = session
        self._host = host
        self._client = client
        self._greeted = False
        self._met = False
        self._in_turn = False
        self._early: list[PacketParts] = []
        self._early_size = 0
        self._deadline: Timeout | None = None

    def start(self) -> None:
        """There is a link: the time runs."""
        session = self._session
        self._deadline = session.timeouts.after(session.settings.handshake_timeout, self._timed_out)

    def link_ready(self) -> None:
        """Packets can be sent."""
        if self._client:
            self._say_hello()

    def link_half_ready(self) -> None:
        """A server's packets can be sent: if it lets everybody in, it need not wait to say so."""
        if not self._host.authenticates:
            self._say_hello()

    def packet_received(self, packet: PacketParts) -> None:
        """A packet came while the session was not connected. Ask `take_early` if it is then."""
        self._in_turn = True
        _, channel_id, kind, _, code, payload = packet
        if channel_id and self._session.link.streams:
            self._keep(packet)
        elif kind == Kind.HELLO:
            self._hello_received(meet(payload))
        elif kind == Kind.GOAWAY and self._client:
            kind_of = NotLetIn if code == ResetCode.NOT_ALLOWED else Refused
            self._session.refusal = kind_of(f"the server turned us away: {reason_text(payload)}")
        else:
            raise ProtocolViolation(f"packet kind {kind} before HELLO")
        self._in_turn = False

    def take_early(self) -> list[PacketParts]:
        """The packets that overtook the HELLO."""
        early, self._early = self._early, []
        return early

    def stop(self) -> None:
        """The session is connected, or never will be."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _keep(self, packet: PacketParts) -> None:
        *fields, payload = packet
        self._early_size += len(payload)
        if self._early_size > MAX_EARLY_BYTES or len(self._early) >= MAX_EARLY_PACKETS:
            raise ProtocolViolation("too much came before HELLO")
        # a copy, because the view is good for this turn only
        self._early.append((*fields, memoryview(bytes(payload))))  # type: ignore[arg-type]

    def _hello_received(self, hello: Hello) -> None:
        if self._met:
            raise ProtocolViolation("a second HELLO")
        self._met = True
        self._session.meet(hello)
        if self._client:
            self._session.connected()
            return
        try:
            verdict = self._host.authenticate(self._session, hello)
        except Exception:
            _log.failure("The judge of credentials failed")
            verdict = fail()
        if verdict is None:
            self._let_in(None)
        else:
            verdict.addCallbacks(self._let_in, self._turn_away)

    def _let_in(self, avatar: object) -> None:
        session = self._session
        session.avatar = avatar
        if session.state is _CONNECTING:
            if not self._greeted:
                self._say_hello()
            session.connected()
            if self._early and not self._in_turn:
                session.packets_received(self.take_early())

    def _turn_away(self, failure: Any) -> None:
        session = self._session
        _log.info(
            "{peer} is not let in: {error}",
            peer=session.peer.address,
            error=failure.getErrorMessage(),
        )
        if session.state is _CONNECTING:
            refusal = NotLetIn("the peer is not let in")
            session.departure.turn_away(refusal, "unknown user or wrong password")

    def _say_hello(self) -> None:
        self._greeted = True
        session = self._session
        credentials = self._host.credentials() if self._client else None
        windows = first_windows(session.settings, session.link.rtt)
        session.channel_window = windows.channel
        session.intake.open(windows.session)
        payload = introduce(session.settings, windows, credentials)
        session.outbox.put_control(Kind.HELLO, 0, payload=payload)
        session.outbox.pump()

    def _timed_out(self) -> None:
        self._deadline = None
        seconds = self._session.settings.handshake_timeout
        self._session.refusal = HandshakeTimeout(f"no session after {seconds:g} s of handshake")
        self._session.link.abort()
