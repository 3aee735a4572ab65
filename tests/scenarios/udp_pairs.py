"""What the scenarios over UDP share: pairs on a simulated network, transfers, and their ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import JetStreamError
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.testing import DatagramPair, LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, SERVER, SERVER_PORT
from jetstreamproto.testing.simnet import Datagram
from tests.doubles import IDENTITY, QuickClock, Registry

Address = tuple[str, int]

SERVER_AT = (SERVER, SERVER_PORT)
STRANGER = "198.51.100.7"
WAN = LinkOptions(delay=0.025, rate=100e6)
"""A path of 50 ms and 100 Mbit/s."""

_buffer = memoryview(bytearray(65507))


class UdpPair(DatagramPair):
    """With the services "echo" and "sink", whose protocols are kept in `sinks`."""

    def __init__(self, services: dict[str, Any] | None = None, **options: Any) -> None:
        self.sinks = Registry()
        options.setdefault("clock", QuickClock())
        offered: dict[str, Any] = {"echo": Echo, "sink": self.sinks}
        super().__init__(offered | (services or {}), identity=IDENTITY, **options)

    def open(self, service: str, **options: Any) -> Inbox:
        """A channel of the client's."""
        return self.run(self.client.open(service, Inbox(), **options))

    def transfer(self, data: bytes, piece: int = 60_000) -> bytes:
        """Send `data` to the server; what came there."""
        inbox = self.start_transfer(data, piece)
        self.run(inbox.channel.when_closed())
        return self.received

    def start_transfer(self, data: bytes, piece: int = 60_000) -> Inbox:
        inbox = self.open("sink")
        for start in range(0, len(data), piece):
            inbox.channel.send(data[start : start + piece])
        inbox.channel.end()
        return inbox

    @property
    def received(self) -> bytes:
        """What the server has received on its last "sink" channel."""
        received: list[bytes] = self.sinks.made[-1].messages
        return b"".join(received)

    def ask(self, message: bytes) -> bytes:
        """Its echo."""
        inbox = self.open("echo")
        inbox.channel.send(message)
        answer = self.run(inbox.get())
        inbox.channel.end()
        return answer

    def close(self) -> tuple[JetStreamError | None, JetStreamError | None]:
        """How the client's and the server's session ended when the client has closed it."""
        self.client.close()
        return self.closed()

    def closed(self) -> tuple[JetStreamError | None, JetStreamError | None]:
        self.run(self.client.when_closed())
        self.run(self.server.when_closed())
        return self.client.close_reason, self.server.close_reason

    def inject(self, plaintext: bytes) -> None:
        """Have the client send the server a packet with this content, under the genuine keys."""
        connection = self.client_link.connection
        assert connection is not None
        end = connection._sealer.seal(plaintext, _buffer, 0)
        self.client_port.write(bytes(_buffer[:end]), SERVER_AT)

    def connection(self, side: str) -> Any:
        """The connection of the side "client" or "server"."""
        return (self.client_link if side == "client" else self.server_link).connection

    def deliver(self, datagram: bytes, source: Address, side: str = "server") -> None:
        """Hand one side a datagram as if it came from `source`."""
        port = self.server_port if side == "server" else self.client_port
        port.receive(datagram, source)
        if port.batches:
            port.end_batch()


@contextmanager
def recorded(pair: DatagramPair) -> Iterator[list[Datagram]]:
    """Everything that is sent meanwhile."""
    seen: list[Datagram] = []

    def tap(datagram: Datagram) -> bool:
        seen.append(datagram)
        return True

    pair.net.tap = tap
    try:
        yield seen
    finally:
        pair.net.tap = None


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """A list that gets what the deferred fires with."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


class UdpTestCase(SynchronousTestCase):
    """With assertions about what is left."""

    @contextmanager
    def subTest(self, msg: object = None, **params: Any) -> Iterator[None]:
        """As of `unittest`, also where the runner does not know it: failures say which it was."""
        what = ", ".join([*([str(msg)] if msg else []), *(f"{k}={v}" for k, v in params.items())])
        try:
            yield
        except Exception as error:
            raise self.failureException(f"at {what}: {error!r}") from error

    def assert_nothing_left(self, pair: DatagramPair, seconds: float = 11.0) -> None:
        """After the sessions have ended: no links, timers, sessions or places at the server."""
        pair.advance(seconds)
        self.assertEqual(pair.client_protocol.links + pair.server_protocol.links, [])
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        self.assertFalse(pair.client_factory.sessions | pair.server_factory.sessions)
        self.assertEqual(pair.server_factory._tickets, {})
        for protocol in (pair.client_protocol, pair.server_protocol):
            self.assertEqual((protocol._admitted, protocol._touched), ({}, {}))

    def assert_closes(self, pair: UdpPair) -> None:
        self.assertEqual(pair.close(), (None, None))
        self.assert_nothing_left(pair)


def settings(**options: Any) -> DatagramSettings:
    return DatagramSettings(**options)


__all__ = [
    "CLIENT",
    "SERVER",
    "SERVER_AT",
    "STRANGER",
    "WAN",
    "UdpPair",
    "UdpTestCase",
    "outcome",
    "recorded",
    "settings",
]
