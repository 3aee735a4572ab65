"""What the scenarios over QUIC share: pairs on a simulated network, and a client not ours."""

from __future__ import annotations

import ssl
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived
from twisted.internet.protocol import DatagramProtocol

from jetstreamproto.security.handshake import ALPN
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.hello import first_windows, introduce
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import DEFAULT_SETTINGS
from jetstreamproto.testing import DatagramPair, LinkOptions
from jetstreamproto.testing.datagram_pair import SERVER, SERVER_PORT
from jetstreamproto.transports.quic import QuicLink
from jetstreamproto.wire.packet import Kind, encode_head
from tests.doubles import IDENTITY, QuickClock, Registry
from tests.scenarios.udp_pairs import UdpTestCase

SERVER_AT = (SERVER, SERVER_PORT)
STRANGER = "10.0.0.9"


class QuicPair(DatagramPair):
    """With the services "echo" and "sink", whose protocols are kept in `sinks`."""

    def __init__(self, services: dict[str, Any] | None = None, **options: Any) -> None:
        self.sinks = Registry()
        options.setdefault("clock", QuickClock())
        options.setdefault("identity", IDENTITY)
        options.setdefault("transport", "quic")
        offered: dict[str, Any] = {"echo": Echo, "sink": self.sinks}
        super().__init__(offered | (services or {}), **options)

    @property
    def near(self) -> QuicLink:
        """The client's link."""
        assert self.client_protocol.quic is not None
        (link,) = self.client_protocol.quic.links
        return link

    @property
    def far(self) -> QuicLink:
        """The server's link."""
        assert self.server_protocol.quic is not None
        (link,) = self.server_protocol.quic.links
        return link

    def ask(self, message: bytes) -> bytes:
        """The echo of a message."""
        inbox = self.run(self.client.open("echo", Inbox()))
        inbox.channel.send(message)
        answer = self.run(inbox.get())
        inbox.channel.end()
        return answer

    def closed(self) -> tuple[object, object]:
        """How the two sessions have ended."""
        self.run(self.client.when_closed())
        self.run(self.server.when_closed())
        return self.client.close_reason, self.server.close_reason

    def let_strangers_in(self) -> Any:
        """The host of strangers."""
        host = self.net.host(STRANGER)
        self.net.join(STRANGER, SERVER, LinkOptions())
        return host

    def stranger(self, **options: Any) -> RawClient:
        """A QUIC client that is not ours, on another host, which has sent its first flight."""
        client = RawClient(**options)
        self.net.listen_udp(client, self.let_strangers_in())
        client.quic.connect(SERVER_AT, now=self.clock.seconds())
        client.flush()
        return client


class RawClient(DatagramProtocol):
    """aioquic's connection on a port; `events` has what it has told."""

    def __init__(self, alpn: list[str] | None = None, **options: Any) -> None:
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=[ALPN.decode()] if alpn is None else alpn,
                verify_mode=ssl.CERT_NONE,
                max_datagram_size=1200,
                **options,
            )
        )
        self.events: list[Any] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.quic.receive_datagram(datagram, addr, now=self._now())
        self.flush()

    def _now(self) -> float:
        transport: Any = self.transport
        now: float = transport.host.seconds()
        return now

    def flush(self) -> None:
        """Take what has happened, and send what is to be sent."""
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)
        transport: Any = self.transport
        for data, address in self.quic.datagrams_to_send(now=self._now()):
            transport.write(data, address)

    def wake(self) -> None:
        """Let its timer fire, if it is due."""
        at = self.quic.get_timer()
        if at is not None and at <= self._now():
            self.quic.handle_timer(now=self._now())
        self.flush()

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.quic.send_stream_data(stream, data, end)
        self.flush()

    def say_hello(self) -> None:
        """What a client's session says first, on the stream of channel 0."""
        payload = introduce(DEFAULT_SETTINGS, first_windows(DEFAULT_SETTINGS, None), None)
        self.send(0, packet(0, 0, Kind.HELLO, payload))

    @property
    def is_connected(self) -> bool:
        return any(isinstance(event, HandshakeCompleted) for event in self.events)

    @property
    def closed_by(self) -> ConnectionTerminated | None:
        """How the server closed the connection."""
        return self.quic._close_event

    def received(self, stream: int) -> bytes:
        """What came on a stream."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, StreamDataReceived) and event.stream_id == stream
        )


def packet(seq: int, channel: int, kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """An encoded session packet."""
    return encode_head(seq, channel, kind, flags, 0, len(payload)) + payload


class QuicTestCase(UdpTestCase):
    """With assertions about what is left."""

    def assert_no_state(self, pair: QuicPair) -> None:
        """The server keeps nothing of anybody."""
        assert pair.server_protocol.quic is not None
        self.assertEqual(pair.server_protocol.quic.links, [])
        self.assertEqual(pair.server_factory._tickets, {})

    def assert_nothing_left(self, pair: DatagramPair, seconds: float = 11.0) -> None:
        super().assert_nothing_left(pair, seconds)
        for protocol in (pair.client_protocol, pair.server_protocol):
            quic = protocol.quic
            if quic is not None:
                self.assertEqual((quic._by_id, quic._ids, quic._admitted), ({}, {}, {}))
