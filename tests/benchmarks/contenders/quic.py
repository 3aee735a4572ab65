"""JetStreamProto over QUIC: the tasks and sessions of `jetstream`, on aioquic's core.

`quic` has the datagrams of loopback, `quic-1472` those of an Ethernet path.
"""

from __future__ import annotations

from typing import Any

from jetstreamproto.client import connect_quic
from jetstreamproto.datagram import listen_udp
from jetstreamproto.session.session import Session
from tests.benchmarks.blocks import bulk_figures
from tests.benchmarks.contenders import jetstream
from tests.benchmarks.contenders.udp import settings
from tests.benchmarks.job import Job

VARIANTS = ("quic", "quic-1472")

_HOST = "127.0.0.1"


async def listen(reactor: Any, job: Job) -> int:
    factory = jetstream.server(job)
    port = listen_udp(reactor, 0, factory, interface=_HOST, settings=settings(job), quic=True)
    number: int = port.getHost().port  # type: ignore[attr-defined]
    return number


async def connect(reactor: Any, job: Job) -> Session:
    factory = jetstream.client(job)
    return await connect_quic(reactor, _HOST, job.port, factory, settings=settings(job))


async def bulk(reactor: Any, job: Job) -> dict[str, float]:
    return bulk_figures(*await jetstream.send_blocks(await connect(reactor, job), job))


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    return await jetstream.call(await connect(reactor, job), job)
