"""Assembly: fragments that come in any order, put together to messages.

A fragment says its packet's number and its index in the message, so the message begins at the
packet `seq - index` and ends at the first fragment without MORE. A packet that was given up says
only its number: which message it belonged to is known from the message's other fragments, if any
of them comes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

from jetstreamproto.errors import ChannelReset
from jetstreamproto.reliability.intervals import IntervalSet
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.intake import Intake, too_large

MAX_GAPS = 1 << 12
"""Runs of packets that may be missing in a channel while later ones have come."""
FRAGMENT_COST = 128
"""What keeping a fragment costs in bytes beside its content."""
MESSAGE_COST = 512
"""What keeping an unfinished message costs in bytes beside its fragments."""
GAP_COST = 96
"""What remembering a run of missing packets costs in bytes."""

_MAX_LOST = 64  # messages that cannot be completed and are remembered, for their late fragments


class _Arrived(IntervalSet):
    __slots__ = ()

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any number from `start` to before `stop` is in."""
        index = bisect_left(self._starts, stop) - 1
        return index >= 0 and self._stops[index] > start


class _Message:
    """A message that is not whole yet. Its fragments are None once it cannot be any more."""

    __slots__ = ("cost", "fragments", "last", "size", "start", "stop")

    def __init__(self, start: int) -> None:
        self.start = start  # the number of its first packet
        self.stop = start  # the packets before this one are known to be its own
        self.last: int | None = None  # index of the last fragment
        self.fragments: dict[int, bytes] | None = {}
        self.size = 0
        self.cost = MESSAGE_COST


class Assembly:
    """The unfinished messages of one channel, within the session's bound (`Intake.reserve`).

    With `lossy`, packets may be given up. Fragments that cannot be taken raise `ChannelReset`.
    """

    __slots__ = (
        "_arrived",
        "_gaps",
        "_intake",
        "_lossy",
        "_lost",
        "_max_message",
        "_messages",
        "_starts",
    )

    def __init__(self, intake: Intake, max_message: int, *, lossy: bool) -> None:
        self._intake = intake
        self._max_message = max_message
        self._lossy = lossy
        self._arrived = _Arrived()
        self._gaps = 0  # how many are counted
        self._messages: dict[int, _Message] = {}
        self._starts: list[int] = []  # of these, sorted
        self._lost: deque[_Message] = deque()  # those of them that cannot be completed

    @property
    def unfinished(self) -> bool:
        """Whether fragments wait for others."""
        return len(self._messages) > len(self._lost)

    def add(self, seq: int, index: int, more: bool, content: memoryview | bytes) -> bytes | None:
        """Take a fragment; the message if it completes one."""
        start = seq - index
        if start < 0:
            raise _impossible(f"packet {seq} cannot be fragment {index}")
        message = self._messages.get(start)
        if message is None and not index and not more:
            if len(content) > self._max_message:
                raise too_large(self._max_message)
            self._arrive(seq)
            return bytes(content)
        if message is None:
            message = self._begin(start)
        self._extend(message, seq, more)
        self._arrive(seq)
        if message.fragments is None:
            return None
        self._keep(message, message.fragments, index, content)
        if message.last is None or len(message.fragments) <= message.last:
            return None
        self._forget(message)
        return b"".join(message.fragments[n] for n in range(message.last + 1))

    def drop(self, seq: int) -> int:
        """A packet was given up; how many messages are lost by that."""
        self._arrive(seq)
        position = bisect_right(self._starts, seq) - 1
        if position >= 0:
            message = self._messages[self._starts[position]]
            if seq < message.stop:
                return self._lose(message)
        return 1

    def clear(self) -> None:
        """Forget everything that is unfinished."""
        for message in self._messages.values():
            self._intake.release(message.cost)
        self._intake.release(self._gaps * GAP_COST)
        self._gaps = 0
        self._messages.clear()
        self._starts.clear()
        self._lost.clear()

    # --- packets ----------------------------------------------------------------------

    def _arrive(self, seq: int) -> None:
        if not self._arrived.add(seq):
            raise _impossible(f"packet {seq} came twice")
        if self._arrived.intervals - 1 != self._gaps:
            self._count_gaps()

    def _count_gaps(self) -> None:
        gaps = self._arrived.intervals - 1
        if gaps > MAX_GAPS:
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many packets are missing")
        if gaps > self._gaps:
            self._intake.reserve((gaps - self._gaps) * GAP_COST)
        else:
            self._intake.release((self._gaps - gaps) * GAP_COST)
        self._gaps = gaps

    def _extend(self, message: _Message, seq: int, more: bool) -> None:
        """Note that a packet is one of `message`, and the next one if there is `more`."""
        index = seq - message.start
        if message.last is not None and (index > message.last or (more and index == message.last)):
            raise _impossible(f"packet {seq} goes on after its message's end")
        if not more:
            if seq + 1 < message.stop:
                raise _impossible(f"packet {seq} ends a message that goes on")
            message.last = index
        stop = seq + 1 + more
        if stop > message.stop:
            # What came there before, and was not known to be of this message, was given up.
            if self._arrived.overlaps(message.stop, stop):
                if not self._lossy:
                    raise _impossible(f"packet {seq} is in the midst of other messages")
                self._lose(message)
            message.stop = stop

    # --- messages ---------------------------------------------------------------------

    def _begin(self, start: int) -> _Message:
        self._intake.reserve(MESSAGE_COST)
        message = self._messages[start] = _Message(start)
        insort(self._starts, start)
        return message

    def _keep(
        self,
        message: _Message,
        fragments: dict[int, bytes],
        index: int,
        content: memoryview | bytes,
    ) -> None:
        message.size += len(content)
        if message.size > self._max_message:
            raise too_large(self._max_message)
        cost = len(content) + FRAGMENT_COST
        self._intake.reserve(cost)
        message.cost += cost
        fragments[index] = bytes(content)

    def _lose(self, message: _Message) -> int:
        """`message` cannot be completed; 1 if that is new."""
        if message.fragments is None:
            return 0
        message.fragments = None
        self._intake.release(message.cost - MESSAGE_COST)
        message.cost = MESSAGE_COST
        self._lost.append(message)
        if len(self._lost) > _MAX_LOST:
            self._forget(self._lost.popleft())
        return 1

    def _forget(self, message: _Message) -> None:
        self._intake.release(message.cost)
        del self._messages[message.start]
        del self._starts[bisect_left(self._starts, message.start)]


def _impossible(why: str) -> ChannelReset:
    return ChannelReset(ResetCode.PROTOCOL_ERROR, why)
