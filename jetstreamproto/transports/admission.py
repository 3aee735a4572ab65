"""Admission: how many connections a server lets in, in all and from one address.

A connection is half open until its peer has proved that it holds the keys. Half-open ones are
cheap to make and expensive to keep, so they have caps of their own.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from jetstreamproto.errors import ConfigurationError


@dataclass(frozen=True)
class AdmissionLimits:
    """Caps on connections at a time. An IPv6 /64 counts as one address."""

    sessions: int = 20_000
    sessions_per_address: int = 20_000
    half_open: int = 1024
    half_open_per_address: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigurationError(f"{name} must be positive")


class Ticket:
    """One admitted connection."""

    __slots__ = ("half_open", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.half_open = True


class Admission:
    """Counts a server's connections against its limits."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self.limits = limits
        self.refused = 0
        self._open = 0
        self._half_open = 0
        self._open_from: Counter[str] = Counter()
        self._half_open_from: Counter[str] = Counter()

    def admit(self, host: str) -> Ticket | None:
        """A ticket for a new connection from `host`, or None when it must be turned away."""
        source = _source(host)
        limits = self.limits
        if (
            self._open >= limits.sessions
            or self._half_open >= limits.half_open
            or self._open_from[source] >= limits.sessions_per_address
            or self._half_open_from[source] >= limits.half_open_per_address
        ):
            self.refused += 1
            return None
        self._open += 1
        self._half_open += 1
        self._open_from[source] += 1
        self._half_open_from[source] += 1
        return Ticket(source)

    def established(self, ticket: Ticket) -> None:
        """The peer of `ticket` has proved itself."""
        if ticket.half_open:
            ticket.half_open = False
            self._half_open -= 1
            _decrease(self._half_open_from, ticket.source)

    def release(self, ticket: Ticket) -> None:
        """The connection of `ticket` is gone."""
        self.established(ticket)
        self._open -= 1
        _decrease(self._open_from, ticket.source)


def _decrease(counter: Counter[str], source: str) -> None:
    counter[source] -= 1
    if not counter[source]:
        del counter[source]


@lru_cache(maxsize=1024)
def _source(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return host  # not an IP address: a UNIX socket, or a test's
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
