"""The contract between a session and whatever carries its packets.

A link knows nothing of channels but their numbers; a session knows nothing of sockets. The link
is told when to send and says when it cannot; what arrives, it hands up in batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import ITransport

from jetstreamproto.errors import JetStreamError
from jetstreamproto.sockets.options import Setting
from jetstreamproto.wire.packet import PacketParts
from jetstreamproto.wire.session_messages import Mode


@dataclass(slots=True)
class LinkStats:
    """What a link has carried, in bytes on the wire (headers and tags included).

    `socket` is what the kernel has granted: the socket's options by name, the name of its profile.
    `settings` are the options that the profile asked for, each with its outcome by now.
    Links may have a subclass with more fields, and make a new one whenever they are asked.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    socket: Mapping[str, int | str] = field(default_factory=dict, kw_only=True)
    settings: tuple[Setting, ...] = field(default=(), kw_only=True, repr=False)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: its address, and the fingerprint it proved, if it did."""

    address: str
    fingerprint: str | None = None


def address_text(transport: ITransport) -> str:
    """The peer's address as text."""
    peer = transport.getPeer()
    host, port = getattr(peer, "host", None), getattr(peer, "port", None)
    if host is None:
        return str(peer)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Link(Protocol):
    """What a session may ask of its transport.

    What it was given arrives, whole and once, until the connection is lost; each channel's packets
    in order. On a link with `streams` packets of different channels overtake each other, and the
    DATA packets of channels that `set_mode` names travel on their own: they come in any order
    once the first other packet of their channel (its OPEN or ACCEPT) has been handed up, also
    after its last one. Credit is counted by what comes, so none may be left out, not even on a
    channel that was reset: one that an EXPIRING channel gives up is handed up as a DATA packet of
    the same channel and seq with `Flag.DROPPED`, code 0 and the size of its payload as it was sent
    (u32, little endian).
    """

    @property
    def streams(self) -> bool:
        """Whether every channel is a stream of its own, so that `set_mode` and `end_channel` are
        called. Constant."""

    @property
    def rtt(self) -> float | None:
        """The round-trip time in seconds as the link knows it, None if it does not."""

    @property
    def writable(self) -> bool:
        """Whether packets are wanted now; `LinkUser.link_writable` says when they are again.

        Not after `close`, `fail` or `abort`.
        """

    @property
    def peer(self) -> Peer: ...

    @property
    def stats(self) -> LinkStats: ...

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        """Take one encoded packet. It may wait for `flush`, or for the link to be writable."""

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        """How DATA of `channel` may be carried; called before its first packet of this side.

        Only for channels that are not ORDERED, or that have a deadline: the seconds after which a
        message is of no use. Messages of an EXPIRING channel may then be given up; for others it
        is a hint. An ORDERED channel stays one stream.
        """

    def end_channel(self, channel: int) -> None:
        """`channel` is closed at this side, which has sent its last packet on it.

        Called once for every channel on which this side has sent, after that packet. The peer
        may still send on it.
        """

    def flush(self) -> None:
        """Send what `send_packet` has taken, at the end of the reactor's turn at the latest."""

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

    def link_half_ready(self) -> None:
        """A server's packets can be sent, though the peer's end of the handshake is to come.

        Not every link says so; `link_ready` follows.
        """

    def packets_received(self, packets: Sequence[PacketParts]) -> None:
        """Packets arrived, in the order that `Link` promises.

        Their payloads are views that are good until this returns: copy what is to be kept.
        """

    def link_writable(self) -> None:
        """The link has room again."""

    def link_ended(self) -> None:
        """The peer's authenticated end arrived, after everything else; nothing more will."""

    def link_lost(self, reason: JetStreamError | None) -> None:
        """The link is gone: None after both ends were exchanged, otherwise what went wrong.

        May be called from within `fail` and `abort`, and from `close` before the link is ready.
        """


def transport_name(link: object) -> str:
    """What carries a session: its link's module (`transports.udp`) has the transport's name."""
    return type(link).__module__.rpartition(".")[2].partition("_")[0]
