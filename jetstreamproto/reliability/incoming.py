"""What comes in: pieces put in order, messages made whole, and all of it cut into packets."""

from __future__ import annotations

from collections.abc import Sequence

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.reliability.frames import Piece, Skip
from jetstreamproto.reliability.intervals import IntervalSet
from jetstreamproto.reliability.streams import SEGMENT_COST, ReceiveStream
from jetstreamproto.wire.packet import HEAD_SIZE, Flag, Kind, PacketParts, split_packets

MAX_PACKET = (1 << 16) + 4096
"""Bytes of one session packet: the largest fragment and any layout of its head."""

_MAX_CHANNELS = 1 << 14
_MAX_GAPS = 1 << 12
_SIZE_PREFIX = 4
_SMALL_REST = 1 << 12
_MANY_PIECES = 64


class _Channel:
    """What has come on one channel."""

    __slots__ = ("arrived", "begun", "have", "held", "left", "messages", "need", "pieces", "stream")

    def __init__(self, channel: int) -> None:
        self.stream = ReceiveStream(channel)
        self.pieces: list[memoryview] = []  # of a packet that is not whole yet
        self.have = 0
        self.need = _SIZE_PREFIX
        self.begun = False  # its first packet, which opens or accepts it, was delivered
        self.left = False  # this side will not send on it any more
        self.messages: dict[int, ReceiveStream] = {}
        self.arrived = IntervalSet()  # messages that were delivered or skipped
        self.held: list[PacketParts] = []  # messages that came before the first packet


