"""The QUIC transport (RFC 9000): a link whose channels are streams, and whose keys are QUIC's own.

A `QuicLink` has no socket. Its `QuicPort` sends for it, and gives it what comes for its connection
ids; whatever it does about that is done once for each batch, in `settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from twisted.logger import Logger

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    NothingListens,
    ProtocolViolation,
    SessionCut,
    TrustError,
    WireError,
)
from jetstreamproto.reliability.paths import Address
from jetstreamproto.security.handshake import ALPN
from jetstreamproto.transports.link import LinkUser, Peer
from jetstreamproto.transports.quic_closing import CloseCode, TlsAlert, explain
from jetstreamproto.transports.quic_core import QuicCore, QuicStats
from jetstreamproto.transports.quic_identity import QuicIdentity
from jetstreamproto.transports.quic_outlet import QuicOutlet
from jetstreamproto.transports.quic_port import Alarm, QuicPort
from jetstreamproto.transports.quic_receiving import QuicReceiving
from jetstreamproto.transports.quic_sending import QuicSending
from jetstreamproto.transports.udp import show_address
from jetstreamproto.wire.packet import is_data, sequence_number
from jetstreamproto.wire.session_messages import Mode

_log = Logger()

_LEAST_UNSENT, _MOST_UNSENT = 1 << 17, 1 << 22
"""Bytes that may wait in the library's buffers; more would only undo the order of urgency."""
_AHEAD = 0.01  # seconds of sending that wait there, within these limits
_LINGER = 3.0  # probe timeouts for which a closed connection answers (RFC 9000 section 10.2)
_LEAST_LINGER, _LONGEST_LINGER = 1.0, 10.0
_MAX_UNPROVED = 1 << 18
_ROUNDING = 1e-6
_STREAM: tuple[Mode, float | None] = (Mode.ORDERED, None)


class _State(Enum):
    HANDSHAKE = "handshake"
    PROVING = "proving"  # a server waits for its client's certificate
    OPEN = "open"
    CLOSED = "closed"  # the session has been told; the peer may still need an answer
    GONE = "gone"


