"""JetStreamProto's calls: encrypted, one method that returns its argument of bytes."""

from __future__ import annotations

from typing import Any

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.services.rpc.signatures import rpc_method, rpc_service
from tests.benchmarks.contenders import jetstream
from tests.benchmarks.job import Job
from tests.benchmarks.round_trips import RoundTrips


@rpc_service("bench.Echo")
class _Echo:
    @rpc_method(idempotent=True)
    def echo(self, data: bytes) -> bytes:
        return data


def server(job: Job) -> JetStreamServerFactory:
    factory = jetstream.server(job)
    factory.services.update(RpcServer([_Echo()]).services)
    return factory


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    session = await jetstream.connect(reactor, job, jetstream.client(job))
    method = "bench.Echo#echo"
    client = RpcClient(session)

    def call(data: bytes) -> None:
        client.call(method, data).addCallback(trips.answered)

    trips = RoundTrips(call, job.concurrency, job.seconds, job.server_pid)
    return await trips.run()
