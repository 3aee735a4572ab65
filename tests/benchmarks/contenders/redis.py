"""redis-server, driven by redis-py with its C parser (hiredis): plain TCP, no encryption.

`redis` is the configuration of the distribution, which does not wait for the disk; `redis-always`
appends every write to a file and waits for it (appendfsync always), as ours does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import redis.asyncio
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.benchmarks.job import Job
from tests.benchmarks.operations import KEYS, VALUE, Operations, key_of
from tests.ports import free_port

_FOLDER = tempfile.TemporaryDirectory(prefix="redis-benchmark-")


async def listen(reactor: Any, job: Job) -> int:
    port = free_port()
    always = ["--appendonly", "yes", "--appendfsync", "always"] if job.variant else []
    server = subprocess.Popen(
        [
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            _FOLDER.name,
            *always,
        ],
        stdout=subprocess.DEVNULL,
    )
    reactor.addSystemEventTrigger("after", "shutdown", _stop, server)
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return int(port)
        await deferLater(reactor, 0.05)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()


async def kv_get(_reactor: Any, job: Job) -> dict[str, float]:
    return await deferToThread(_run, job, "get")


async def kv_set(_reactor: Any, job: Job) -> dict[str, float]:
    return await deferToThread(_run, job, "set")


def _run(job: Job, operation: str) -> dict[str, float]:
    """One client is the blocking one, which is quicker; more of them are asyncio's.

    Several operations under way on one connection are pipelines of so many.
    """
    with redis.Redis(port=job.port) as first:
        first.mset({key_of(number): VALUE for number in range(KEYS)})
        operations = Operations(job)
        if job.sessions > 1:
            asyncio.run(_many(job, operations, operation))
        elif job.concurrency > 1:
            _pipelines(first, job.concurrency, operations, operation)
        else:
            _one(_bound(first, operation), operations)
    return operations.figures()


def _bound(connection: Any, operation: str) -> Callable[[str], Any]:
    if operation == "get":
        return connection.get  # type: ignore[no-any-return]
    return lambda key: connection.set(key, VALUE)


def _one(call: Callable[[str], Any], operations: Operations) -> None:
    while operations.more():
        call(operations.key())
        operations.done()


def _pipelines(connection: Any, size: int, operations: Operations, operation: str) -> None:
    while operations.more():
        pipeline = connection.pipeline(transaction=False)
        call = _bound(pipeline, operation)
        for _ in range(size):
            call(operations.key())
        pipeline.execute()
        operations.done(size)


async def _many(job: Job, operations: Operations, operation: str) -> None:
    async def client() -> None:
        async with redis.asyncio.Redis(port=job.port, single_connection_client=True) as connection:
            call = _bound(connection, operation)
            while operations.more():
                await call(operations.key())
                operations.done()

    await asyncio.gather(*(client() for _ in range(job.sessions)))
