"""The UDP transport: a link over datagrams, from the handshake to the last acknowledgement.

A `UdpLink` has no socket. Its `DatagramPort` sends for it, and gives it what comes for its
connection id; whatever it does about that is done once for each batch, in `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    NothingListens,
    ProtocolViolation,
    Refused,
    SessionCut,
    WireError,
)
from jetstreamproto.reliability.connection import Connection
from jetstreamproto.reliability.crypto import FIRST_TIMEOUT
from jetstreamproto.reliability.paths import Address
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.security.datagrams import (
    DatagramOpener,
    DatagramSealer,
)
from jetstreamproto.security.handshake import Handshake
from jetstreamproto.security.replay import ReplayWindow
from jetstreamproto.sockets.options import Setting, summary
from jetstreamproto.transports.datagram_stats import DatagramStats, connection_stats
from jetstreamproto.transports.initials import Initials
from jetstreamproto.transports.link import LinkUser, Peer
from jetstreamproto.wire.packet import is_data, sequence_number
from jetstreamproto.wire.session_messages import Mode

_log = Logger()

_EXPORTER_TRANSPORT = b"udp"
_TURN_BYTES = 1 << 20
"""What a link sends before the reactor has a turn for others."""
_EARLY_DATAGRAMS = 8
_PROTOCOL_ERROR = 10  # the session's code for it
_BLOCKED = 0.001  # seconds until a system that takes no more is asked again
_LINGER = 5.0
"""Probe timeouts for which a closed connection still answers its peer."""
_LEAST_LINGER, _LONGEST_LINGER = 1.0, 10.0
_ROUNDING = 1e-6
_STREAM: tuple[Mode, float | None] = (Mode.ORDERED, None)

# Packets are sealed into this, a flight at a time, by all links of the process.
_buffer = memoryview(bytearray(65507))


class DatagramPort(Protocol):
    """What a link needs of whoever owns the socket."""

    settings: DatagramSettings
    random_bytes: Callable[[int], bytes]

    @property
    def clock(self) -> IReactorTime: ...

    def now(self) -> float:
        """Seconds on a monotonic clock."""

    def send(self, data: memoryview, segment: int, address: Address) -> bool:
        """Send `data`, cut every `segment` bytes; False if the system takes no more now."""

    def socket_figures(self) -> Mapping[str, int | str]:
        """What the kernel has granted to the socket."""

    def socket_settings(self) -> tuple[Setting, ...]:
        """What was asked for the socket, and what became of it."""

    def touched(self, link: UdpLink) -> None:
        """Call `link.settle` when the batch that is being received has ended."""

    def closed(self, link: UdpLink) -> None:
        """`link` is over: forget it."""


class _State(Enum):
    HANDSHAKE = "handshake"
    SEALED = "sealed"
    CLOSED = "closed"  # the session has been told; the peer may still need an answer
    GONE = "gone"


class UdpLink:
    """A `Link` over one connection. `local_id` is what the peer's packets are addressed to."""

    streams = True

    def __init__(
        self,
        port: DatagramPort,
        user: LinkUser,
        handshake: Handshake,
        address: Address,
        *,
        local_id: int,
        peer_id: int,
    ) -> None:
        self.local_id = local_id
        self.peer = Peer(show_address(address))
        self.connection: Connection | None = None
        self.failure: JetStreamError | None = None
        self._address = address
        self._port = port
        self._user = user
        # until the peer has sent under the keys
        self._initials: Initials | None = Initials(handshake, local_id, peer_id)
        self._client = self._initials.is_client
        self._early: list[bytes] = []
        self._state = _State.HANDSHAKE
        self._modes: dict[int, tuple[Mode, float | None]] = {}
        self._bytes_sent = self._bytes_received = self._datagrams_sent = 0
        self._started_at = port.now()
        self._rtt: float | None = None
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._peer_end_told = False
        self._reported_at = self._started_at

    def start(self) -> None:
        """Begin the handshake."""
        assert self._initials is not None
        self._initials.start()
        self._send_initials()
        self._arm()

    @property
    def _is_over(self) -> bool:
        return self._state is _State.CLOSED or self._state is _State.GONE

    @property
    def address(self) -> Address:
        """Where the peer is."""
        return self._address if self.connection is None else self.connection.address

    # --- the link contract ---------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._state is _State.SEALED and self.connection is not None and self.connection.room

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds."""
        connection = self.connection
        if connection is None or not connection.sender.rtt.known:
            return None
        return connection.sender.rtt.smoothed

    @property
    def stats(self) -> DatagramStats:
        stats = DatagramStats(self._bytes_sent, self._bytes_received, self._datagrams_sent)
        stats.session_id = f"{self.local_id:016x}"
        stats.socket = self._port.socket_figures()
        stats.settings = self._port.socket_settings()
        if self.connection is not None:
            connection_stats(stats, self.connection)
        return stats

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        self._modes[channel] = (mode, deadline)
        if self.connection is not None and deadline is not None:
            self.connection.set_deadline(channel, deadline)

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        connection = self.connection
        if connection is None or self._state is not _State.SEALED:
            return
        mode, deadline = self._modes.get(channel, _STREAM)
        protected = deadline is not None
        if mode is Mode.ORDERED or not is_data(head):
            connection.write(channel, head, payload, protected)
            return
        expires_at = None
        if mode is Mode.EXPIRING and deadline is not None:
            expires_at = self._port.now() + deadline
        packet = b"".join((head, payload))
        connection.write_message(channel, sequence_number(head), packet, expires_at, protected)

    def end_channel(self, channel: int) -> None:
        self._modes.pop(channel, None)
        if self.connection is not None:
            self.connection.end_channel(channel)

    def flush(self) -> None:
        connection = self.connection
        blocked = connection is not None and not connection.room
        self._send()
        if blocked and self.writable:
            self._call_at(self._port.now())
        self._arm()

    def close(self) -> None:
        if self._state is _State.HANDSHAKE:
            self.abort()
        elif self.connection is not None and self._state is _State.SEALED:
            self.connection.end()
            self.flush()

    def fail(self, failure: JetStreamError | None) -> None:
        if self._state is _State.HANDSHAKE:
            self._turn_away(str(failure or ""), failure)
        elif self.connection is not None and self._state is _State.SEALED:
            self.connection.fail(failure, _PROTOCOL_ERROR, str(failure or ""))
            self.settle()

    def abort(self) -> None:
        if self._state is _State.HANDSHAKE:
            self._turn_away("the peer gave up", SessionCut("this side dropped the connection"))
        elif self.connection is not None and self._state is _State.SEALED:
            self.connection.abort()
            self.settle()

    # --- the handshake -------------------------------------------------------------------

    def retry_received(self, server_id: int, token: bytes) -> None:
        """The server wants to see that we receive what is sent to our address."""
        rtt = self._port.now() - self._started_at
        initials = self._initials
        if initials is not None and initials.retry_received(server_id, token, rtt):
            self._rtt = rtt
            self._port.touched(self)

    def initial_received(self, datagram: bytes, source_id: int) -> None:
        """An INITIAL datagram came for this connection."""
        self._bytes_received += len(datagram)
        initials = self._initials
        if initials is None:
            return
        try:
            if initials.received(datagram, source_id):
                self._connected(initials)
            if initials.alert is not None and not self._is_over:
                reason = initials.alert or "it gave no reason"
                self._lose(Refused(f"the peer turned us away: {reason}"))
        except (HandshakeError, ConfigurationError) as error:
            initials.failed(error, self._port.now())
            self._send_initials()
            self._lose(error)
        except (WireError, ProtocolViolation) as error:
            self.fail(error)
        self._port.touched(self)

    def _connected(self, initials: Initials) -> None:
        settings, now = self._port.settings, self._port.now()
        if not self._client:  # as far as is known: longer if something was sent twice
            self._rtt = min(now - self._started_at, FIRST_TIMEOUT)
        sending, receiving = initials.handshake.traffic_keys(_EXPORTER_TRANSPORT)
        self.connection = Connection(
            DatagramSealer(sending, initials.peer_id, settings.key_packets),
            DatagramOpener(receiving, settings.max_forged, ReplayWindow()),
            settings,
            self._address,
            now,
            self._port.random_bytes,
            self._rtt,
        )
        for channel, (_, deadline) in self._modes.items():
            if deadline is not None:
                self.connection.set_deadline(channel, deadline)
        self.peer = Peer(self.peer.address, initials.handshake.peer_fingerprint)
        self._state = _State.SEALED
        self._user.link_ready()
        early, self._early = self._early, []
        for datagram in early:
            self.sealed_received(memoryview(datagram), len(datagram), self._address)

    def _turn_away(self, text: str, failure: JetStreamError | None) -> None:
        assert self._initials is not None
        self._initials.refuse(text)
        self._send_initials()
        self._lose(failure)

    def _send_initials(self) -> None:
        if self._initials is None:
            return
        for datagram in self._initials.datagrams(self._port.now()):
            self._bytes_sent += len(datagram)
            self._datagrams_sent += 1
            self._port.send(memoryview(datagram), len(datagram), self._address)

    # --- packets -------------------------------------------------------------------------

    def sealed_received(self, data: memoryview, segment: int, address: Address) -> None:
        """SEALED datagrams came for this connection; `data` is good for this call only."""
        self._bytes_received += len(data)
        connection = self.connection
        if connection is None:
            if len(self._early) < _EARLY_DATAGRAMS and self._state is _State.HANDSHAKE:
                self._early.append(bytes(data[:segment]))
            return
        try:
            genuine = connection.receive(data, segment, address, self._port.now())
        except (WireError, ProtocolViolation) as error:
            connection.fail(error, _PROTOCOL_ERROR, str(error))
            genuine = True
        if genuine:
            self._initials = None
            self._port.touched(self)

    def settle(self) -> None:
        """Act on everything that was received: tell the session, answer the peer."""
        self._send_initials()
        connection = self.connection
        if connection is None:
            self._arm()
            return
        if self._state is _State.SEALED:
            packets = connection.take_packets()
            if packets:
                self._user.packets_received(packets)
            self._make_progress(connection)
        self._send()
        if self._state is _State.SEALED and connection.closed:
            self._lose(connection.failure)
        self._arm()

    def _make_progress(self, connection: Connection) -> None:
        if connection.peer_ended and not self._peer_end_told and self._state is _State.SEALED:
            self._peer_end_told = True
            self._user.link_ended()
        if self._state is _State.SEALED and not connection.closed and connection.room:
            self._user.link_writable()

    def _send(self) -> None:
        """Send what may be sent now, a turn's worth at most."""
        connection = self.connection
        if connection is None:
            return
        port, now, spent = self._port, self._port.now(), 0
        while spent < _TURN_BYTES:
            departure = connection.next_datagrams(_buffer, now)
            if departure is None:
                return
            length, segment, address = departure
            spent += length
            self._datagrams_sent += -(-length // segment)
            self._bytes_sent += length
            if not port.send(_buffer[:length], segment, address):
                now += _BLOCKED
                break
        self._call_at(now)

    def error_reported(self, refused: bool, mtu: int | None) -> None:
        """The system or a router says that nothing listens there, or how long an IP packet may be.

        Anybody could say so: it is believed only as far as it does little harm.
        """
        if refused and self._state is _State.HANDSHAKE and self._client:
            self._lose(NothingListens(f"nothing listens at {self.peer.address} (UDP)"))
        elif mtu is not None and self.connection is not None:
            self.connection.mtu_reported(mtu)

    # --- time ----------------------------------------------------------------------------

    def _arm(self) -> None:
        if (when := self._next_timeout()) is not None:
            self._call_at(when)

    def _next_timeout(self) -> float | None:
        if self._is_over:
            return None
        times = []
        if self._initials is not None and self._initials.due_at is not None:
            times.append(self._initials.due_at)
        if self.connection is not None:
            timeout = self.connection.next_timeout()
            if timeout is not None:
                times.append(timeout)
        return min(times, default=None)

    def _call_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        delay = max(0.0, when - self._port.now())
        self._timer = self._port.clock.callLater(delay, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        if self._state is _State.GONE:
            return
        now, when = self._port.now(), self._next_timeout()
        if when is not None and when - now <= _ROUNDING and self.connection is not None:
            self.connection.handle_timeout(max(now, when))
            self._report(now)
        self.settle()

    def _report(self, now: float) -> None:
        interval = self._port.settings.status_interval
        if interval and now - self._reported_at >= interval:
            self._reported_at = now
            stats = self.stats
            _log.info(
                "{peer}: {stats}; asked of its socket: {sockets}",
                peer=self.peer.address,
                stats=stats,
                sockets=summary(stats.settings),
            )

    # --- ends ----------------------------------------------------------------------------

    def _lose(self, failure: JetStreamError | None) -> None:
        """The connection is over for the session; its peer may still need an answer."""
        if self._is_over:
            return
        self._state = _State.CLOSED
        self.failure = failure
        if self._initials is not None:
            self._initials.stop()
        if self._timer is not None:
            self._timer.cancel()
        timeout = 0.0 if self.connection is None else self.connection.sender.rtt.probe_timeout
        linger = min(max(_LEAST_LINGER, _LINGER * timeout), _LONGEST_LINGER)
        self._timer = self._port.clock.callLater(linger, self.forget)
        self._timer_at = float("-inf")
        self._user.link_lost(failure)

    def forget(self) -> None:
        """Answer the peer no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._state is not _State.GONE:
            lost = self._state is not _State.CLOSED
            self._state = _State.GONE
            if lost:
                self._user.link_lost(SessionCut("this side dropped the connection"))
            self._port.closed(self)


def show_address(address: Address) -> str:
    """`HOST:PORT`, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
