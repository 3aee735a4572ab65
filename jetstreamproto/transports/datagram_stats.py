"""The figures of a connection over datagrams."""

from __future__ import annotations

from dataclasses import dataclass

from jetstreamproto.reliability.connection import Connection
from jetstreamproto.transports.link import LinkStats


@dataclass(slots=True)
class DatagramStats(LinkStats):
    """`session_id` is what the peer's datagrams are addressed to, in hexadecimal.

    Bytes are of UDP payload, times milliseconds, rates bytes per second.

    `packets_lost` counts what congestion control was told, whether FEC repaired it or not:
    `fec_repaired` is how many of our packets the peer restored, `fec_recovered` how many of its
    packets we did, each of which spared a round trip. `spurious` were given up but came late.
    """

    datagrams_sent: int = 0
    session_id: str = ""
    packets_received: int = 0
    packets_lost: int = 0
    spurious: int = 0
    retransmitted_bytes: int = 0
    repair_bytes: int = 0
    fec_repaired: int = 0
    fec_recovered: int = 0
    forged: int = 0
    rebindings: int = 0
    rtt_ms: float = 0.0
    least_rtt_ms: float = 0.0
    mtu: int = 0
    window: int = 0
    in_flight: int = 0
    pacing_rate: float = 0.0
    congestion: str = ""
    phase: str = ""


def connection_stats(stats: DatagramStats, connection: Connection) -> None:
    """Fill in what `connection` knows."""
    sender = connection.sender
    log, congestion, rtt = sender.log, sender.congestion, sender.rtt
    stats.packets_received = connection.packets_received
    stats.packets_lost = log.packets_lost
    stats.spurious = log.spurious
    stats.retransmitted_bytes = sender.outgoing.resent_bytes
    stats.repair_bytes = sender.outgoing.repair_bytes
    stats.fec_repaired = sender.protector.repaired
    stats.fec_recovered = connection.restorer.restored
    stats.forged = connection.forged
    stats.rebindings = connection.rebindings
    if rtt.known:
        stats.rtt_ms = round(rtt.smoothed * 1e3, 3)
        stats.least_rtt_ms = round(rtt.least * 1e3, 3)
    stats.mtu = sender.mtu.size
    stats.window = congestion.window
    stats.in_flight = log.in_flight
    rate = congestion.pacing_rate
    stats.pacing_rate = 0.0 if rate == float("inf") else round(rate)
    stats.congestion = connection.settings.congestion
    stats.phase = congestion.phase
