"""What goes out: streams, messages and control frames, packed into sealed packets.

Packets are built a flight at a time, into one buffer, all of one size but the last, which is how
the kernel wants them for segmentation offload (UDP_SEGMENT).
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from jetstreamproto.reliability.frames import (
    END,
    MESSAGE,
    MESSAGE_FIN,
    MESSAGE_HEAD,
    SKIP,
    SOURCE,
    SOURCE_HEAD,
    STREAM,
    STREAM_FIN,
    STREAM_HEAD,
    WINDOW,
    Skip,
    encode_control,
)
from jetstreamproto.reliability.protection import Protector
from jetstreamproto.reliability.sent import Control, Flight
from jetstreamproto.reliability.streams import ORDERED, SendStream
from jetstreamproto.security.datagrams import OVERHEAD, DatagramSealer

MAX_FLIGHT = 64
"""Packets that leave together at most: what the kernel takes with one call."""

_HEAD = 15  # of a STREAM or MESSAGE frame
_CONTROL_ROOM = 24
_LEAST_PIECE = 32  # bytes of a stream that are worth a frame, unless that is all there is
_SMALL = 4096  # up to this size, joining a packet's head and payload beats keeping both
_FIRST_LIMIT = 1 << 18
"""Bytes of streams that may be sent before the peer has announced its window."""


class Outgoing:
    """The sending half of a connection. `build` makes the packets that `write` fills."""

    __slots__ = (
        "_controls",
        "_ending",
        "_fec",
        "_limit",
        "_messages",
        "_ready",
        "_repairs",
        "_retry",
        "_sealer",
        "_sent_total",
        "_skips",
        "_streams",
        "_timed",
        "_twice",
        "_window",
        "repair_bytes",
        "resent_bytes",
        "unsent",
    )

    def __init__(self, sealer: DatagramSealer, fec: Protector) -> None:
        self._sealer = sealer
        self._fec = fec
        self._streams: dict[tuple[int, int], SendStream] = {}
        self._ready: deque[SendStream] = deque()  # with data that was never sent
        self._retry: deque[SendStream] = deque()  # with data that was lost
        self._twice: deque[tuple[SendStream, int, int]] = deque()  # what was lost, once more
        self._controls: deque[Control] = deque()
        self._repairs: deque[bytes] = deque()
        # messages that expire, the next one first; the numbers keep equal deadlines in order
        self._timed: list[tuple[float, int, int, SendStream]] = []
        self._skips: set[Skip] = set()  # that the peer does not know of yet
        self._limit = _FIRST_LIMIT
        self._sent_total = 0
        self._window = 0  # what the peer may send us, for WINDOW frames
        self._messages: dict[int, int] = {}  # by channel, those that are on their way
        self._ending: set[int] = set()  # channels whose streams end when those have come
        self.unsent = 0  # bytes written and never sent
        self.resent_bytes = 0
        self.repair_bytes = 0

    # --- from the link ------------------------------------------------------------------

    def write(
        self, channel: int, head: bytes, payload: bytes | memoryview, protected: bool
    ) -> None:
        """A packet for the ordered stream of `channel`; `protected`: FEC may be used for it."""
        stream = self._streams.get((channel, ORDERED))
        if stream is None:
            stream = self._streams[channel, ORDERED] = SendStream(channel)
        stream.protected = protected
        if len(payload) <= _SMALL:
            stream.write(head + payload if payload else head)
        else:
            stream.write(head)
            stream.write(payload)
        self.unsent += len(head) + len(payload)
        self._schedule(stream)

    def write_message(
        self, channel: int, number: int, packet: bytes, expires_at: float | None, protected: bool
    ) -> None:
        """A packet that is a message by itself."""
        stream = SendStream(channel, number, expires_at)
        stream.write(packet)
        stream.fin = True
        stream.protected = protected
        self._streams[channel, number] = stream
        self._messages[channel] = self._messages.get(channel, 0) + 1
        self.unsent += len(packet)
        self._schedule(stream)
        if expires_at is not None:
            heappush(self._timed, (expires_at, channel, number, stream))

    def end_stream(self, channel: int) -> None:
        """Nothing more will be written for `channel`.

        Its stream ends once the peer has all of its messages: what comes later is not expected.
        """
        stream = self._streams.get((channel, ORDERED))
        if stream is None:
            return
        if channel in self._messages:
            self._ending.add(channel)
        else:
            stream.fin = True
            self._schedule(stream)

    def put_control(self, kind: int, value: object = None) -> None:
        """Send a frame, and again until it is acknowledged."""
        self._controls.append((kind, value))

    def announce_window(self, limit: int) -> None:
        """The peer may send `limit` bytes of streams in all."""
        self._window = limit
        if (WINDOW, None) not in self._controls:
            self._controls.append((WINDOW, None))

    def limit_received(self, limit: int) -> None:
        """The peer takes `limit` bytes of streams in all."""
        self._limit = max(self._limit, limit)

    @property
    def has_data(self) -> bool:
        """Whether there is anything to send that the peer's window allows."""
        return bool(
            self._controls
            or self._repairs
            or self._retry
            or self._twice
            or (self._ready and (self._sent_total < self._limit or self._ready[0].number >= 0))
        )

    @property
    def resending(self) -> bool:
        """Whether something other than new data waits."""
        return bool(self._retry or self._controls or self._repairs or self._twice)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent, not even for the peer's window."""
        return not (self._ready or self._retry or self._controls or self._repairs)

    @property
    def next_expiry(self) -> float | None:
        """When a message expires next, if any can."""
        timed = self._timed
        while timed and timed[0][3].done:
            heappop(timed)
        return timed[0][0] if timed else None

    def expire(self, now: float) -> None:
        """Give up the messages whose time is over; the peer is told their numbers."""
        timed = self._timed
        while timed and (timed[0][3].done or timed[0][0] <= now):
            stream = heappop(timed)[3]
            if stream.done:
                continue
            self.unsent -= stream.unsent
            stream.drop()
            if self._streams.pop((stream.channel, stream.number), None) is not None:
                skip = Skip(stream.channel, stream.number, stream.end)
                self._skips.add(skip)
                self.put_control(SKIP, skip)

    def _schedule(self, stream: SendStream) -> None:
        if not stream.scheduled:
            stream.scheduled = True
            self._ready.append(stream)

    # --- what became of what was sent ---------------------------------------------------

    def control_acked(self, control: Control) -> None:
        kind, value = control
        if kind == SKIP:
            assert isinstance(value, Skip)
            if value in self._skips:  # one that was sent twice may be acknowledged twice
                self._skips.discard(value)
                self._message_settled(value.channel)

    def control_lost(self, control: Control) -> None:
        kind, value = control
        again = kind in (END, WINDOW) or (kind == SKIP and value in self._skips)
        if again and control not in self._controls:
            self._controls.append(control)

    def stream_acked(self, stream: SendStream) -> None:
        if stream.fin_acked and stream.done:
            known = self._streams.pop((stream.channel, stream.number), None)
            if known is not None and stream.number >= 0:
                self._message_settled(stream.channel)

    def _message_settled(self, channel: int) -> None:
        """A message of `channel` has come, or the peer knows that it will not."""
        left = self._messages[channel] - 1
        if left:
            self._messages[channel] = left
            return
        del self._messages[channel]
        if channel in self._ending:
            self._ending.discard(channel)
            self.end_stream(channel)

    def stream_lost(self, stream: SendStream) -> None:
        if (stream.channel, stream.number) in self._streams:
            self._retry.append(stream)

    # --- packets ------------------------------------------------------------------------

    def build(
        self, out: memoryview, size: int, budget: float, now: float, prefix: bytes
    ) -> tuple[Flight | None, int]:
        """Seal the next flight into `out`: packets of `size` bytes, about `budget` in all.

        `prefix` (frames that are not sent again) goes into the first packet. None when nothing
        but the prefix is left to be sent; otherwise the flight and the bytes written.
        """
        flight = Flight(self._sealer.number, now)
        capacity = size - OVERHEAD
        most = min(MAX_FLIGHT, len(out) // size)
        position = 0
        while flight.count < most and position < budget:
            if not prefix and not self.resending:
                end = self._seal_run(flight, out, position, capacity, most, budget)
                if end != position:
                    position = end
                    flight.size = size
                    continue
            plaintext = self._next_packet(flight, capacity, prefix, now)
            prefix = b""
            if plaintext is None:
                break
            end = self._sealer.seal(plaintext, out, position)
            if not flight.count:
                flight.size = end - position
            flight.last_size = end - position
            flight.count += 1
            position = end
            if flight.last_size != flight.size or flight.size != size:
                break
        if not flight.count:
            return None, 0
        flight.last = flight.first + flight.count - 1
        return flight, position

    def _seal_run(
        self,
        flight: Flight,
        out: memoryview,
        position: int,
        capacity: int,
        most: int,
        budget: float,
    ) -> int:
        """Seal full packets of the first stream's new data, as many as there are; the end."""
        stream = self._ready[0] if self._ready else None
        if stream is None or stream.number >= 0 or self._fec.protects_all or stream.lost:
            return position
        if stream.protected and self._fec.active:
            return position
        step = capacity - _HEAD
        available = min(stream.end - stream.next, self._limit - self._sent_total)
        count = min(
            available // step,
            most - flight.count,
            int((budget - position) // (capacity + OVERHEAD)) + 1,
        )
        if count <= 0:
            return position
        first = offset = stream.next
        seal, pack, channel = self._sealer.seal, STREAM_HEAD.pack, stream.channel
        view, base, limit = stream.chunk_at(offset)
        for _ in range(count):
            stop = offset + step
            head = pack(STREAM, channel, offset, step)
            if stop <= limit:
                plaintext = b"".join((head, view[offset - base : stop - base]))
            else:
                plaintext = b"".join((head, *stream.read(offset, stop)))
                view, base, limit = stream.chunk_at(stop)
            position = seal(plaintext, out, position)
            offset = stop
        flight.runs.append((flight.count, count, stream, first, step, offset, False))
        flight.count += count
        flight.last_size = capacity + OVERHEAD
        self._advance(stream, offset)
        return position

    def _advance(self, stream: SendStream, offset: int) -> None:
        """New data of `stream` up to `offset` are on their way."""
        size = offset - stream.next
        stream.next = offset
        self.unsent -= size
        if stream.number < 0:
            self._sent_total += size
        if offset == stream.end and (not stream.fin or stream.fin_sent):
            self._unschedule(stream)

    def _unschedule(self, stream: SendStream) -> None:
        stream.scheduled = False
        if self._ready and self._ready[0] is stream:
            self._ready.popleft()
        else:
            self._ready.remove(stream)

    def _next_packet(
        self, flight: Flight, capacity: int, prefix: bytes, now: float
    ) -> bytes | None:
        """The plaintext of one packet, with what it carries noted in `flight`."""
        repairs = self._repairs
        while repairs and len(repairs[0]) > capacity:  # the path has become narrower
            repairs.popleft()
        if repairs and len(prefix) + len(repairs[0]) <= capacity:
            repair = repairs.popleft()
            self.repair_bytes += len(repair) + OVERHEAD
            return prefix + repair
        pieces: list[bytes | memoryview] = [prefix] if prefix else []
        room = capacity - len(prefix)
        controls = self._controls
        while controls and room >= _CONTROL_ROOM:
            control = controls.popleft()
            flight.controls.append((flight.count, control))
            frame = self._encode(control)
            pieces.append(frame)
            room -= len(frame)
        mark = len(pieces)
        protect = self._protects_next(now)
        if protect:
            room -= SOURCE_HEAD.size
        room = self._fill(flight, pieces, room)
        if len(pieces) == mark:
            return b"".join(pieces) if flight.controls and mark > bool(prefix) else None
        if protect:
            return self._protected(pieces, mark, now)
        return b"".join(pieces)

    def _protected(self, pieces: list[bytes | memoryview], mark: int, now: float) -> bytes:
        fec = self._fec
        pieces.insert(mark, SOURCE_HEAD.pack(SOURCE, fec.next_symbol))
        plaintext = b"".join(pieces)
        start = sum(map(len, pieces[: mark + 1]))
        fec.add(memoryview(plaintext)[start:], self._sealer.number, now)
        self.take_repairs(now)
        return plaintext

    def take_repairs(self, now: float) -> None:
        """Queue the repair packets that are due."""
        self._repairs += self._fec.take_repairs(now)

    def _protects_next(self, now: float) -> bool:
        protected = self._fec.protects_all
        if not protected:
            queue = self._retry or self._ready
            protected = bool(queue) and queue[0].protected
        return protected and self._fec.protects(now)

    def _encode(self, control: Control) -> bytes:
        kind, value = control
        return encode_control(kind, self._window if kind == WINDOW else value)

    def _fill(self, flight: Flight, pieces: list[bytes | memoryview], room: int) -> int:
        """Add pieces of streams, first what was lost; the room that is left."""
        room = self._fill_lost(flight, pieces, room)
        ready = self._ready
        while ready and room > _HEAD:
            stream = ready[0]
            size = min(stream.end - stream.next, room - _HEAD)
            if stream.number < 0:
                size = min(size, self._limit - self._sent_total)
            if size <= 0 and stream.next < stream.end:
                break
            if size < _LEAST_PIECE and stream.next + size < stream.end:
                break
            start = stream.next
            fin = stream.fin and start + size == stream.end and not stream.fin_sent
            if not size and not fin:
                self._unschedule(stream)
                continue
            room -= self._piece(flight, pieces, stream, start, start + size, fin)
            self._advance(stream, start + size)
        return room

    def _fill_lost(self, flight: Flight, pieces: list[bytes | memoryview], room: int) -> int:
        """Add what was lost; the room that is left.

        When nothing new waits it is sent twice, for then it is all that the peer waits for
        (Flach et al., "Reducing Web Latency: the Virtue of Gentle Aggression", 2013).
        """
        retry, twice = self._retry, self._twice
        while retry and room > _HEAD + _LEAST_PIECE:
            stream = retry[0]
            if stream.lost:
                start, stop = stream.lost.popleft()
                size = min(stop - start, room - _HEAD)
                if size < stop - start:
                    stream.lost.appendleft((start + size, stop))
                self.resent_bytes += size
                fin = stream.fin and start + size == stream.end and not stream.fin_sent
                room -= self._piece(flight, pieces, stream, start, start + size, fin)
                if not self._ready:
                    twice.append((stream, start, start + size))
            elif stream.fin and not stream.fin_sent and stream.next == stream.end:
                room -= self._piece(flight, pieces, stream, stream.end, stream.end, True)
            else:
                retry.popleft()
        while twice and not retry and room > _HEAD + _LEAST_PIECE:
            stream, start, stop = twice.popleft()
            start = max(start, stream.acked_to)
            size = min(stop - start, room - _HEAD)
            known = (stream.channel, stream.number) in self._streams
            if size > 0 and known and not self._ready:
                if start + size < stop:
                    twice.appendleft((stream, start + size, stop))
                self.resent_bytes += size
                fin = stream.fin and start + size == stream.end
                room -= self._piece(flight, pieces, stream, start, start + size, fin)
        return room

    def _piece(
        self,
        flight: Flight,
        pieces: list[bytes | memoryview],
        stream: SendStream,
        start: int,
        stop: int,
        fin: bool,
    ) -> int:
        """Add one frame with bytes of `stream`; its size."""
        size = stop - start
        if stream.number < 0:
            kind = STREAM_FIN if fin else STREAM
            pieces.append(STREAM_HEAD.pack(kind, stream.channel, start, size))
        else:
            kind = MESSAGE_FIN if fin else MESSAGE
            pieces.append(MESSAGE_HEAD.pack(kind, stream.channel, stream.number, start, size))
        if size:
            pieces += stream.read(start, stop)
        if fin:
            stream.fin_sent = True
        flight.runs.append((flight.count, 1, stream, start, size, stop, fin))
        return _HEAD + size
