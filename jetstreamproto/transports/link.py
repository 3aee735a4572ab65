"""The contract between a session and whatever carries its packets.

A link knows nothing of channels but their numbers; a session knows nothing of sockets. The link
is told when to send and says when it cannot; what arrives, it hands up in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jetstreamproto.errors import JetStreamError
from jetstreamproto.wire.packet import PacketParts


@dataclass(slots=True)
class LinkStats:
    """What a link has carried, in bytes on the wire (headers and tags included)."""

    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: its address, and the fingerprint it proved, if it did."""

    address: str
    fingerprint: str | None = None


class Link(Protocol):
    """What a session may ask of its transport."""

    @property
    def writable(self) -> bool:
        """Whether packets are wanted now; `LinkUser.link_writable` says when they are again."""

    @property
    def peer(self) -> Peer: ...

    @property
    def stats(self) -> LinkStats: ...

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        """Take one encoded packet. It may wait for `flush`, or for the link to be writable."""

    def flush(self) -> None:
        """Send what `send_packet` has taken."""

    def close(self) -> None:
        """Send everything taken and the authenticated end, then wait for the peer's."""

    def fail(self, failure: JetStreamError | None) -> None:
        """Close because of `failure`, which `link_lost` reports, without waiting for the peer."""

    def abort(self) -> None:
        """Drop the connection now; what was not sent is lost."""


class LinkUser(Protocol):
    """What a link tells its session."""

    def link_ready(self) -> None:
        """The handshake is complete: packets can be sent under its keys."""

    def packets_received(self, packets: Sequence[PacketParts]) -> None:
        """Packets arrived, in order for each channel.

        Their payloads are views that are good until this returns: copy what is to be kept.
        """

    def link_writable(self) -> None:
        """The link has room again."""

    def link_ended(self) -> None:
        """The peer's authenticated end arrived; nothing more will."""

    def link_lost(self, reason: JetStreamError | None) -> None:
        """The link is gone: None after both ends were exchanged, otherwise what went wrong."""