class QuicLink:
    """A `Link` over one QUIC connection."""

    streams = True

    def __init__(
        self,
        port: QuicPort,
        user: LinkUser,
        core: QuicCore,
        identity: QuicIdentity,
        address: Address,
        path_mtu: int,
    ) -> None:
        self.core = core
        self.failure: JetStreamError | None = None
        self._port = port
        self._user = user
        self._identity = identity
        self._address = address
        self._path_mtu = path_mtu
        self._fingerprint: str | None = None
        self._receiving = QuicReceiving(core, port.settings.receive_window)
        self._sending = QuicSending(core, self._receiving, client=identity.client)
        self._state = _State.HANDSHAKE
        self._modes: dict[int, tuple[Mode, float | None]] = {}
        self._outlet = QuicOutlet(port)
        self._bytes_received = self._datagrams_received = 0
        self._heard_at = self._reached = port.now()
        self._closing = False
        self._peer_end_told = False
        self._alarm = Alarm(port)

    def start(self) -> None:
        """Begin a client's handshake."""
        self.core.connect(self._address, self._port.now())
        self.settle()

    @property
    def address(self) -> Address:
        """Where the peer is."""
        return self.core.address or self._address

    @property
    def is_over(self) -> bool:
        """Whether the session has lost this link."""
        return self._state is _State.CLOSED or self._state is _State.GONE

    # --- the link contract ---------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        return Peer(show_address(self.address), self._fingerprint)

    @property
    def writable(self) -> bool:
        if self._state is not _State.OPEN or self._closing:
            return False
        pending = self._sending.pending
        unsent = pending - self.core.in_flight
        if unsent >= _LEAST_UNSENT and unsent >= min(self.core.rate * _AHEAD, _MOST_UNSENT):
            return False
        return pending < self._port.settings.send_window

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds."""
        return self.core.rtt

    @property
    def stats(self) -> QuicStats:
        stats = self.core.stats()
        stats.bytes_sent, stats.datagrams_sent = (
            self._outlet.bytes_sent,
            self._outlet.datagrams_sent,
        )
        stats.bytes_received = self._bytes_received
        stats.socket = self._port.socket_figures()
        stats.settings = self._port.socket_settings()
        stats.datagrams_received = self._datagrams_received
        return stats

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        self._modes[channel] = (mode, deadline)

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        if self._state is not _State.OPEN:
            return
        mode, deadline = self._modes.get(channel, _STREAM)
        if mode is Mode.ORDERED or not is_data(head):
            self._sending.write(channel, head, payload)
            return
        expires_at = None
        if mode is Mode.EXPIRING and deadline is not None:
            expires_at = self._port.now() + deadline
        packet = b"".join((head, payload))
        self._sending.write_message(channel, sequence_number(head), packet, expires_at)

    def end_channel(self, channel: int) -> None:
        self._modes.pop(channel, None)
        if self._state is _State.OPEN:
            self._sending.end_channel(channel)

    def flush(self) -> None:
        if self.is_over:
            return
        was_full = not self.writable
        self._send()
        if was_full and self.writable:
            self._alarm.set(self._port.now(), self._timed_out)
        self._arm()

    def close(self) -> None:
        if self._state is _State.OPEN:
            self._closing = True
            self._sending.end()
            self.flush()
        else:
            self.abort()

    def fail(self, failure: JetStreamError | None) -> None:
        if not self.is_over:
            self.core.close(CloseCode.PROTOCOL_ERROR, str(failure or "")[:256])
            self._lose(failure)

    def abort(self) -> None:
        if not self.is_over:
            self.core.close(CloseCode.ABORTED, "the peer gave up")
            self._lose(SessionCut("this side dropped the connection"))

    # --- what comes in -------------------------------------------------------------------

    def datagrams_received(self, datagrams: Sequence[bytes], address: Address) -> None:
        """Datagrams came together for the link's connection ids."""
        self._bytes_received += sum(map(len, datagrams))
        self._datagrams_received += len(datagrams)
        if self.is_over:
            self._outlet.answer()
            return
        now, receive = self._now(), self.core.receive
        try:
            for datagram in datagrams:
                receive(datagram, address, now)
        except Exception:  # what a peer sends must not cost others their datagrams
            _log.failure("{peer}: a datagram that QUIC fails at", peer=self.peer.address)
            self.fail(ProtocolViolation("a datagram that QUIC fails at"))
            return
        self._heard_at = now
        self._port.touched(self)

    def settle(self) -> None:
        """Act on everything that was received: tell the session, answer the peer."""
        if self.is_over:
            return
        try:
            for event in self.core.events():
                self._handle(event)
                if self.is_over:
                    return
            if self._state is _State.PROVING:
                self._await_proof()
            if self._state is _State.OPEN:
                self._hand_up()
        except (TrustError, ConfigurationError) as refusal:
            self._turn_away(refusal)
        except HandshakeError as error:
            self.core.close(TlsAlert.NO_ALPN, str(error), transport=True)
            self._lose(error)
        except (WireError, ProtocolViolation) as error:
            self.fail(error)
        self._go_on()

    def _handle(self, event: QuicEvent) -> None:
        if type(event) is StreamDataReceived:
            self._receiving.received(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, ConnectionIdIssued):
            self._port.id_added(self, event.connection_id)
        elif isinstance(event, ConnectionIdRetired):
            self._port.id_removed(self, event.connection_id)
        elif isinstance(event, StreamReset):
            self._receiving.was_reset(event.stream_id)
        elif isinstance(event, StopSendingReceived):
            raise ProtocolViolation("the peer wants us to stop sending")
        elif isinstance(event, ProtocolNegotiated):
            self._check_alpn(event.alpn_protocol)
        elif isinstance(event, HandshakeCompleted):
            self._check_alpn(event.alpn_protocol)
            self._handshake_completed()

    def _check_alpn(self, protocol: str | None) -> None:
        if protocol != ALPN.decode():
            raise HandshakeError(f"the peer did not agree on the protocol {ALPN.decode()} (ALPN)")

    def _handshake_completed(self) -> None:
        self.core.mtu = self._path_mtu
        self._identity.connected(self.core)
        self._fingerprint = self._identity.peer_fingerprint
        request = self._identity.request
        if request is not None:
            self._sending.send_control(*request)
            self._state = _State.PROVING
        else:
            self._ready()

    def _await_proof(self) -> None:
        if self.core.consumed > _MAX_UNPROVED:
            raise ProtocolViolation("too much came before the proof of identity")
        controls, self._receiving.controls = self._receiving.controls, []
        for kind, data in controls:
            self._identity.control_received(kind, data)
        if self._identity.peer_fingerprint is not None:
            self._fingerprint = self._identity.peer_fingerprint
            self._ready()

    def _ready(self) -> None:
        self._state = _State.OPEN
        self._user.link_ready()

    def _hand_up(self) -> None:
        receiving = self._receiving
        if receiving.controls:
            controls, receiving.controls = receiving.controls, []
            for kind, data in controls:
                answer = self._identity.control_received(kind, data)
                if answer is not None:
                    self._sending.send_control(*answer)
        packets = receiving.take()
        if packets:
            self._user.packets_received(packets)
        if receiving.ended and not self._peer_end_told and self._state is _State.OPEN:
            self._peer_end_told = True
            self._user.link_ended()

    def _go_on(self) -> None:
        """Send what can be sent, and see whether it is over."""
        if self.is_over:
            return
        sending = self._sending
        sending.expire(self._now())
        sending.sweep()
        if self.writable:
            self._user.link_writable()
        if self._closing and not self.is_over and sending.end() and self._peer_end_told:
            self.core.close(CloseCode.ENDED)
            self._lose(None)
            return
        self._send()
        if self.core.terminated is not None:
            self._terminated()
        self._arm()

    def error_reported(self, refused: bool, mtu: int | None) -> None:
        """The system or a router says that nothing listens there, or how long an IP packet may be.

        Anybody could say so: it is believed only as far as it does little harm.
        """
        if refused and self._state is _State.HANDSHAKE and self._identity.client:
            self._lose(NothingListens(f"nothing listens at {self.peer.address} (QUIC)"))
        elif mtu is not None and not self.is_over:
            headers = 48 if ":" in self.address[0] else 28
            self._path_mtu = min(self._path_mtu, mtu - headers)
            if self._path_mtu < self.core.mtu:
                self.core.mtu = self._path_mtu

    # --- what goes out -------------------------------------------------------------------

    def _send(self) -> None:
        datagrams = self.core.datagrams(self._now())
        if datagrams:
            self._outlet.send(datagrams)
            if self.core.terminated is not None:
                self._outlet.keep(datagrams)

    # --- time ----------------------------------------------------------------------------

    def _now(self) -> float:
        """The time for QUIC, which a timer that fires a rounding error early may have moved."""
        return max(self._port.now(), self._reached)

    def _arm(self) -> None:
        """See to it that `_timed_out` is called when something is due."""
        if self.is_over:
            return
        when = self._heard_at + self._port.settings.heartbeat
        for due in (self.core.next_timeout(), self._sending.next_deadline):
            if due is not None and due < when:
                when = due
        self._alarm.set(when, self._timed_out)

    def _timed_out(self) -> None:
        now, when = self._port.now(), self.core.next_timeout()
        if when is not None and when - now <= _ROUNDING:
            self._reached = max(now, when + _ROUNDING)  # aioquic acts on some only after their time
            self.core.handle_timeout(self._reached)
        if now - self._heard_at >= self._port.settings.heartbeat - _ROUNDING:
            self._heard_at = now  # the next comes as late
            self.core.keep_alive()
        self.settle()

    # --- ends ----------------------------------------------------------------------------

    def _turn_away(self, refusal: JetStreamError) -> None:
        """The peer is not who it should be; it is not told more than that."""
        if self._identity.client:
            self.core.close(TlsAlert.BAD_CERTIFICATE, "not trusted", transport=True)
        else:
            self.core.close(CloseCode.NOT_LET_IN, self._identity.refusal)
        self._lose(refusal)

    def _terminated(self) -> None:
        """QUIC says that it is over."""
        end = self.core.terminated
        assert end is not None
        clean = end.frame_type is None and end.error_code == CloseCode.ENDED
        if clean and self.core.ended_by_peer and self._peer_end_told and self._sending.ended:
            self._lose(None)
        else:
            connecting = self._state is _State.HANDSHAKE
            self._lose(explain(end, connecting=connecting, by_peer=self.core.ended_by_peer))

    def _lose(self, failure: JetStreamError | None) -> None:
        """The connection is over for the session; its peer may still need an answer."""
        if self.is_over:
            return
        if self.core.terminated is not None:
            self._send()
        self._state = _State.CLOSED
        self.failure = failure
        self._alarm.stop()
        if self._outlet.has_last_words:
            linger = min(max(_LEAST_LINGER, _LINGER * self.core.probe_timeout), _LONGEST_LINGER)
            self._alarm.set(self._port.now() + linger, self.forget)
        self._user.link_lost(failure)
        if not self._alarm.is_set:
            self.forget()

    def forget(self) -> None:
        """Answer the peer no more."""
        self._alarm.stop()
        if self._state is not _State.GONE:
            lost = self._state is not _State.CLOSED
            self._state = _State.GONE
            if lost:
                self._user.link_lost(SessionCut("this side dropped the connection"))
            self._port.closed(self)
