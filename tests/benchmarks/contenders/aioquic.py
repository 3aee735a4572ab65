"""aioquic's own asyncio server and client: one QUIC stream, the certificate verified.

An optional peer, since the package is no dependency of ours. Its protocols run on the event loop
itself; Twisted is there only for the line to the parent. aioquic buffers whatever it is given, so
the server confirms what has come, and at most `_AHEAD` bytes are unconfirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.main import installReactor

from tests.benchmarks.blocks import BlockSource, bulk_figures
from tests.benchmarks.certificate import HOST
from tests.benchmarks.job import Job
from tests.benchmarks.window import Window

T = TypeVar("T")

_ALPN = ["benchmark"]
_DATAGRAM = 1472  # its default is 1200
_WINDOW = 1 << 24
_AHEAD = 1 << 22
_CONFIRMED = 1 << 18  # bytes between two confirmations
_COUNT_SIZE = 8


def install_reactor() -> None:
    """Twisted on asyncio's event loop, where aioquic is at home."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    installReactor(AsyncioSelectorReactor(loop))


class _Sink(QuicConnectionProtocol):
    """Counts what comes, and answers the count now and then and at the end."""

    _received = 0
    _confirmed = 0

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived):
            return
        self._received += len(event.data)
        if event.end_stream or self._received - self._confirmed >= _CONFIRMED:
            self._confirmed = self._received
            count = self._received.to_bytes(_COUNT_SIZE, "big")
            self._quic.send_stream_data(event.stream_id, count, event.end_stream)


class _Sender(QuicConnectionProtocol):
    """Sends the blocks of a source, and keeps it within `_AHEAD`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answer = bytearray()
        self._stream = self._quic.get_next_available_stream_id()
        self._source: BlockSource | None = None
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def send_blocks(self, seconds: float) -> int:
        """The bytes that the peer has confirmed in the end."""
        self._source = BlockSource(self._send, self._finish, seconds)
        self._source.resumeProducing()
        self.transmit()
        received = await self._done
        if received != self._source.sent:
            raise AssertionError(f"sent {self._source.sent} bytes, {received} arrived")
        return received

    def _send(self, block: bytes) -> None:
        assert self._source is not None
        self._quic.send_stream_data(self._stream, block)
        if self._source.sent - self._confirmed >= _AHEAD:
            self._source.pauseProducing()

    def _finish(self) -> None:
        self._quic.send_stream_data(self._stream, b"", end_stream=True)

    @property
    def _confirmed(self) -> int:
        return int.from_bytes(self._answer[-_COUNT_SIZE:], "big")

    def quic_event_received(self, event: QuicEvent) -> None:
        if not isinstance(event, StreamDataReceived) or self._source is None:
            return
        self._answer += event.data
        if event.end_stream:
            self._done.set_result(self._confirmed)
        elif len(self._answer) % _COUNT_SIZE == 0:
            del self._answer[:-_COUNT_SIZE]
            if self._source.sent - self._confirmed < _AHEAD:
                self._source.resumeProducing()  # its caller transmits


async def listen(_reactor: Any, job: Job) -> int:
    settings = QuicConfiguration(
        is_client=False,
        alpn_protocols=_ALPN,
        max_datagram_size=_DATAGRAM,
        max_data=_WINDOW,
        max_stream_data=_WINDOW,
    )
    settings.load_cert_chain(job.certificate, job.certificate)

    async def bind() -> int:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: QuicServer(configuration=settings, create_protocol=_Sink),
            local_addr=("127.0.0.1", 0),
        )
        port: int = transport.get_extra_info("sockname")[1]
        return port

    return await _on_loop(bind())


async def bulk(_reactor: Any, job: Job) -> dict[str, float]:
    settings = QuicConfiguration(
        alpn_protocols=_ALPN, server_name=HOST, max_datagram_size=_DATAGRAM
    )
    settings.load_verify_locations(job.certificate)

    async def run() -> dict[str, float]:
        async with connect(
            "127.0.0.1", job.port, configuration=settings, create_protocol=_Sender
        ) as sender:
            assert isinstance(sender, _Sender)
            window = Window(job.server_pid)
            window.start()
            received = await sender.send_blocks(job.seconds)
            return bulk_figures(received, window.stop())

    return await _on_loop(run())


def _on_loop(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Twisted's view of a coroutine that awaits asyncio's futures."""
    return Deferred.fromFuture(asyncio.ensure_future(work))
