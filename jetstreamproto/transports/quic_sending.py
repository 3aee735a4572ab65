"""What is sent on QUIC streams: a stream for each channel, and one for each message without order.

aioquic buffers whatever it is given, so this counts what is not acknowledged yet.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from jetstreamproto.transports.quic_core import QuicCore, SendingStream
from jetstreamproto.transports.quic_receiving import MESSAGE, QuicReceiving
from jetstreamproto.wire.packet import HEAD_SIZE, Flag, Kind, encode_head

EXPIRED = 1
"""The code by which the stream of a message is reset."""

_MESSAGE_STREAMS = 256
"""Messages under way at a time; the library looks at each for every packet that it builds."""
_KIND_OF_MESSAGE = bytes([MESSAGE])
_WAITING_COST = 256  # of a message, beside its bytes


class _Message:
    """A message without order that may not have come yet."""

    __slots__ = ("channel", "data", "number", "over", "size", "stream")

    def __init__(self, channel: int, number: int, data: bytes) -> None:
        self.channel = channel
        self.number = number
        self.size = len(data)  # of its packet
        self.data: bytes = data  # until it has a stream
        self.stream: SendingStream | None = None
        self.over = False


class QuicSending:
    """The sending half of a connection.

    `write` and `write_message` take packets, `sweep` looks at what was acknowledged since, and
    `expire` gives up messages whose time has come. `pending` is the bytes that the peer has not
    acknowledged, as of the last `sweep` and with all that was taken since.
    """

    def __init__(self, core: QuicCore, receiving: QuicReceiving, *, client: bool) -> None:
        self.pending = 0
        self._core = core
        self._receiving = receiving
        self._side = 1 if client else 0  # parity of the channels that this side opens
        self._client = client
        self._streams: dict[int, SendingStream] = {}  # by channel
        self._busy: dict[SendingStream, None] = {}
        self._waiting: deque[_Message] = deque()
        self._under_way: list[_Message] = []
        self._count: dict[int, int] = {}  # messages of a channel that are not over
        self._ending: set[int] = set()
        self._deadlines: list[tuple[float, int, _Message]] = []
        self._order = 0
        self._end: SendingStream | None = None

    # --- taking -----------------------------------------------------------------------

    def write(self, channel: int, head: bytes, payload: bytes | memoryview) -> None:
        """Append a packet to its channel's stream."""
        stream = self._streams.get(channel) or self._open(channel)
        if stream is None:
            return  # the peer has never opened it
        packet = b"".join((head, payload)) if payload else head
        stream.write(packet)
        self._busy[stream] = None
        self.pending += len(packet)

    def write_message(
        self, channel: int, number: int, packet: bytes, expires_at: float | None
    ) -> None:
        """Send a DATA packet on its own, if it can be before `expires_at`."""
        message = _Message(channel, number, packet)
        self._count[channel] = self._count.get(channel, 0) + 1
        self._waiting.append(message)
        self.pending += message.size + _WAITING_COST
        if expires_at is not None:
            self._order += 1
            heappush(self._deadlines, (expires_at, self._order, message))
        self._open_messages()

    def end_channel(self, channel: int) -> None:
        """End the channel's stream, when all of its messages are acknowledged or given up."""
        self._ending.add(channel)
        self._finish(channel)

    def send_control(self, kind: int, data: bytes) -> None:
        """Send `data` on a one-way stream of its own."""
        stream = self._core.open_stream(one_way=True)
        stream.write(bytes([kind]) + data, end=True)
        self._busy[stream] = None

    # --- progress ---------------------------------------------------------------------

    def sweep(self) -> None:
        """See what was acknowledged."""
        pending = 0
        for stream in tuple(self._busy):
            left = stream.pending
            if left:
                pending += left
            else:
                del self._busy[stream]
        if self._under_way:
            self._under_way = [message for message in self._under_way if self._is_on(message)]
            pending += sum(message.size + _WAITING_COST for message in self._under_way)
        if self._waiting:
            self._open_messages()
            pending += sum(message.size + _WAITING_COST for message in self._waiting)
        self.pending = pending

    @property
    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        while self._deadlines and self._deadlines[0][2].over:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Give up messages whose time has come, and say so in their channels' streams."""
        while (due := self.next_deadline) is not None and due <= now:
            message = heappop(self._deadlines)[2]
            if message.stream is not None and message.stream.finished:
                self._over(message)
                continue
            if message.stream is not None:
                message.stream.reset(EXPIRED)
            size = (message.size - HEAD_SIZE).to_bytes(4, "little")
            head = encode_head(message.number, message.channel, Kind.DATA, Flag.DROPPED, 0, 4)
            self.write(message.channel, head, size)
            self._over(message)

    def end(self) -> bool:
        """Send the end once all else has come; whether the peer has acknowledged it."""
        if self._end is None:
            self.sweep()
            last = self._streams.get(0) or self._open(0)
            if self.pending - (0 if last is None else last.pending) > 0 or last is None:
                return False
            last.write(b"", end=True)
            self._end = last
        return self._end.finished

    @property
    def ended(self) -> bool:
        """Whether the end was sent."""
        return self._end is not None

    # --- streams ----------------------------------------------------------------------

    def _open(self, channel: int) -> SendingStream | None:
        """This side of a channel's stream, which whoever opens the channel begins."""
        theirs = self._receiving.stream_of(channel)
        stream: SendingStream | None
        if theirs is not None:
            stream = self._core.answer_on(theirs)
        elif self._client if channel == 0 else channel % 2 == self._side:
            stream = self._core.open_stream(one_way=False)
        else:
            stream = None
        if stream is not None:
            self._streams[channel] = stream
        return stream

    def _open_messages(self) -> None:
        waiting, under_way = self._waiting, self._under_way
        while waiting and len(under_way) < _MESSAGE_STREAMS:
            if waiting[0].over:
                waiting.popleft()
                continue
            if self._core.message_streams_left <= 0:
                return
            message = waiting.popleft()
            message.stream = self._core.open_stream(one_way=True)
            message.stream.write(_KIND_OF_MESSAGE + message.data, end=True)
            message.data = b""
            under_way.append(message)

    def _is_on(self, message: _Message) -> bool:
        if not message.over and message.stream is not None and message.stream.finished:
            self._over(message)
        return not message.over

    def _over(self, message: _Message) -> None:
        message.over = True
        message.data = b""
        left = self._count[message.channel] - 1
        if left:
            self._count[message.channel] = left
        else:
            del self._count[message.channel]
            self._finish(message.channel)

    def _finish(self, channel: int) -> None:
        if channel in self._ending and channel not in self._count:
            self._ending.discard(channel)
            stream = self._streams.pop(channel, None)
            if stream is not None:
                stream.write(b"", end=True)
            self._receiving.forget(channel)
