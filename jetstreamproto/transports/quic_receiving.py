"""What comes on QUIC streams, made into session packets."""

from __future__ import annotations

from collections.abc import Sequence

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.reliability.incoming import MAX_PACKET
from jetstreamproto.reliability.intervals import IntervalSet
from jetstreamproto.security.possession import MAX_PROOF
from jetstreamproto.transports.quic_core import QuicCore
from jetstreamproto.wire.packet import Flag, Kind, PacketParts, split_packets

MESSAGE, IDENTITY_REQUEST, IDENTITY_PROOF = 0, 1, 2
"""The first byte of a one-way stream: what it carries."""

_MAX_GAPS = 1 << 12
_SIZE_PREFIX = 4
_KEPT_COST = 512  # of a message that has to wait, beside its bytes
_LIMITS = {MESSAGE: MAX_PACKET, IDENTITY_REQUEST: 64, IDENTITY_PROOF: MAX_PROOF}


class _Stream:
    """A stream that has not ended, and what of it is no whole packet yet."""

    __slots__ = ("channel", "counted", "have", "need", "pieces")

    def __init__(self) -> None:
        self.channel: int | None = None  # that of its packets, on a stream of two ways
        self.pieces: list[bytes] = []
        self.have = 0
        self.need = _SIZE_PREFIX
        self.counted = 0  # bytes that were handed on

    def take(self) -> bytes:
        """All there is."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.have = 0
        return data


class _Channel:
    """What must be known of a channel until its stream ends."""

    __slots__ = ("arrived", "held")

    def __init__(self) -> None:
        self.arrived = IntervalSet()  # messages that were handed up
        self.held: list[PacketParts] = []  # those that came before the stream's first packet


class QuicReceiving:
    """The receiving half of a connection.

    `take` has the packets that are ready. `stream_of` tells on which stream a channel's packets
    come, `controls` has what came on one-way streams that carry no messages.
    """

    def __init__(self, core: QuicCore, window: int) -> None:
        self.controls: list[tuple[int, bytes]] = []
        self.ended = False
        """Whether the stream of channel 0 has ended, before which all others were complete."""
        self._core = core
        self._window = window
        self._kept = 0
        self._streams: dict[int, _Stream] = {}
        self._stream_of: dict[int, int] = {}
        self._begun: dict[int, _Channel] = {}  # whose first packet was handed up
        self._early: dict[int, _Channel] = {}  # of which only messages have come
        self._closed = (IntervalSet(), IntervalSet())  # of even and of odd channels
        self._parts: list[PacketParts] = []

    def take(self) -> list[PacketParts]:
        """The packets that have become whole since the last time, each channel's in order."""
        parts, self._parts = self._parts, []
        return parts

    def stream_of(self, channel: int) -> int | None:
        """The two-way stream on which the peer has sent packets of `channel`."""
        return self._stream_of.get(channel)

    def forget(self, channel: int) -> None:
        """This side answers no more on `channel`."""
        self._stream_of.pop(channel, None)

    def received(self, stream_id: int, data: bytes, end: bool) -> None:
        """Bytes came in order. Raises `WireError` or `ProtocolViolation` for what may not be."""
        stream = self._streams.get(stream_id)
        if stream_id & 2:
            if stream is None and end:
                self._one_way_ended(data)
                self._core.consumed += len(data)
            else:
                self._one_way_received(stream_id, stream or self._add(stream_id), data, end)
            return
        stream = stream or self._add(stream_id)
        if data:
            stream.pieces.append(data)
            stream.have += len(data)
            if stream.have >= stream.need:
                self._cut(stream_id, stream)
        if end:
            self._stream_ended(stream_id, stream)

    def was_reset(self, stream_id: int) -> None:
        """The peer gives up a stream, which it may do with messages."""
        if not stream_id & 2:
            raise ProtocolViolation(f"the peer has reset stream {stream_id}, a channel's")
        stream = self._streams.pop(stream_id, None)
        counted = 0 if stream is None else stream.counted
        self._core.consumed += self._core.received_on(stream_id) - counted

    # --- one-way streams --------------------------------------------------------------

    def _one_way_received(self, stream_id: int, stream: _Stream, data: bytes, end: bool) -> None:
        stream.pieces.append(data)
        stream.have += len(data)
        kind = next((piece[0] for piece in stream.pieces if piece), MESSAGE)
        if stream.have > 1 + _LIMITS.get(kind, 0):
            raise ProtocolViolation(f"a one-way stream of kind {kind}, and {stream.have} bytes")
        if end:
            size = stream.have
            del self._streams[stream_id]
            self._one_way_ended(stream.take())
            self._core.consumed += size

    def _one_way_ended(self, data: bytes) -> None:
        kind = data[0] if data else None
        if kind == MESSAGE:
            parts = split_packets(memoryview(data)[1:])
            if len(parts) != 1 or parts[0][2] != Kind.DATA or parts[0][3] & Flag.DROPPED:
                raise ProtocolViolation("a one-way stream that is not one message")
            self._message_arrived(parts[0])
        elif kind in _LIMITS and kind is not None:
            self.controls.append((kind, data[1:]))
        else:
            raise ProtocolViolation("a one-way stream of an unknown kind")

    def _message_arrived(self, parts: PacketParts) -> None:
        number = parts[1]
        channel = self._begun.get(number)
        if channel is not None:
            if channel.arrived.add(parts[0]):
                self._check_gaps(channel.arrived)
                self._parts.append(parts)
            return
        if number >> 1 in self._closed[number & 1]:
            return  # it was given up, and that was heard first
        early = self._early.get(number)
        if early is None:
            early = self._early[number] = _Channel()
        early.held.append(parts)
        self._kept += len(parts[5]) + _KEPT_COST
        if self._kept > 2 * self._window:
            raise ProtocolViolation("too many messages for channels that are not open")

    # --- two-way streams --------------------------------------------------------------

    def _add(self, stream_id: int) -> _Stream:
        stream = self._streams[stream_id] = _Stream()
        return stream

    def _cut(self, stream_id: int, stream: _Stream) -> None:
        """Take the packets that are whole."""
        data = stream.take()
        position, end = 0, len(data)
        stream.need = _SIZE_PREFIX
        while end - position >= _SIZE_PREFIX:
            size = int.from_bytes(data[position : position + 4], "little") + _SIZE_PREFIX
            if size > MAX_PACKET:
                raise WireError(f"a packet of {size} bytes; at most {MAX_PACKET}")
            if position + size > end:
                stream.need = size
                break
            position += size
        stream.have = end - position
        if stream.have:
            stream.pieces.append(data[position:])
        if position:
            stream.counted += position
            self._core.consumed += position
            self._deliver(stream_id, stream, split_packets(memoryview(data)[:position]))

    def _deliver(self, stream_id: int, stream: _Stream, parts: Sequence[PacketParts]) -> None:
        number = stream.channel
        if number is None:
            number = stream.channel = parts[0][1]
            self._begin(stream_id, number)
        channel = self._begun[number]
        for part in parts:
            if part[1] != number:
                raise ProtocolViolation(f"a packet of channel {part[1]} on that of {number}")
            if part[3] & Flag.DROPPED and not channel.arrived.add(part[0]):
                continue  # it has come after all
            self._parts.append(part)
        if channel.held:
            held, channel.held = channel.held, []
            for part in held:
                self._kept -= len(part[5]) + _KEPT_COST
                self._message_arrived(part)

    def _begin(self, stream_id: int, number: int) -> None:
        if number in self._begun or number >> 1 in self._closed[number & 1]:
            raise ProtocolViolation(f"a second stream for channel {number}")
        self._begun[number] = self._early.pop(number) if number in self._early else _Channel()
        self._stream_of[number] = stream_id

    def _stream_ended(self, stream_id: int, stream: _Stream) -> None:
        number = stream.channel
        if stream.have:
            raise ProtocolViolation(f"stream {stream_id} ends within a packet")
        if number is None:
            raise ProtocolViolation(f"stream {stream_id} ends before it begins")
        del self._streams[stream_id]
        del self._begun[number]
        if number == 0:
            self.ended = True
        closed = self._closed[number & 1]
        closed.add(number >> 1)
        self._check_gaps(closed)

    def _check_gaps(self, numbers: IntervalSet) -> None:
        if numbers.intervals > _MAX_GAPS:
            raise ProtocolViolation("the peer leaves too many numbers out")