class Incoming:
    """The receiving half of a connection.

    `take` has the session packets that are ready. `window` bounds the bytes of ordered streams
    beyond what is in order, which the peer must keep to, and twice that the memory for everything
    that is out of order; messages are bounded by the session's credit besides.
    """

    __slots__ = (
        "_channels",
        "_closed",
        "_cost",
        "_delivered",
        "_parts",
        "_received",
        "_window",
        "granted",
        "window_due",
    )

    def __init__(self, window: int) -> None:
        self.granted = window
        self.window_due = True
        """Whether the peer should be told `granted`."""
        self._window = window
        self._received = 0
        self._delivered = 0
        self._cost = 0
        self._channels: dict[int, _Channel] = {}
        self._closed = (IntervalSet(), IntervalSet())  # of even and of odd channels
        self._parts: list[PacketParts] = []

    def take(self) -> list[PacketParts]:
        """The packets that have become whole since the last time, in order for each channel."""
        parts, self._parts = self._parts, []
        return parts

    def piece_received(self, channel_id: int, offset: int, data: memoryview, fin: bool) -> None:
        """Bytes of a channel's ordered stream came."""
        channel = self._find(channel_id)
        if channel is None:
            return
        stream = channel.stream
        before, highest = stream.next, stream.highest
        self._kept(stream.receive(offset, data, fin))
        if stream.highest != highest:
            self._count(stream.highest - highest)
        if stream.next != before:
            self._cut(channel)
        if fin or stream.end is not None:
            self._close_if_done(channel_id, channel)

    def message_piece_received(self, piece: Piece) -> None:
        """A part of a message, or all of it, came."""
        channel = self._find(piece.channel)
        if channel is None or piece.number in channel.arrived:
            return
        message = channel.messages.get(piece.number)
        if message is None:
            if piece.fin and piece.offset == 0:  # whole, as most are
                self._message_arrived(channel, piece.number, (piece.data,))
                return
            message = channel.messages[piece.number] = ReceiveStream(piece.channel, piece.number)
            self._kept(SEGMENT_COST)
        before = message.next
        kept = message.receive(piece.offset, piece.data, piece.fin)
        self._kept(kept + message.next - before)  # in order or not, it waits
        if message.highest > MAX_PACKET:
            raise ProtocolViolation(f"a message of over {MAX_PACKET} bytes")
        if message.complete:
            del channel.messages[piece.number]
            self._kept(-message.next - SEGMENT_COST)
            self._message_arrived(channel, piece.number, tuple(message.ready))

    def skip_received(self, skip: Skip) -> None:
        """A message has expired: its place is taken by a packet that says so."""
        channel = self._find(skip.channel)
        if channel is None or skip.number in channel.arrived:
            return
        if not HEAD_SIZE <= skip.size <= MAX_PACKET:
            raise ProtocolViolation(f"an expired message of {skip.size} bytes")
        message = channel.messages.pop(skip.number, None)
        if message is not None:
            self._kept(-message.next - SEGMENT_COST - message.kept)
        size = (skip.size - HEAD_SIZE).to_bytes(4, "little")
        parts = (skip.number, skip.channel, Kind.DATA, Flag.DROPPED, 0, memoryview(size))
        self._arrive(channel, skip.number, parts)

    def leave(self, channel_id: int) -> None:
        """This side will send nothing more on the channel, and wants nothing more of it."""
        channel = self._find(channel_id)  # the peer's answer may still be on its way
        if channel is not None:
            channel.left = True
            self._close_if_done(channel_id, channel)

    # --- channels ---------------------------------------------------------------------

    def _find(self, channel_id: int) -> _Channel | None:
        """The channel of that number, which is new if it was never seen; None if it is over."""
        channel = self._channels.get(channel_id)
        if channel is None:
            if channel_id >> 1 in self._closed[channel_id & 1]:
                return None
            if len(self._channels) >= _MAX_CHANNELS:
                raise ProtocolViolation("the peer uses too many channels")
            channel = self._channels[channel_id] = _Channel(channel_id)
        return channel

    def _close_if_done(self, channel_id: int, channel: _Channel) -> None:
        if channel.stream.complete and channel.have:
            raise ProtocolViolation(f"stream {channel_id} ends within a packet")
        if channel.left and channel.stream.complete:
            del self._channels[channel_id]
            self._kept(-_held_cost(channel.held))
            for message in channel.messages.values():
                self._kept(-message.next - SEGMENT_COST - message.kept)
            closed = self._closed[channel_id & 1]
            closed.add(channel_id >> 1)
            if closed.intervals > _MAX_GAPS:
                raise ProtocolViolation("the peer leaves too many channel numbers out")

    # --- packets ----------------------------------------------------------------------

    def _cut(self, channel: _Channel) -> None:
        """Take the packets that are whole from what is in order."""
        stream = channel.stream
        pieces = channel.pieces
        for piece in stream.ready:
            pieces.append(piece)
            channel.have += len(piece)
        stream.ready.clear()
        if channel.have < channel.need:
            if len(pieces) > _MANY_PIECES:
                pieces[:] = [memoryview(b"".join(pieces))]
            elif len(pieces) > 1:
                pieces[-1] = _own(pieces[-1])
            return
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        pieces.clear()
        position, end = 0, len(data)
        channel.need = _SIZE_PREFIX
        while end - position >= _SIZE_PREFIX:
            size = int.from_bytes(data[position : position + 4], "little") + _SIZE_PREFIX
            if size > MAX_PACKET:
                raise WireError(f"a packet of {size} bytes; at most {MAX_PACKET}")
            if position + size > end:
                channel.need = size
                break
            position += size
        channel.have = end - position
        if channel.have:
            rest = data[position:]
            pieces.append(memoryview(bytes(rest)) if len(rest) < _SMALL_REST else rest)
        if position:
            self._progress(position)
            self._deliver(channel, split_packets(data[:position]))

    def _deliver(self, channel: _Channel, parts: list[PacketParts]) -> None:
        number = channel.stream.channel
        for part in parts:
            if part[1] != number:
                raise ProtocolViolation(f"a packet of channel {part[1]} in stream {number}")
        self._parts += parts
        if not channel.begun:
            channel.begun = True
            self._parts += channel.held
            self._kept(-_held_cost(channel.held))
            channel.held.clear()

    def _message_arrived(
        self, channel: _Channel, number: int, pieces: tuple[memoryview, ...]
    ) -> None:
        parts = split_packets(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if len(parts) != 1 or parts[0][0] != number or parts[0][1] != channel.stream.channel:
            raise ProtocolViolation(f"message {number} is not the packet it should be")
        self._arrive(channel, number, parts[0])

    def _arrive(self, channel: _Channel, number: int, parts: PacketParts) -> None:
        channel.arrived.add(number)
        if channel.arrived.intervals > _MAX_GAPS:
            raise ProtocolViolation("the peer leaves too many messages out")
        if channel.begun:
            self._parts.append(parts)
        else:
            held = (*parts[:5], _own(parts[5]))
            channel.held.append(held)
            self._kept(_held_cost((held,)))

    # --- bounds -----------------------------------------------------------------------

    def _count(self, size: int) -> None:
        """`size` bytes more have come, in order or not."""
        self._received += size
        if self._received > self.granted:
            raise ProtocolViolation("the peer sent more than its window allows")

    def _progress(self, size: int) -> None:
        """`size` bytes more have gone to the session as whole packets.

        What the session cannot have yet still takes room in the window. A sender sends each packet
        whole before it begins another, so there is always room for the rest of one.
        """
        self._delivered += size
        if self._delivered + self._window - self.granted >= self._window >> 2:
            self.granted = self._delivered + self._window
            self.window_due = True

    def _kept(self, cost: int) -> None:
        self._cost += cost
        if self._cost > 2 * self._window:
            raise ProtocolViolation("the peer's pieces are too many and too small")


def _own(data: memoryview) -> memoryview:
    """`data` to be kept: a copy if it would keep a much longer packet in memory."""
    return memoryview(bytes(data)) if 2 * len(data) < len(data.obj) else data  # type: ignore[arg-type]


def _held_cost(held: Sequence[PacketParts]) -> int:
    return sum(len(parts[5]) + SEGMENT_COST for parts in held)
