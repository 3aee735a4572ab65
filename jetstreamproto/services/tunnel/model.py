"""What a tunnel may reach: patterns of targets, and the rule by which they are applied.

A target is asked for by name or by IP address.

- An address has to be covered by a pattern of addresses (`10.0.0.0/8:*`) or by one for any host
  (`*:443`).
- A name that a pattern of names covers (`*.example.org:443`) may be connected to wherever it
  leads: who writes such a pattern trusts those who run the domain.
- Any other name is looked up, and may be connected to only at those of its addresses that would
  be allowed if they had been asked for themselves.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

TUNNEL = "tunnel"
"""The name of the service, on both sides."""
TARGETS, LISTEN = "targets", "listen"
"""Its scopes: what clients may connect to, and where they may have the server listen."""

MAX_NAME = 253
"""The longest host name (RFC 1035 section 2.3.4)."""

_ANY = "*"
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_MOST_PORT = 65535

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class TunnelCode(IntEnum):
    """Why a tunnel's channel is reset, beside what `ResetCode` has."""

    CONNECTION_REFUSED = 256  # by the target
    HOST_UNREACHABLE = 257
    NETWORK_UNREACHABLE = 258
    NAME_NOT_FOUND = 259
    CANNOT_CONNECT = 260  # for another reason
    CANNOT_LISTEN = 261
    CONNECTION_RESET = 262  # a connection that there was


@dataclass(frozen=True)
class TunnelLimits:
    """The bounds of one side. Times are in seconds, counts those of one session.

    - `connections`: relayed at a time; `listeners`: asked for by the peer; `lookups`: names that
      are being looked up at a time.
    - `request_timeout`: for the first message of a channel; `lookup_timeout`: for the addresses of
      a name; `connect_timeout`: for a connection, in all; `answer_timeout`: for the peer's answer.
    - `socks_timeout`: for what a SOCKS client says before its target is known.
    """

    connections: int = 256
    listeners: int = 16
    lookups: int = 64
    request_timeout: float = 10.0
    lookup_timeout: float = 10.0
    connect_timeout: float = 10.0
    answer_timeout: float = 30.0
    socks_timeout: float = 30.0


DEFAULT_LIMITS = TunnelLimits()


def read_address(text: str) -> IpAddress | None:
    """The IP address that `text` is, None for a name; IPv4 in IPv6 (::ffff:0:0/96) is IPv4.

    A zone (`%eth0`) is left out.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def read_host(text: str) -> str:
    """An IP address or an ASCII host name in canonical form; raises `ValueError` for neither."""
    if len(text) <= MAX_NAME + 1:  # more are not looked at
        address = None if "%" in text else read_address(text)
        if address is not None:
            return str(address)
        name = text.lower().removesuffix(".")
        labels = name.split(".")
        if (
            len(name) <= MAX_NAME
            and all(map(_LABEL.fullmatch, labels))
            and not labels[-1].isdigit()
        ):
            return name
    raise ValueError(f"{text[:MAX_NAME]!r} is neither a host name nor an IP address")


def show_address(host: str, port: int) -> str:
    """`host:port`, with the brackets of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class TargetPattern:
    """Some hosts, and a range of ports. With `network` they are addresses, otherwise names.

    `name` is one name, or all below `.example.org`, or empty: then it is every host.
    """

    network: IpNetwork | None
    name: str
    first: int
    last: int

    def covers_address(self, address: IpAddress, port: int) -> bool:
        """Whether it is among the hosts when it is asked for as an address."""
        if not self.first <= port <= self.last:
            return False
        if self.network is None:
            return not self.name
        return address.version == self.network.version and address in self.network

    def covers_name(self, name: str, port: int) -> bool:
        """Whether `name` is among the hosts whatever its addresses are."""
        if self.network is not None or not self.first <= port <= self.last:
            return False
        if self.name.startswith("."):
            return name.endswith(self.name)
        return self.name in ("", name)

    def covers_addresses(self, port: int) -> bool:
        """Whether there are addresses that it covers."""
        return (self.network is not None or not self.name) and self.first <= port <= self.last

    def __str__(self) -> str:
        ports = f"{self.first}-{self.last}" if self.first != self.last else f"{self.first}"
        if (self.first, self.last) == (0, _MOST_PORT):
            ports = _ANY
        if self.network is None:
            star = _ANY if not self.name or self.name.startswith(".") else ""
            return f"{star}{self.name}:{ports}"
        single = self.network.num_addresses == 1
        host = str(self.network.network_address if single else self.network)
        return f"[{host}]:{ports}" if self.network.version == 6 else f"{host}:{ports}"


