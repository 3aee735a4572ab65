"""What waits to be sent: streams, messages, control frames and repairs, and what they may use."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from jetstreamproto.reliability.frames import (
    END,
    SKIP,
    WINDOW,
    Skip,
)
from jetstreamproto.reliability.protection import Protector
from jetstreamproto.reliability.sent import Control
from jetstreamproto.reliability.streams import ORDERED, SendStream

_SMALL = 4096  # up to this size, joining a packet's head and payload beats keeping both
_FIRST_LIMIT = 1 << 18
"""Bytes of streams that may be sent before the peer has announced its window."""


class Outgoing:
    """The sending half of a connection: a `Packer` makes packets of what waits here."""

    __slots__ = (
        "_ending",
        "_fec",
        "_limit",
        "_messages",
        "_sent_total",
        "_skips",
        "_timed",
        "controls",
        "ready",
        "repair_bytes",
        "repairs",
        "resent_bytes",
        "retry",
        "streams",
        "twice",
        "unsent",
        "window",
    )

    def __init__(self, fec: Protector) -> None:
        self._fec = fec
        self.streams: dict[tuple[int, int], SendStream] = {}
        self.ready: deque[SendStream] = deque()  # with data that was never sent
        self.retry: deque[SendStream] = deque()  # with data that was lost
        self.twice: deque[tuple[SendStream, int, int]] = deque()  # what was lost, once more
        self.controls: deque[Control] = deque()
        self.repairs: deque[bytes] = deque()
        # messages that expire, the next one first; the numbers keep equal deadlines in order
        self._timed: list[tuple[float, int, int, SendStream]] = []
        self._skips: set[Skip] = set()  # that the peer does not know of yet
        self._limit = _FIRST_LIMIT
        self._sent_total = 0
        self.window = 0  # what the peer may send us, for WINDOW frames
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
        stream = self.streams.get((channel, ORDERED))
        if stream is None:
            stream = self.streams[channel, ORDERED] = SendStream(channel)
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
        self.streams[channel, number] = stream
        self._messages[channel] = self._messages.get(channel, 0) + 1
        self.unsent += len(packet)
        self._schedule(stream)
        if expires_at is not None:
            heappush(self._timed, (expires_at, channel, number, stream))

    def end_stream(self, channel: int) -> None:
        """Nothing more will be written for `channel`.

        Its stream ends once the peer has all of its messages: what comes later is not expected.
        """
        stream = self.streams.get((channel, ORDERED))
        if stream is None:
            return
        if channel in self._messages:
            self._ending.add(channel)
        else:
            stream.fin = True
            self._schedule(stream)

    def put_control(self, kind: int, value: object = None) -> None:
        """Send a frame, and again until it is acknowledged."""
        self.controls.append((kind, value))

    def announce_window(self, limit: int) -> None:
        """The peer may send `limit` bytes of streams in all."""
        self.window = limit
        if (WINDOW, None) not in self.controls:
            self.controls.append((WINDOW, None))

    def limit_received(self, limit: int) -> None:
        """The peer takes `limit` bytes of streams in all."""
        self._limit = max(self._limit, limit)

    @property
    def has_data(self) -> bool:
        """Whether there is anything to send that the peer's window allows."""
        return bool(
            self.controls
            or self.repairs
            or self.retry
            or self.twice
            or (self.ready and (self._sent_total < self._limit or self.ready[0].number >= 0))
        )

    @property
    def resending(self) -> bool:
        """Whether something other than new data waits."""
        return bool(self.retry or self.controls or self.repairs or self.twice)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent, not even for the peer's window."""
        return not (self.ready or self.retry or self.controls or self.repairs)

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
            if self.streams.pop((stream.channel, stream.number), None) is not None:
                skip = Skip(stream.channel, stream.number, stream.end)
                self._skips.add(skip)
                self.put_control(SKIP, skip)

    def _schedule(self, stream: SendStream) -> None:
        if not stream.scheduled:
            stream.scheduled = True
            self.ready.append(stream)

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
        if again and control not in self.controls:
            self.controls.append(control)

    def stream_acked(self, stream: SendStream) -> None:
        if stream.fin_acked and stream.done:
            known = self.streams.pop((stream.channel, stream.number), None)
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
        if (stream.channel, stream.number) in self.streams:
            self.retry.append(stream)

    # --- for the packer ------------------------------------------------------------------

    @property
    def credit(self) -> int:
        """Bytes of streams that the peer still takes."""
        return self._limit - self._sent_total

    def advance(self, stream: SendStream, offset: int) -> None:
        """New data of `stream` up to `offset` are on their way."""
        size = offset - stream.next
        stream.next = offset
        self.unsent -= size
        if stream.number < 0:
            self._sent_total += size
        if offset == stream.end and (not stream.fin or stream.fin_sent):
            self.unschedule(stream)

    def unschedule(self, stream: SendStream) -> None:
        stream.scheduled = False
        if self.ready and self.ready[0] is stream:
            self.ready.popleft()
        else:
            self.ready.remove(stream)

    def take_repairs(self, now: float) -> None:
        """Queue the repair packets that are due."""
        self.repairs += self._fec.take_repairs(now)
