"""The adapter of aioquic: one QUIC connection without sockets or clocks, and with bounds.

Everything that we use of the library's inside is in this module: it has no public means to bound
what a peer may make it keep, or to tell what is acknowledged.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, cast

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionState
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import ExtensionType
from cryptography import x509

from jetstreamproto.reliability.paths import Address
from jetstreamproto.reliability.settings import MIN_DATAGRAM, DatagramSettings
from jetstreamproto.security.handshake import ALPN
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.names import is_ip_address
from jetstreamproto.security.possession import channel_binding
from jetstreamproto.transports.link import LinkStats
from jetstreamproto.transports.quic_keys import KeyUpdates

ID_SIZE = 8
"""Bytes of the connection ids that we choose."""
TYPICAL_DATAGRAM = 1232
"""Bytes of a datagram on paths that nothing is known of: IPv6's least MTU without the headers."""
LONGEST_DATAGRAM = 16384
"""The library has 14 bits for the length of what it puts into a packet."""
MAX_MESSAGE_STREAMS = 1 << 10
"""Messages without order that a peer may have under way."""

_BURST = 0.002  # seconds of sending at once, since timers are no finer than half of that
_LEAST_STREAMS = 128
_LONGEST_PROBE = 2.0  # seconds, so that what comes back after an outage is noticed soon

logging.getLogger("quic").addHandler(logging.NullHandler())  # what matters is told by events


@dataclass(slots=True)
class QuicStats(LinkStats):
    """Bytes are of UDP payload, times milliseconds."""

    datagrams_sent: int = 0
    datagrams_received: int = 0
    rtt_ms: float = 0.0
    mtu: int = 0
    window: int = 0
    in_flight: int = 0
    key_updates: int = 0


