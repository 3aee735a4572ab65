"""QUIC clients of others against our server, over loopback: aioquic's own, and qh3's."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import unittest
from collections.abc import Sequence
from typing import Any

import pytest

from jetstreamproto.security.handshake import ALPN
from jetstreamproto.security.identity import fingerprint
from jetstreamproto.session.hello import first_windows, introduce, meet
from jetstreamproto.session.settings import DEFAULT_SETTINGS
from jetstreamproto.wire.packet import Kind, PacketParts, encode_head, split_packets
from jetstreamproto.wire.session_messages import OPEN, Open
from tests.loopback.command import Server, keep_server

_TIMEOUT = 10.0


def packet(seq: int, channel: int, kind: int, payload: bytes = b"") -> bytes:
    return encode_head(seq, channel, kind, 0, 0, len(payload)) + payload


class _Streams:
    """What a client has received on each stream, and a way to wait for more."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.more = asyncio.Event()

    def received(self, event: Any) -> None:
        if type(event).__name__ == "StreamDataReceived":
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            self.more.set()

    async def packets(self, stream: int, count: int) -> Sequence[PacketParts]:
        """The first `count` packets of a stream."""
        while True:
            parts = split_whole(self.data.get(stream, b""))
            if len(parts) >= count:
                return parts
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), _TIMEOUT)


def split_whole(data: bytes) -> Sequence[PacketParts]:
    end = 0
    while len(data) - end >= 4:
        size = 4 + int.from_bytes(data[end : end + 4], "little")
        if end + size > len(data):
            break
        end += size
    return split_packets(data[:end])


async def exchange(library: str, server: Server) -> tuple[Any, Any, str]:
    """The server's HELLO, what its echo service answered, and the key that it showed."""
    connect = importlib.import_module(f"{library}.asyncio").connect
    protocol_class = importlib.import_module(f"{library}.asyncio.protocol").QuicConnectionProtocol
    configuration_class = importlib.import_module(f"{library}.quic.configuration").QuicConfiguration
    configuration = configuration_class(
        is_client=True, alpn_protocols=[ALPN.decode()], verify_mode=ssl.CERT_NONE
    )
    streams = _Streams()

    class Client(protocol_class):  # type: ignore[misc, valid-type]
        def quic_event_received(self, event: Any) -> None:
            streams.received(event)

    host, port = server.address.rsplit(":", 1)
    connecting = connect(host, int(port), configuration=configuration, create_protocol=Client)
    async with connecting as client:
        quic = client._quic
        hello = introduce(DEFAULT_SETTINGS, first_windows(DEFAULT_SETTINGS, None), None)
        quic.send_stream_data(0, packet(0, 0, Kind.HELLO, hello))
        client.transmit()
        answer = (await streams.packets(0, 1))[0]
        if answer[2] != Kind.HELLO:
            raise AssertionError(f"{answer} is no HELLO")
        quic.send_stream_data(4, packet(0, 1, Kind.OPEN, OPEN.encode(Open("echo"))))
        quic.send_stream_data(4, packet(0, 1, Kind.DATA, b"from another world"))
        client.transmit()
        accept, echo = (await streams.packets(4, 2))[:2]
        if (accept[2], echo[2]) != (Kind.ACCEPT, Kind.DATA):
            raise AssertionError(f"{accept}, {echo}")
        return meet(answer[5]), bytes(echo[5]), shown_by(quic)


def shown_by(quic: Any) -> str:
    """The fingerprint of the server's certificate, where the library lets us see it."""
    certificate = getattr(quic.tls, "_peer_certificate", None)
    try:
        return fingerprint(certificate)  # type: ignore[arg-type]
    except (AttributeError, TypeError):
        return ""


@pytest.mark.live
class QuicClientTests(unittest.TestCase):
    def run_with(self, library: str) -> str:
        try:
            importlib.import_module(library)
        except ImportError:
            self.skipTest(f"{library} is not installed")
        server = keep_server(Server(udp=True))
        hello, echo, shown = asyncio.run(exchange(library, server))
        self.assertEqual(hello.version, 1)
        self.assertEqual(echo, b"from another world")
        if shown:
            self.assertEqual(shown, server.fingerprint)
        return shown

    def test_aioquic(self) -> None:
        self.assertTrue(self.run_with("aioquic"))

    def test_qh3(self) -> None:
        self.run_with("qh3")
