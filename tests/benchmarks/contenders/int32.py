"""Echo over Int32StringReceiver on plain TCP: what a round trip costs with nothing but a length."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver

from tests.benchmarks.job import Job
from tests.benchmarks.round_trips import RoundTrips


class _Server(Int32StringReceiver):
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:
        self.sendString(string)


class _Client(Int32StringReceiver):
    trips: RoundTrips

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def stringReceived(self, string: bytes) -> None:
        self.trips.answered(string)


def server(job: Job) -> Factory:
    return Factory.forProtocol(_Server)


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", job.port)
    line: Any = await endpoint.connect(Factory.forProtocol(_Client))
    line.trips = RoundTrips(line.sendString, job.concurrency, job.seconds, job.server_pid)
    return await line.trips.run()
