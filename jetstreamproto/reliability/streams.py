"""Streams: bytes in order by their offsets, and messages, which are short streams of their own.

A stream is known by its channel and a number, which is -1 for the channel's ordered stream and
the message's number otherwise.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence

from jetstreamproto.errors import ProtocolViolation

ORDERED = -1
"""The number of a channel's ordered stream."""

SEGMENT_COST = 200
"""What keeping a piece that came out of order costs in bytes, beside its data."""

_Data = bytes | memoryview


class SendStream:
    """What is to be sent on a stream, and what of it the peer has not acknowledged yet."""

    __slots__ = (
        "_acked",
        "_chunks",
        "_starts",
        "acked_to",
        "channel",
        "deadline",
        "end",
        "fin",
        "fin_acked",
        "fin_sent",
        "lost",
        "next",
        "number",
        "protected",
        "scheduled",
    )

    def __init__(self, channel: int, number: int = ORDERED, deadline: float | None = None) -> None:
        self.channel = channel
        self.number = number
        self.deadline = deadline  # when a message expires; None for never
        self.protected = False  # whether FEC covers it
        self.scheduled = False  # whether it waits in the queue of those that have data
        self.end = 0  # offset of what is written next
        self.next = 0  # offset of what is sent next
        self.acked_to = 0  # everything below is acknowledged, and forgotten
        self.fin = False
        self.fin_sent = False
        self.fin_acked = False
        self.lost: deque[tuple[int, int]] = deque()  # ranges to be sent again
        self._acked: list[tuple[int, int]] = []  # ranges above `acked_to`
        self._chunks: list[_Data] = []
        self._starts: list[int] = []

    def write(self, data: _Data) -> None:
        """Append `data`, which must not change from now on."""
        self._chunks.append(data)
        self._starts.append(self.end)
        self.end += len(data)

    @property
    def unsent(self) -> int:
        return self.end - self.next

    @property
    def wants_to_send(self) -> bool:
        return bool(self.lost) or self.next < self.end or (self.fin and not self.fin_sent)

    @property
    def done(self) -> bool:
        """Everything, the end included, is acknowledged."""
        return self.fin_acked and self.acked_to == self.end

    def read(self, start: int, stop: int) -> Sequence[_Data]:
        """The bytes from `start` to `stop`, in one piece or a few."""
        chunks, starts = self._chunks, self._starts
        index = bisect_right(starts, start) - 1
        chunk, base = chunks[index], starts[index]
        if stop - base <= len(chunk):
            return (memoryview(chunk)[start - base : stop - base],)
        pieces = [memoryview(chunk)[start - base :]]
        while True:
            index += 1
            chunk, base = chunks[index], starts[index]
            if stop - base <= len(chunk):
                pieces.append(memoryview(chunk)[: stop - base])
                return pieces
            pieces.append(memoryview(chunk))

    def chunk_at(self, offset: int) -> tuple[memoryview, int, int]:
        """The chunk that holds `offset`, where it starts and where it ends."""
        index = bisect_right(self._starts, offset) - 1
        base = self._starts[index]
        view = memoryview(self._chunks[index])
        return view, base, base + len(view)

    def acked(self, start: int, stop: int) -> None:
        """The peer has the bytes from `start` to `stop`."""
        if start <= self.acked_to:
            if stop > self.acked_to:
                self.acked_to = stop
                ranges = self._acked
                while ranges and ranges[0][0] <= self.acked_to:
                    self.acked_to = max(self.acked_to, ranges.pop(0)[1])
                self._forget()
        elif start < stop:
            self._add_range(start, stop)
        if self.lost:
            self._unlose(start, stop)

    def lose(self, start: int, stop: int) -> bool:
        """The bytes from `start` to `stop` were lost; whether any must be sent again."""
        any_missing = False
        start = max(start, self.acked_to)
        index = max(bisect_right(self._acked, (start, self.end)) - 1, 0)
        while start < stop:
            while index < len(self._acked) and self._acked[index][1] <= start:
                index += 1
            low, high = self._acked[index] if index < len(self._acked) else (stop, stop)
            if start < low:
                self.lost.append((start, min(low, stop)))
                any_missing = True
            start = max(start, high)
        return any_missing

    def drop(self) -> None:
        """Nothing of this is to be sent any more."""
        self.lost.clear()
        self.next = self.end
        self.fin_sent = True

    def _add_range(self, start: int, stop: int) -> None:
        ranges = self._acked
        low = bisect_left(ranges, (start, start))
        if low and ranges[low - 1][1] >= start:
            low -= 1
            start = ranges[low][0]
        high = low
        while high < len(ranges) and ranges[high][0] <= stop:
            stop = max(stop, ranges[high][1])
            high += 1
        ranges[low:high] = [(start, stop)]

    def _unlose(self, start: int, stop: int) -> None:
        """What was thought lost has come after all."""
        kept: deque[tuple[int, int]] = deque()
        for low, high in self.lost:
            if high <= start or low >= stop:
                kept.append((low, high))
                continue
            if low < start:
                kept.append((low, start))
            if high > stop:
                kept.append((stop, high))
        self.lost = kept

    def _forget(self) -> None:
        """Drop the chunks that the peer has completely."""
        starts = self._starts
        count = bisect_right(starts, self.acked_to) - 1
        if self.acked_to == self.end:
            count = len(starts)
        if count > 0:
            del starts[:count]
            del self._chunks[:count]


