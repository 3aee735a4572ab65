"""Twisted AMP on plain TCP: one command that echoes a bytes argument."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.amp import AMP, Command, String

from tests.benchmarks.job import Job
from tests.benchmarks.round_trips import RoundTrips


class _EchoCommand(Command):
    arguments = [(b"data", String())]  # noqa: RUF012 (AMP's own way to declare them)
    response = [(b"data", String())]  # noqa: RUF012


class _Peer(AMP):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.setTcpNoDelay(True)

    @_EchoCommand.responder
    def echo(self, data: bytes) -> dict[str, bytes]:
        return {"data": data}


def server(job: Job) -> Factory:
    return Factory.forProtocol(_Peer)


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", job.port)
    peer: Any = await endpoint.connect(Factory.forProtocol(_Peer))

    def call(data: bytes) -> None:
        answer = peer.callRemote(_EchoCommand, data=data)
        answer.addCallback(lambda response: trips.answered(response["data"]))

    trips = RoundTrips(call, job.concurrency, job.seconds, job.server_pid)
    return await trips.run()