class QuicCore:
    """One connection. `now` is seconds on a monotonic clock, the same in all calls.

    After `receive`, `handle_timeout` or anything that sends: take `events`, then `datagrams`.
    `consumed` is to be raised by the bytes of streams that were handed on: the peer may be
    `receive_window` ahead of it.
    """

    def __init__(
        self,
        quic: QuicConnection,
        secrets: _Secrets,
        settings: DatagramSettings,
        max_channels: int,
    ) -> None:
        self._quic = quic
        self._secrets = secrets
        self._window = _Window(settings.receive_window)
        quic._local_max_data = self._window
        _set_limit(quic._local_max_streams_bidi, max(2 * max_channels, _LEAST_STREAMS))
        _set_limit(quic._local_max_streams_uni, MAX_MESSAGE_STREAMS)
        quic._loss._pacer = _Pacer(max_datagram_size=quic._max_datagram_size)
        self.keys = KeyUpdates(quic, settings.key_packets)
        self.own_id: bytes = quic.host_cid
        self.receive = quic.receive_datagram
        """Take a datagram that came for one of our ids: its bytes, address, and `now`."""

    @classmethod
    def client(
        cls, settings: DatagramSettings, mtu: int, max_channels: int, server_name: str | None
    ) -> QuicCore:
        """A client's; `connect` begins. `server_name` is told to the server."""
        secrets = _Secrets()
        configuration = _configuration(settings, mtu, secrets, is_client=True)
        configuration.verify_mode = ssl.CERT_NONE  # the link asks `Trust`
        if server_name is not None and not is_ip_address(server_name):
            configuration.server_name = server_name
        return cls(QuicConnection(configuration=configuration), secrets, settings, max_channels)

    @classmethod
    def server(
        cls,
        settings: DatagramSettings,
        mtu: int,
        max_channels: int,
        identity: Identity,
        original_id: bytes,
        retry_id: bytes,
        new_id: Callable[[], bytes],
    ) -> QuicCore:
        """A server's, for a client that first wrote to `original_id` and was sent a Retry.

        Its own ids are what `new_id` returns.
        """
        secrets = _Secrets()
        configuration = _configuration(settings, mtu, secrets, is_client=False)
        configuration.certificate = identity.certificate
        configuration.certificate_chain = list(identity.chain)
        configuration.private_key = identity.key
        quic = QuicConnection(
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        _choose_ids(quic, new_id)
        return cls(quic, secrets, settings, max_channels)

    # --- driving -------------------------------------------------------------------------

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake with the server at `address`."""
        self._quic.connect(address, now=now)

    def events(self) -> Sequence[QuicEvent]:
        """What has happened since the last time."""
        events = tuple(self._quic._events)
        self._quic._events.clear()
        return events

    def datagrams(self, now: float) -> list[tuple[bytes, Address]]:
        """What is to be sent now."""
        if not self._quic._network_paths:
            return []  # nothing genuine has come yet
        self.keys.update_if_due()
        return self._quic.datagrams_to_send(now=now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due."""
        if self._quic._close_at is None:  # nothing has come yet, or it is all over
            return None
        return self._quic.get_timer()

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Probes are no further apart than `_LONGEST_PROBE`, as the path allows."""
        self._quic.handle_timer(now=now)
        loss = self._quic._loss
        if self._quic._handshake_confirmed and loss._pto_count:
            longest = max(1.0, _LONGEST_PROBE / loss.get_probe_timeout())
            loss._pto_count = min(loss._pto_count, int(math.log2(longest)))

    def close(self, code: int, reason: str = "", *, transport: bool = False) -> None:
        """Tell the peer that it is over: an application's code, or one of QUIC's own."""
        self._quic.close(code, QuicFrameType.PADDING if transport else None, reason)

    @property
    def terminated(self) -> ConnectionTerminated | None:
        """How the connection has ended, by whomever; its event comes only after a while."""
        return self._quic._close_event

    @property
    def ended_by_peer(self) -> bool:
        """Whether it was the peer that ended it."""
        return self._quic._state is QuicConnectionState.DRAINING

    def keep_alive(self) -> None:
        """Make the peer answer."""
        self._quic.send_ping(0)

    # --- the path ------------------------------------------------------------------------

    @property
    def address(self) -> Address | None:
        """Where the peer is."""
        paths = self._quic._network_paths
        return paths[0].addr if paths else None

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds, once it is known."""
        loss = self._quic._loss
        return loss._rtt_smoothed if loss._rtt_initialized else None

    @property
    def rate(self) -> float:
        """Bytes a second that congestion control allows, 0 as long as it is unknown."""
        rtt = self.rtt
        return self._quic._loss.congestion_window / max(rtt, 1e-6) if rtt is not None else 0.0

    @property
    def probe_timeout(self) -> float:
        """Seconds after which what is not acknowledged is sent again."""
        return self._quic._loss.get_probe_timeout()

    @property
    def in_flight(self) -> int:
        """Bytes that are sent and not acknowledged."""
        return self._quic._loss.bytes_in_flight

    @property
    def mtu(self) -> int:
        """Bytes of the datagrams that are sent."""
        return self._quic._max_datagram_size

    @mtu.setter
    def mtu(self, size: int) -> None:
        quic = self._quic
        quic._max_datagram_size = max(MIN_DATAGRAM, min(size, self._peer_takes))
        cast(Any, quic._loss._cc)._max_datagram_size = quic._max_datagram_size
        quic._loss._pacer._max_datagram_size = quic._max_datagram_size

    @property
    def _peer_takes(self) -> int:
        """The longest datagram that the peer accepts (RFC 9000 section 18.2)."""
        longest = LONGEST_DATAGRAM
        for kind, data in self._quic.tls.received_extensions or ():
            if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
                size = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
                longest = min(longest, size or longest)
        return longest

    def stats(self) -> QuicStats:
        """What the connection knows; bytes and datagrams are counted by the link."""
        return QuicStats(
            rtt_ms=round((self.rtt or 0.0) * 1e3, 3),
            mtu=self.mtu,
            window=self._quic._loss.congestion_window,
            in_flight=self.in_flight,
            key_updates=self.keys.count,
        )

    # --- who the peer is -----------------------------------------------------------------

    @property
    def server_chain(self) -> Sequence[x509.Certificate]:
        """The server's certificates, of which it owns the first; for a client, once connected."""
        tls = self._quic.tls
        certificate = tls._peer_certificate
        return () if certificate is None else (certificate, *tls._peer_certificate_chain)

    def take_binding(self) -> bytes:
        """The channel binding, once connected; the secrets that it is made of are forgotten."""
        return self._secrets.take()

    # --- streams -------------------------------------------------------------------------

    @property
    def consumed(self) -> int:
        return self._window.consumed

    @consumed.setter
    def consumed(self, count: int) -> None:
        self._window.consumed = count

    def received_on(self, stream_id: int) -> int:
        """The bytes of a stream that count against the window, until it is forgotten."""
        stream = self._quic._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    @property
    def message_streams_left(self) -> int:
        """How many more one-way streams the peer allows now."""
        next_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
        return self._quic._remote_max_streams_uni - next_id // 4

    def open_stream(self, *, one_way: bool) -> SendingStream:
        """A new stream; one of two ways waits inside until the peer allows it."""
        quic = self._quic
        stream_id = quic.get_next_available_stream_id(is_unidirectional=one_way)
        quic.send_stream_data(stream_id, b"")
        return SendingStream(quic, stream_id)

    def answer_on(self, stream_id: int) -> SendingStream | None:
        """Our side of a two-way stream of the peer's; None if there is none."""
        return SendingStream(self._quic, stream_id) if stream_id in self._quic._streams else None


class SendingStream:
    """What is sent on one stream."""

    __slots__ = ("_quic", "_sender", "id")

    def __init__(self, quic: QuicConnection, stream_id: int) -> None:
        self.id = stream_id
        self._quic = quic
        self._sender: QuicStreamSender = quic._streams[stream_id].sender

    def write(self, data: bytes, *, end: bool = False) -> None:
        self._quic.send_stream_data(self.id, data, end)

    def reset(self, code: int) -> None:
        """Give up what the peer does not have yet."""
        self._sender.reset(code)

    @property
    def pending(self) -> int:
        """Bytes that are not acknowledged, sent or not."""
        sender = self._sender
        return sender._buffer_stop - sender._buffer_start

    @property
    def finished(self) -> bool:
        """Whether everything, the end included, is acknowledged, or the reset is."""
        return self._sender.is_finished


class _Window(Limit):
    """The limit of all streams together: a window behind which the reader has to come first.

    The library's own doubles with what has come, in order or not, so that a peer that leaves a
    gap could make it reserve any amount of memory.
    """

    def __init__(self, window: int) -> None:
        self.consumed = 0
        self._window = window
        self._announced = window
        super().__init__(QuicFrameType.MAX_DATA, "max_data", window)

    @property
    def value(self) -> int:
        limit = self.consumed + self._window
        if limit - self._announced >= self._window >> 2:
            self._announced = limit
        return self._announced

    @value.setter
    def value(self, wanted: int) -> None:
        """Only `consumed` moves it."""


class _Pacer(QuicPacketPacer):
    """Lets bursts be long enough for the timers there are."""

    def next_send_time(self, now: float) -> float:
        at = super().next_send_time(now)
        return max(at, now + _BURST / 2) if at is not None else at  # None: now

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, _BURST)


