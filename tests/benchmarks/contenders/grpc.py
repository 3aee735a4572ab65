"""grpcio's asyncio API, without encryption: one method that returns its bytes.

Twisted runs on asyncio's event loop here, which grpcio wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from grpc import aio, method_handlers_generic_handler, unary_unary_rpc_method_handler
from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from tests.benchmarks.job import Job
from tests.benchmarks.round_trips import RoundTrips

install_reactor = asyncioreactor.install


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def listen(reactor: Any, job: Job) -> int:
    async def start() -> int:
        server = aio.server()
        handler = unary_unary_rpc_method_handler(_echo)
        server.add_generic_rpc_handlers(
            (method_handlers_generic_handler("bench.Echo", {"echo": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        _kept.append(server)
        return port

    return await _in_asyncio(start())


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    channel = aio.insecure_channel(f"127.0.0.1:{job.port}")
    method = channel.unary_unary("/bench.Echo/echo")

    async def one(data: bytes) -> None:
        trips.answered(await method(data))

    def call(data: bytes) -> None:
        task = asyncio.ensure_future(one(data))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    trips = RoundTrips(call, job.concurrency, job.seconds, job.server_pid)
    return await trips.run()


_kept: list[Any] = []
_tasks: set[Any] = set()


def _in_asyncio(work: Awaitable[int]) -> Deferred[int]:
    return Deferred.fromFuture(asyncio.ensure_future(work))
