"""What one side of a connection over datagrams may use, and how it behaves."""

from __future__ import annotations

from dataclasses import dataclass

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.congestion.choice import check_congestion
from jetstreamproto.reliability.fec.settings import FecSettings

MIN_DATAGRAM = 1200
"""Bytes of UDP payload that every path must carry (RFC 9000 section 14)."""
MAX_DATAGRAM = 65507
"""The largest UDP payload over IPv4."""


@dataclass(frozen=True)
class DatagramSettings:
    """Sizes in bytes, times in seconds. All connections of an endpoint share one of these.

    - `congestion`: "bbr", "cubic" or "newreno".
    - `fec`: "adaptive" (where a channel has a deadline that a retransmission would miss), "off",
      or "K+R" for R repair packets after every K packets, whatever they carry.
    - `mtu`: UDP payload of a datagram, or 0 to discover the path's (RFC 8899), up to `max_mtu`.
    - `send_window`: bytes that may be under way and unacknowledged, whatever congestion control
      would allow; `receive_window`: bytes accepted beyond what was delivered in order.
    - `tick`: the shortest time between two timers; packets that are due within it go together.
    - `heartbeat`: quiet time after which the peer is probed, which also keeps NATs open;
      `idle_timeout`: quiet time after which it counts as gone.
    - `max_ack_delay`: how long an acknowledgement may wait for company.
    - `key_packets`: packets sealed under one key before the next (RFC 9001 section 6.6 allows
      2^23); `max_forged`: packets that do not open before the connection is given up.
    - `status_interval`: how often each connection's figures are logged; 0 for never.
    - `gso`: whether bursts are handed to the kernel in one piece, where it can cut them.
    """

    congestion: str = "bbr"
    fec: str = "adaptive"
    mtu: int = 0
    max_mtu: int = MAX_DATAGRAM
    send_window: int = 64 << 20
    receive_window: int = 32 << 20
    tick: float = 0.001
    heartbeat: float = 15.0
    idle_timeout: float = 45.0
    max_ack_delay: float = 0.025
    key_packets: int = 1 << 22
    max_forged: int = 1 << 36
    status_interval: float = 0.0
    gso: bool = True

    def __post_init__(self) -> None:
        check_congestion(self.congestion)
        FecSettings.parse(self.fec)
        if self.mtu and not MIN_DATAGRAM <= self.mtu <= MAX_DATAGRAM:
            raise ConfigurationError(f"mtu must be 0 or {MIN_DATAGRAM} to {MAX_DATAGRAM} bytes")
        if not MIN_DATAGRAM <= self.max_mtu <= MAX_DATAGRAM:
            raise ConfigurationError(f"max_mtu must be {MIN_DATAGRAM} to {MAX_DATAGRAM} bytes")
        for name in ("send_window", "receive_window"):
            if getattr(self, name) < 1 << 18:
                raise ConfigurationError(f"{name} must be at least {1 << 18} bytes")
        for name in ("tick", "heartbeat", "max_ack_delay"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be positive")
        if self.idle_timeout <= self.heartbeat:
            raise ConfigurationError("idle_timeout must be longer than heartbeat")
        if not 16 <= self.key_packets <= 1 << 23:
            raise ConfigurationError("key_packets must be 16 to 2**23")
        if not 1 <= self.max_forged <= 1 << 52:
            raise ConfigurationError("max_forged must be 1 to 2**52")
        if self.status_interval < 0:
            raise ConfigurationError("status_interval must not be negative")


DEFAULT_DATAGRAM_SETTINGS = DatagramSettings()