class _Secrets:
    """Collects what TLS would write to a key log: the secrets that the binding is made of."""

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}

    def write(self, line: str) -> None:
        label, _, secret = line.split()
        if label.endswith("_TRAFFIC_SECRET_0"):
            self._secrets[label] = bytes.fromhex(secret)

    def flush(self) -> None:
        """Nothing waits."""

    def take(self) -> bytes:
        secrets, self._secrets = self._secrets, {}
        return channel_binding(
            secrets["CLIENT_TRAFFIC_SECRET_0"], secrets["SERVER_TRAFFIC_SECRET_0"]
        )


def _choose_ids(quic: QuicConnection, new_id: Callable[[], bytes]) -> None:
    """Have the connection use ids of `new_id`, where the library draws its own."""
    first = quic._host_cids[0]
    first.cid = new_id()
    quic.host_cid = quic._local_initial_source_connection_id = first.cid
    replenish = quic._replenish_connection_ids

    def replenish_with_ours() -> None:
        known = len(quic._host_cids)
        replenish()
        for issued in quic._host_cids[known:]:
            issued.cid = new_id()

    quic._replenish_connection_ids = replenish_with_ours  # type: ignore[method-assign]


def _configuration(
    settings: DatagramSettings, mtu: int, secrets: _Secrets, *, is_client: bool
) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=[ALPN.decode()],
        congestion_control_algorithm="reno" if settings.congestion == "newreno" else "cubic",
        connection_id_length=ID_SIZE,
        idle_timeout=settings.idle_timeout,
        is_client=is_client,
        max_data=settings.receive_window,
        max_datagram_size=min(mtu, LONGEST_DATAGRAM),
        max_stream_data=settings.receive_window,
        secrets_log_file=cast(TextIO, secrets),
    )


def _set_limit(limit: Limit, value: int) -> None:
    limit.value = limit.sent = value
