"""Streams: bytes in order by their offsets, and messages, which are short streams of their own.

A stream is known by its channel and a number, which is -1 for the channel's ordered stream and
the message's number otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.reliability.frames import MESSAGE_HEAD, STREAM_HEAD
from jetstreamproto.reliability.intervals import Range, add_range, remove_range

ORDERED = -1
"""The number of a channel's ordered stream."""

SEGMENT_COST = 512
"""What keeping a message, or a piece that came out of order, costs in bytes beside its data."""

_SMALL = 4096
"""Up to this size, a piece that came out of order is joined with the one that follows it."""
_MOST_READY = 4
"""Pieces of a message that wait one by one: a piece's objects are larger than a small piece."""

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
        "head",
        "lost",
        "next",
        "number",
        "protected",
        "scheduled",
    )

    def __init__(self, channel: int, number: int = ORDERED, deadline: float | None = None) -> None:
        self.channel = channel
        self.number = number
        self.head = (STREAM_HEAD if number == ORDERED else MESSAGE_HEAD).size  # of its frames
        self.deadline = deadline  # when a message expires; None for never
        self.protected = False  # whether FEC covers it
        self.scheduled = False  # whether it waits in the queue of those that have data
        self.end = 0  # offset of what is written next
        self.next = 0  # offset of what is sent next
        self.acked_to = 0  # everything below is acknowledged, and forgotten
        self.fin = False
        self.fin_sent = False
        self.fin_acked = False
        self.lost: deque[Range] = deque()  # to be sent again: sorted, and do not touch
        self._acked: list[Range] = []  # above `acked_to`: sorted, and do not touch
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
                self._acked_up_to(stop)
        elif start < stop:
            add_range(self._acked, start, stop)
        if self.lost:  # what was thought lost has come after all
            remove_range(self.lost, start, stop)

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
                add_range(self.lost, start, min(low, stop))
                any_missing = True
            start = max(start, high)
        return any_missing

    def drop(self) -> None:
        """Nothing of this is to be sent any more."""
        self.lost.clear()
        self.next = self.end
        self.fin_sent = True

    def _acked_up_to(self, stop: int) -> None:
        """Forget the ranges below `stop`, and the chunks that the peer has completely."""
        ranges, count = self._acked, 0
        while count < len(ranges) and ranges[count][0] <= stop:
            stop = max(stop, ranges[count][1])
            count += 1
        del ranges[:count]
        self.acked_to = stop
        starts = self._starts
        count = bisect_right(starts, self.acked_to) - 1
        if self.acked_to == self.end:
            count = len(starts)
        if count > 0:
            del starts[:count]
            del self._chunks[:count]


class ReceiveStream:
    """What has come of a stream, put in order.

    What has to wait, for what is missing or for the rest of a message, is copied: a small piece
    must not keep the packet that it came in.
    """

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
        self._pieces: dict[int, bytes] = {}

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
            return self._keep(offset, data) if stop > offset else 0
        if stop > self.next:
            fresh = data[self.next - offset :] if offset < self.next else data
            self.ready.append(fresh if self.number < 0 else memoryview(bytes(fresh)))
            self.next = stop
            change = self._take_kept() if self._offsets else 0
            if len(self.ready) > _MOST_READY and self.number >= 0:
                self.ready = [memoryview(b"".join(self.ready))]
            return change
        return 0

    def _check_end(self, stop: int, fin: bool) -> None:
        if fin:
            if self.highest > stop or (self.end is not None and self.end != stop):
                raise ProtocolViolation(f"the end of stream {self.channel} has moved")
            self.end = stop
        elif self.end is not None and stop > self.end:
            raise ProtocolViolation(f"data after the end of stream {self.channel}")

    def _keep(self, offset: int, data: memoryview) -> int:
        offsets, pieces = self._offsets, self._pieces
        index = bisect_right(offsets, offset)
        if index:
            before = offsets[index - 1]
            known = pieces[before]
            overlap = before + len(known) - offset
            if overlap >= len(data):
                return 0
            if before == offset or (overlap >= 0 and len(known) < _SMALL):
                pieces[before] = known + data[overlap:]
                return len(data) - overlap
        offsets.insert(index, offset)
        pieces[offset] = bytes(data)
        return len(data) + SEGMENT_COST

    def _take_kept(self) -> int:
        offsets, pieces, freed, count = self._offsets, self._pieces, 0, 0
        for offset in offsets:
            if offset > self.next:
                break
            data = pieces.pop(offset)
            count += 1
            freed += len(data) + SEGMENT_COST
            if offset + len(data) > self.next:
                self.ready.append(memoryview(data)[self.next - offset :])
                self.next = offset + len(data)
        del offsets[:count]
        return -freed
