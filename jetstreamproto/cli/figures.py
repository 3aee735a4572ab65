"""What a session's link has counted, as `jetstream bench` and `ping` report it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetstreamproto.transports.link import Link

_BYTES = ("bytes_sent", "bytes_received")
_DATAGRAMS = ("packets_sent", "packets_received")
_OTHER_NAMES = {"datagrams_sent": "packets_sent"}
_HEADERS = 20 + 8  # of IPv4 and UDP
_HEADERS_6 = 40 + 8

Figures = Mapping[str, Any]
"""The counters of a link by name."""


def read_figures(link: Link) -> Figures:
    """The counters as they are now, of TCP bytes only; `socket` has the options of the socket.

    `settings` says what was asked of it, and what became of that.
    """
    found = link.stats
    stats = dataclasses.asdict(found)
    stats["settings"] = [setting.to_object() for setting in found.settings]
    for name in ("socket", "settings"):
        if not stats[name]:
            del stats[name]
    return {_OTHER_NAMES.get(name, name): value for name, value in stats.items()}


def wire_bytes(before: Figures, after: Figures, address: str) -> int:
    """Bytes on the wire, both ways, between two readings of the link with the peer `address`.

    The headers of IP and UDP are included. TCP's are not: only the kernel knows its segments.
    """
    headers = _HEADERS_6 if address.startswith("[") else _HEADERS
    datagrams = sum(_grown(before, after, name) for name in _DATAGRAMS)
    return sum(_grown(before, after, name) for name in _BYTES) + headers * datagrams


def growth(before: Figures, after: Figures, **names: str) -> dict[str, int]:
    """What was added to those of these counters that there are, by the names to report."""
    return {shown: _grown(before, after, name) for shown, name in names.items() if name in after}


def _grown(before: Figures, after: Figures, name: str) -> int:
    return int(after.get(name, 0)) - int(before.get(name, 0))
