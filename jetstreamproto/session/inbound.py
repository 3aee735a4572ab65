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

_DATA = int(Kind.DATA)
_DROPPED = int(Flag.DROPPED)
_SIZE = 4  # bytes of the size in a packet that stands for one that was given up

_MAX_REPLIES = 8192
"""Answers to a peer's packets that may wait to be sent; only a hostile peer causes more."""


class Inbound:
    """Gives each packet to what it concerns: the introduction, a channel, or the session itself."""

    __slots__ = ("_session", "_table")

    def __init__(self, session: Session, table: ChannelTable) -> None:
        self._session = session
        self._table = table

    def take(self, packets: Iterable[PacketParts]) -> None:
        """Act on `packets`. Raises `ProtocolViolation` or `WireError` for what may not come."""
        session = self._session
        find, intake, credit = self._table.find, session.intake, session.intake.credit
        for packet in packets:
            seq, channel_id, kind, flags, code, payload = packet
            if session.state is SessionState.CONNECTING:
                self._introduce(packet)
            elif kind == _DATA and not flags & _DROPPED:
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
                self._dropped_received(seq, channel_id, payload)
            else:
                self._control_received(seq, channel_id, kind, code, payload)

    def _introduce(self, packet: PacketParts) -> None:
        introduction = self._session.introduction
        assert introduction is not None
        introduction.packet_received(packet)
        if self._session.state is not SessionState.CONNECTING:
            self.take(introduction.take_early())

    def _dropped_received(self, seq: int, channel_id: int, payload: memoryview) -> None:
        """The link has given up a DATA packet; its credit comes back as if it had come."""
        size = int.from_bytes(payload, "little")
        if len(payload) != _SIZE or size > MAX_FRAGMENT:
            raise ProtocolViolation("a packet that was given up has an impossible size")
        intake = self._session.intake
        intake.credit.receive(size + PACKET_COST)
        channel = self._table.find(channel_id)
        if channel is None:
            intake.consumed(size + PACKET_COST)
        else:
            channel.delivery.dropped_received(seq, size)

    def _control_received(
        self, seq: int, channel_id: int, kind: int, code: int, payload: memoryview
    ) -> None:
        session, table = self._session, self._table
        if session.outbox.replies > _MAX_REPLIES:
            raise ProtocolViolation("the peer asks for more than it reads")
        elif kind == Kind.CREDIT:
            self._credit_received(channel_id, seq)
        elif kind == Kind.END:
            channel = table.find(channel_id)
            if channel is not None:
                channel.delivery.end_received(seq)
        elif kind == Kind.OPEN:
            table.open_received(channel_id, OPEN.decode(payload))
        elif kind == Kind.ACCEPT:
            table.accept_received(channel_id)
        elif kind == Kind.RESET:
            table.reset_received(channel_id, code, reason_text(payload))
        elif kind == Kind.PING:
            session.outbox.put_reply(Kind.PONG, 0, seq=seq)
        elif kind == Kind.PONG:
            session.pulse.pong_received(seq)
        elif kind == Kind.GOAWAY:
            session.departure.goaway_received(code, reason_text(payload))
        else:
            raise ProtocolViolation(f"unknown packet kind {kind}")

    def _credit_received(self, channel_id: int, limit: int) -> None:
        if channel_id == 0:
            self._session.outbox.credit.grant(limit)
            return
        channel = self._table.find(channel_id)
        if channel is not None:
            channel.credit_received(limit)
