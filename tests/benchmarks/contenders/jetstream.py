"""JetStreamProto itself: encrypted, the server's key pinned, compression off."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.transports.admission import AdmissionLimits
from tests.benchmarks.blocks import BlockSource, bulk_figures
from tests.benchmarks.certificate import HOST
from tests.benchmarks.job import Job
from tests.benchmarks.round_trips import RoundTrips
from tests.benchmarks.source_address import source_address
from tests.benchmarks.window import Window

SETTINGS = SessionSettings(
    compression=None, handshake_timeout=60.0, heartbeat=600.0, idle_timeout=1800.0
)
_MANY = 1_000_000
_ADMISSION = AdmissionLimits(
    sessions=_MANY, sessions_per_address=_MANY, half_open=_MANY, half_open_per_address=_MANY
)


def server(job: Job) -> JetStreamServerFactory:
    return JetStreamServerFactory(
        Identity.from_files(Path(job.certificate)),
        {ECHO: Echo, DISCARD: Discard},
        settings=SETTINGS,
        admission=_ADMISSION,
    )


def client(job: Job) -> JetStreamClientFactory:
    """The factory of all sessions of a client process."""
    identity = Identity.from_files(Path(job.certificate))
    return JetStreamClientFactory(PinnedKeys([identity.fingerprint]), host=HOST, settings=SETTINGS)


async def connect(
    reactor: Any, job: Job, factory: JetStreamClientFactory, number: int = 0
) -> Session:
    """Connection `number` of this process."""
    source = source_address(number)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", job.port, bindAddress=source)
    protocol = await endpoint.connect(factory)
    return await protocol.when_connected()


async def bulk(reactor: Any, job: Job) -> dict[str, float]:
    return bulk_figures(*await send_blocks(await connect(reactor, job, client(job)), job))


async def send_blocks(session: Session, job: Job) -> tuple[int, dict[str, float]]:
    """Send blocks for a while: the bytes that were confirmed, and what the window measured."""
    inbox = await session.open(DISCARD, Inbox())
    channel = inbox.channel

    def finish() -> None:
        channel.unregisterProducer()
        channel.end()

    window = Window(job.server_pid)
    window.start()
    source = BlockSource(channel.send, finish, job.seconds)
    channel.registerProducer(source, True)
    source.resumeProducing()
    received = int.from_bytes(await inbox.get(), "big")
    measured = window.stop()
    if received != source.sent:
        raise AssertionError(f"sent {source.sent} bytes, {received} arrived")
    return received, measured


class _Caller(ChannelProtocol):
    trips: RoundTrips

    def message_received(self, message: bytes) -> None:
        self.trips.answered(message)


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    return await call(await connect(reactor, job, client(job)), job)


async def call(session: Session, job: Job) -> dict[str, float]:
    """Call the echo service for a while: what the round trips took."""
    caller = await session.open(ECHO, _Caller())
    caller.trips = RoundTrips(caller.channel.send, job.concurrency, job.seconds, job.server_pid)
    return await caller.trips.run()


class Sessions:
    """Opens sessions for the session benchmark, one factory for all of them."""

    def __init__(self, reactor: Any, job: Job) -> None:
        self._reactor = reactor
        self._job = job
        self._factory = client(job)
        self._numbers = count()

    async def open(self) -> Session:
        """A session whose peer has answered under the new keys."""
        return await connect(self._reactor, self._job, self._factory, next(self._numbers))

    async def idle(self) -> Session:
        """A session without channels, whose server has answered a ping."""
        session = await self.open()
        await session.ping()
        return session

    async def first_byte(self, session: Session) -> None:
        """Have one byte echoed by a service."""
        inbox = Inbox()
        opening = session.open(ECHO, inbox)
        inbox.channel.send(b"1")  # it need not wait for the channel to be accepted
        inbox.channel.end()
        await opening
        await inbox.get()

    def close(self, session: Session) -> Deferred[None]:
        """End it cleanly; fires when the connection is gone."""
        return session.close()
