"""Delivery without order: for channels whose messages do not wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.session.assembly import Assembly
from jetstreamproto.session.codes import PACKET_COST
from jetstreamproto.session.delivery import Delivery
from jetstreamproto.session.guard import call_application
from jetstreamproto.wire.packet import Flag
from jetstreamproto.wire.session_messages import Mode

if TYPE_CHECKING:
    from jetstreamproto.session.channel import Channel

_MORE = int(Flag.MORE)
_LZ4 = int(Flag.LZ4)
_DROPPED = int(Flag.DROPPED)


class UnorderedDelivery(Delivery):
    """Takes DATA packets in any order and delivers each message as soon as it is whole.

    On an EXPIRING channel packets may be given up by the link; `expired` counts the messages that
    were lost with them.
    """

    __slots__ = ("_assembly", "_count", "_expiring", "_highest")

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._expiring = channel.mode is Mode.EXPIRING
        session = channel.session
        self._assembly = Assembly(
            session.intake, session.settings.max_message, lossy=self._expiring
        )
        self._highest = -1  # of the packets' numbers
        self._count: int | None = None  # DATA packets that the peer says it has sent

    @property
    def unfinished(self) -> bool:
        return self._assembly.unfinished

    # --- for the session -------------------------------------------------------------

    def data_received(self, seq: int, flags: int, code: int, payload: memoryview) -> None:
        self._packet_received(seq, flags, code, payload, len(payload) + PACKET_COST)

    def dropped_received(self, seq: int, size: int) -> None:
        if not self._expiring:
            super().dropped_received(seq, size)
        self._packet_received(seq, _DROPPED, 0, memoryview(b""), size + PACKET_COST)

    def end_received(self, count: int) -> None:
        if not self.receiving or self._count is not None:
            raise ProtocolViolation(f"a second end on channel {self._channel.id}")
        if count <= self._highest or count < self._received:
            raise ProtocolViolation(f"an end of channel {self._channel.id} before its last packet")
        self._count = count
        self._end_if_all_came()

    # --- delivering ------------------------------------------------------------------

    def _packet_received(
        self, seq: int, flags: int, code: int, payload: memoryview, cost: int
    ) -> None:
        self.credit.receive(cost)
        count = self._count
        if not self.receiving or (count is not None and (seq >= count or self._received == count)):
            raise ProtocolViolation(f"data on channel {self._channel.id}, where none may come")
        self._received += 1
        if seq > self._highest:
            self._highest = seq
        self._deliver_or_hold(seq, flags, code, payload, cost)
        if count is not None:
            self._end_if_all_came()

    def _end_if_all_came(self) -> None:
        if self._received == self._count and self.receiving:
            self._end_held = True
            self._deliver_held()

    def _complete_message(
        self, seq: int, flags: int, code: int, payload: memoryview | bytes
    ) -> bytes | None:
        if flags & _DROPPED:
            self._expire(self._assembly.drop(seq))
            return None
        if flags & _LZ4:
            payload = self._decompressed(payload)
        return self._assembly.add(seq, code, bool(flags & _MORE), payload)

    def _expire(self, messages: int) -> None:
        if messages:
            channel = self._channel
            channel.expired += messages
            call_application(channel, channel.protocol.messages_expired, messages)

    def _drop_unfinished(self) -> None:
        self._assembly.clear()