@lru_cache(maxsize=4096)
def parse_pattern(text: str) -> TargetPattern:
    """The pattern that `text` is; raises `ValueError` for what is none.

    HOST:PORTS, where HOST is `*`, a name, `*.NAME`, an IPv4 address or network, or the same of
    IPv6 in brackets, and PORTS is `*`, a port, or FIRST-LAST.
    """
    host, colon, ports = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not a pattern of HOST:PORT, such as 127.0.0.1:22 or *:443")
    first, last = _read_ports(text, ports)
    if host == _ANY:
        return TargetPattern(None, "", first, last)
    if host.startswith("[") and host.endswith("]"):
        return TargetPattern(_read_network(text, host[1:-1], 6), "", first, last)
    if ":" in host:
        raise ValueError(f"{text!r}: write IPv6 in brackets, as in [::1]:22")
    if "/" in host or host.replace(".", "").isdigit():
        return TargetPattern(_read_network(text, host, 4), "", first, last)
    below = host.startswith("*.")
    try:
        name = read_host(host[2:] if below else host)
    except ValueError:
        raise ValueError(f"{text!r}: {host!r} is not a host, *.DOMAIN, or an IP network") from None
    return TargetPattern(None, f".{name}" if below else name, first, last)


def read_target_pattern(text: str) -> str:
    """A pattern of the scope `targets` in its canonical form; raises `ValueError`."""
    return str(parse_pattern(text))


def read_listen_pattern(text: str) -> str:
    """A pattern of the scope `listen` in its canonical form; raises `ValueError`."""
    pattern = parse_pattern(text)
    if pattern.name:
        raise ValueError(f"{text!r}: a server listens on IP addresses, or on * for any")
    return str(pattern)


class TargetRules:
    """What a set of patterns allows."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [parse_pattern(text) for text in patterns]

    def allow_host(self, host: str, port: int) -> bool:
        """Whether `host`, as `read_host` has it, may be connected to as it was asked for."""
        address = read_address(host)
        if address is not None:
            return self.allow_address(address, port)
        return any(pattern.covers_name(host, port) for pattern in self._patterns)

    def allow_address(self, address: IpAddress, port: int) -> bool:
        """Whether there may be connections to that address."""
        return any(pattern.covers_address(address, port) for pattern in self._patterns)

    def need_lookup(self, port: int) -> bool:
        """Whether a name that is not allowed by itself may have addresses that are."""
        return any(pattern.covers_addresses(port) for pattern in self._patterns)


def _read_ports(text: str, ports: str) -> tuple[int, int]:
    if ports == _ANY:
        return 0, _MOST_PORT
    found = _PORTS.fullmatch(ports)
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if first <= last <= _MOST_PORT:
            return first, last
    raise ValueError(f"{text!r}: {ports!r} is neither a port, nor FIRST-LAST, nor *")


def _read_network(text: str, network: str, version: int) -> IpNetwork:
    try:
        found = ipaddress.ip_network(network)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if found.version != version:
        raise ValueError(f"{text!r}: brackets are for IPv6")
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped:
        raise ValueError(f"{text!r}: write IPv4 as such")
    return found
