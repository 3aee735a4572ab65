"""Packets made of what waits to be sent, and sealed.

They are made a flight at a time, into one buffer, all of one size but the last, which is how
the kernel wants them for segmentation offload (UDP_SEGMENT).
"""

from __future__ import annotations

from math import ceil

from jetstreamproto.reliability.frames import (
    MESSAGE,
    MESSAGE_FIN,
    MESSAGE_HEAD,
    SOURCE,
    SOURCE_HEAD,
    STREAM,
    STREAM_FIN,
    STREAM_HEAD,
    WINDOW,
    encode_control,
)
from jetstreamproto.reliability.outgoing import Outgoing
from jetstreamproto.reliability.protection import Protector
from jetstreamproto.reliability.sent import Control, Flight
from jetstreamproto.reliability.streams import SendStream
from jetstreamproto.security.datagrams import OVERHEAD, DatagramSealer

MAX_FLIGHT = 64
"""Packets that leave together at most: what the kernel takes with one call."""

_CONTROL_ROOM = 24
_LEAST_PIECE = 32  # bytes of a stream that are worth a frame, unless that is all there is
_LEAST_ROOM = MESSAGE_HEAD.size + _LEAST_PIECE


class Packer:
    """Makes the packets of one connection, and notes in a `Flight` what each carries."""

    __slots__ = ("_fec", "_sealer", "_waiting")

    def __init__(self, sealer: DatagramSealer, waiting: Outgoing, fec: Protector) -> None:
        self._sealer = sealer
        self._waiting = waiting
        self._fec = fec

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
            if not prefix and not self._waiting.resending:
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
        stream = self._waiting.ready[0] if self._waiting.ready else None
        if stream is None or stream.number >= 0 or self._fec.protects_all or stream.lost:
            return position
        if stream.protected and self._fec.active:
            return position
        step = capacity - stream.head
        available = min(stream.end - stream.next, self._waiting.credit)
        count = min(
            available // step,
            most - flight.count,
            ceil((budget - position) / (capacity + OVERHEAD)),
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
        self._waiting.advance(stream, offset)
        return position

    def _next_packet(
        self, flight: Flight, capacity: int, prefix: bytes, now: float
    ) -> bytes | None:
        """The plaintext of one packet, with what it carries noted in `flight`."""
        repairs = self._waiting.repairs
        while repairs and len(repairs[0]) > capacity:  # the path has become narrower
            repairs.popleft()
        if repairs and len(prefix) + len(repairs[0]) <= capacity:
            repair = repairs.popleft()
            self._waiting.repair_bytes += len(repair) + OVERHEAD
            return prefix + repair
        pieces: list[bytes | memoryview] = [prefix] if prefix else []
        room = capacity - len(prefix)
        controls = self._waiting.controls
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
        self._waiting.take_repairs(now)
        return plaintext

    def _protects_next(self, now: float) -> bool:
        protected = self._fec.protects_all
        if not protected:
            queue = self._waiting.retry or self._waiting.ready
            protected = bool(queue) and queue[0].protected
        return protected and self._fec.protects(now)

    def _encode(self, control: Control) -> bytes:
        kind, value = control
        return encode_control(kind, self._waiting.window if kind == WINDOW else value)

    def _fill(self, flight: Flight, pieces: list[bytes | memoryview], room: int) -> int:
        """Add pieces of streams, first what was lost; the room that is left."""
        room = self._fill_lost(flight, pieces, room)
        ready = self._waiting.ready
        while ready and room > ready[0].head:
            stream = ready[0]
            size = min(stream.end - stream.next, room - stream.head)
            if stream.number < 0:
                size = min(size, self._waiting.credit)
            if size <= 0 and stream.next < stream.end:
                break
            if size < _LEAST_PIECE and stream.next + size < stream.end:
                break
            start = stream.next
            fin = stream.fin and start + size == stream.end and not stream.fin_sent
            if not size and not fin:
                self._waiting.unschedule(stream)
                continue
            room -= self._piece(flight, pieces, stream, start, start + size, fin)
            self._waiting.advance(stream, start + size)
        return room

    def _fill_lost(self, flight: Flight, pieces: list[bytes | memoryview], room: int) -> int:
        """Add what was lost; the room that is left.

        When nothing new waits it is sent twice, for then it is all that the peer waits for
        (Flach et al., "Reducing Web Latency: the Virtue of Gentle Aggression", 2013).
        """
        retry, twice, before = self._waiting.retry, self._waiting.twice, room
        while retry and room > _LEAST_ROOM:
            stream = retry[0]
            if stream.lost:
                start, stop = stream.lost.popleft()
                size = min(stop - start, room - stream.head)
                if size < stop - start:
                    stream.lost.appendleft((start + size, stop))
                self._waiting.resent_bytes += size
                fin = stream.fin and start + size == stream.end and not stream.fin_sent
                room -= self._piece(flight, pieces, stream, start, start + size, fin)
                if not self._waiting.ready:
                    twice.append((stream, start, start + size))
            elif stream.fin and not stream.fin_sent and stream.next == stream.end:
                room -= self._piece(flight, pieces, stream, stream.end, stream.end, True)
            else:
                retry.popleft()
        first_time = room < before
        while twice and not (retry or first_time) and room > _LEAST_ROOM:
            stream, start, stop = twice.popleft()
            start = max(start, stream.acked_to)
            size = min(stop - start, room - stream.head)
            known = (stream.channel, stream.number) in self._waiting.streams
            if size > 0 and known and not self._waiting.ready:
                if start + size < stop:
                    twice.appendleft((stream, start + size, stop))
                self._waiting.resent_bytes += size
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
        return stream.head + size
