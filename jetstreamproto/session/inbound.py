"""Inbound: what a session does about each packet of its peer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.session.codes import MAX_FRAGMENT, PACKET_COST, reason_text
from jetstreamproto.session.state import SessionState
from jetstreamproto.session.table import ChannelTable
from jetstreamproto.wire.packet import Flag, Kind, PacketParts
from jetstreamproto.wire.session_messages import OPEN

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session

# members of enums are slow to get at
_CONNECTING, _CONNECTED, _DRAINING, _ENDING, _CLOSED = SessionState
_NONE, _HELLO, _OPEN, _ACCEPT, _DATA, _CREDIT, _END, _RESET, _PING, _PONG, _GOAWAY = map(int, Kind)
_DROPPED = int(Flag.DROPPED)
_SIZE = 4  # bytes of the size in a packet that stands for one that was given up

_MAX_REPLIES = 8192
"""Answers to a peer's packets that may wait to be sent; only a hostile peer causes more."""


def take_packets(session: Session, table: ChannelTable, packets: Iterable[PacketParts]) -> None:
    """Give each packet to what it concerns: the introduction, a channel, or the session itself.

    Raises `ProtocolViolation` or `WireError` for what may not come.
    """
    find, intake, credit = table.find, session.intake, session.intake.credit
    for packet in packets:
        if session.state is not _CONNECTED:
            if session.state is _CONNECTING:
                _introduce(session, table, packet)
                credit = intake.credit  # which begins anew when we say HELLO
                continue
            if session.state is _CLOSED:
                return  # an application has dropped it
        seq, channel_id, kind, flags, code, payload = packet
        if kind == _DATA and not flags & _DROPPED:
            size = len(payload)
            if size > MAX_FRAGMENT:
                raise ProtocolViolation(f"a fragment of {size} bytes")
            credit.receive(size + PACKET_COST)
            channel = find(channel_id)
            if channel is None:
                intake.consumed(size + PACKET_COST)
            else:
                channel.delivery.data_received(seq, flags, code, payload)
        elif kind == _DATA:
            _dropped_received(session, table, seq, channel_id, payload)
        else:
            _control_received(session, table, seq, channel_id, kind, code, payload)


def _introduce(session: Session, table: ChannelTable, packet: PacketParts) -> None:
    introduction = session.introduction
    assert introduction is not None
    introduction.packet_received(packet)
    if session.state is not _CONNECTING:
        take_packets(session, table, introduction.take_early())


def _dropped_received(
    session: Session, table: ChannelTable, seq: int, channel_id: int, payload: memoryview
) -> None:
    """The link has given up a DATA packet; its credit comes back as if it had come."""
    size = int.from_bytes(payload, "little")
    if len(payload) != _SIZE or size > MAX_FRAGMENT:
        raise ProtocolViolation("a packet that was given up has an impossible size")
    session.intake.credit.receive(size + PACKET_COST)
    channel = table.find(channel_id)
    if channel is None:
        session.intake.consumed(size + PACKET_COST)
    else:
        channel.delivery.dropped_received(seq, size)


def _control_received(
    session: Session,
    table: ChannelTable,
    seq: int,
    channel_id: int,
    kind: int,
    code: int,
    payload: memoryview,
) -> None:
    if session.outbox.replies > _MAX_REPLIES:
        raise ProtocolViolation("the peer asks for more than it reads")
    elif kind == _CREDIT:
        _credit_received(session, table, channel_id, seq)
    elif kind == _END:
        channel = table.find(channel_id)
        if channel is not None:
            channel.delivery.end_received(seq)
    elif kind == _OPEN:
        table.open_received(channel_id, OPEN.decode(payload))
    elif kind == _ACCEPT:
        table.accept_received(channel_id)
    elif kind == _RESET:
        table.reset_received(channel_id, code, reason_text(payload))
    elif kind == _PING:
        session.outbox.put_reply(Kind.PONG, 0, seq=seq)
    elif kind == _PONG:
        session.pulse.pong_received(seq)
    elif kind == _GOAWAY:
        session.departure.goaway_received(code, reason_text(payload))
    else:
        raise ProtocolViolation(f"unknown packet kind {kind}")


def _credit_received(session: Session, table: ChannelTable, channel_id: int, limit: int) -> None:
    if channel_id == 0:
        session.outbox.credit.grant(limit)
        return
    channel = table.find(channel_id)
    if channel is not None:
        channel.credit_received(limit)
