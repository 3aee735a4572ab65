"""JetStreamProto's key-value: encrypted sessions, the store on disk, acknowledged once it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
from jetstreamproto.services.kv.service import KeyValueOffer
from tests.benchmarks.contenders.jetstream import SETTINGS, client, connect
from tests.benchmarks.job import Job
from tests.benchmarks.operations import KEYS, VALUE, Operations, key_of

_FOLDER = tempfile.TemporaryDirectory(prefix="kv-benchmark-")


async def listen(reactor: Any, job: Job) -> int:
    offer = KeyValueOffer(Path(_FOLDER.name))
    offer.start(reactor)
    factory = JetStreamServerFactory(
        Identity.from_files(Path(job.certificate)), offer.services, settings=SETTINGS
    )
    port: int = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    return port


async def kv_get(reactor: Any, job: Job) -> dict[str, float]:
    return await _run(reactor, job, lambda bucket, key: bucket.get(key))


async def kv_set(reactor: Any, job: Job) -> dict[str, float]:
    return await _run(reactor, job, lambda bucket, key: bucket.set(key, VALUE))


async def _run(
    reactor: Any, job: Job, operation: Callable[[KeyBucket, str], Deferred[Any]]
) -> dict[str, float]:
    """`job.sessions` clients with `job.concurrency` operations under way in all."""
    factory = client(job)
    buckets = []
    for number in range(job.sessions):
        session = await connect(reactor, job, factory, number)
        buckets.append(KeyValueClient(session, clock=reactor).bucket("benchmark"))
    for start in range(0, KEYS, 500):
        batch = buckets[0].batch()
        for number in range(start, start + 500):
            batch.set(key_of(number), VALUE)
        await batch.send()
    operations = Operations(job)
    callers = [
        _call(buckets[number % job.sessions], operations, operation)
        for number in range(job.concurrency)
    ]
    waiting = [Deferred.fromCoroutine(caller) for caller in callers]
    for one in waiting:
        await one
    return operations.figures()


async def _call(
    bucket: KeyBucket, operations: Operations, operation: Callable[[KeyBucket, str], Deferred[Any]]
) -> None:
    while operations.more():
        await operation(bucket, operations.key())
        operations.done()
