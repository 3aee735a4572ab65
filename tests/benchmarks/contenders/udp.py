"""JetStreamProto over UDP: the tasks, sessions and settings of `jetstream`, on datagrams.

`udp` finds out how large datagrams may be, which on loopback is 64 KiB; `udp-1472` sends those of
an Ethernet path. FEC is off unless the variant says `fec`, and then protects everything (10+2).
"""

from __future__ import annotations

from typing import Any

from jetstreamproto.client import connect_udp
from jetstreamproto.datagram import listen_udp
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.session.session import Session
from tests.benchmarks.blocks import bulk_figures
from tests.benchmarks.contenders import jetstream
from tests.benchmarks.job import Job

VARIANTS = ("udp", "udp-1472", "udp-fec", "udp-fec-1472")

_HOST = "127.0.0.1"
_FEC = "10+2"


def settings(job: Job) -> DatagramSettings:
    """What the words of the variant ask for: `fec`, and bytes in a datagram."""
    sizes = [int(word) for word in job.variant if word.isdigit()]
    fec = _FEC if "fec" in job.variant else "off"
    return DatagramSettings(fec=fec, mtu=sizes[0] if sizes else 0, idle_timeout=600.0)


async def listen(reactor: Any, job: Job) -> int:
    port = listen_udp(reactor, 0, jetstream.server(job), interface=_HOST, settings=settings(job))
    number: int = port.getHost().port  # type: ignore[attr-defined]
    return number


async def connect(reactor: Any, job: Job) -> Session:
    factory = jetstream.client(job)
    return await connect_udp(reactor, _HOST, job.port, factory, settings=settings(job))


async def bulk(reactor: Any, job: Job) -> dict[str, float]:
    session = await connect(reactor, job)
    received, measured = await jetstream.send_blocks(session, job)
    packets = session.link.stats.datagrams_sent  # type: ignore[attr-defined]
    return {
        **bulk_figures(received, measured),
        "packets": packets,
        "sender_us_per_packet": 1e6 * measured["client_cpu"] / packets,
        "receiver_us_per_packet": 1e6 * measured["server_cpu"] / packets,
    }


async def rpc(reactor: Any, job: Job) -> dict[str, float]:
    return await jetstream.call(await connect(reactor, job), job)