class ReceiveStream:
    """What has come of a stream, put in order."""

    __slots__ = ("_offsets", "_pieces", "channel", "end", "highest", "next", "number", "ready")

    def __init__(self, channel: int, number: int = ORDERED) -> None:
        self.channel = channel
        self.number = number
        self.next = 0  # everything below is in `ready`, or was
        self.highest = 0
        self.end: int | None = None  # where it ends, once that is known
        self.ready: list[memoryview] = []
        """In order, and not taken yet."""
        self._offsets: list[int] = []
        self._pieces: dict[int, memoryview] = {}

    @property
    def complete(self) -> bool:
        return self.next == self.end

    @property
    def kept(self) -> int:
        """What is kept out of order costs."""
        return sum(len(piece) + SEGMENT_COST for piece in self._pieces.values())

    def receive(self, offset: int, data: memoryview, fin: bool) -> int:
        """Take a piece; by how much the cost of what is kept out of order has changed.

        Raises `ProtocolViolation` when the piece contradicts an end of the stream.
        """
        stop = offset + len(data)
        if fin or self.end is not None:
            self._check_end(stop, fin)
        if stop > self.highest:
            self.highest = stop
        if offset > self.next:
            return self._keep(offset, data)
        if stop > self.next:
            self.ready.append(data[self.next - offset :] if offset < self.next else data)
            self.next = stop
            if self._offsets:
                return self._take_kept()
        return 0

    def _check_end(self, stop: int, fin: bool) -> None:
        if fin:
            if self.highest > stop or (self.end is not None and self.end != stop):
                raise ProtocolViolation(f"the end of stream {self.channel} has moved")
            self.end = stop
        elif self.end is not None and stop > self.end:
            raise ProtocolViolation(f"data after the end of stream {self.channel}")

    def _keep(self, offset: int, data: memoryview) -> int:
        known = self._pieces.get(offset)
        if known is None:
            insort(self._offsets, offset)
            self._pieces[offset] = data
            return len(data) + SEGMENT_COST
        if len(data) > len(known):
            self._pieces[offset] = data
            return len(data) - len(known)
        return 0

    def _take_kept(self) -> int:
        offsets, pieces, freed, count = self._offsets, self._pieces, 0, 0
        for offset in offsets:
            if offset > self.next:
                break
            data = pieces.pop(offset)
            count += 1
            freed += len(data) + SEGMENT_COST
            if offset + len(data) > self.next:
                self.ready.append(data[self.next - offset :])
                self.next = offset + len(data)
        del offsets[:count]
        return -freed
