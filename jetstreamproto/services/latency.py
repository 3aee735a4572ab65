"""Latency: times how long messages take to get here. For benchmarks of events.

Every message starts with 8 bytes: `time.monotonic_ns()` of the sender when it sent it (big endian).
That is the receiver's clock too where both are on one host (CLOCK_MONOTONIC), and only there
is the difference a latency. When the client has ended its direction it is sent the latencies, in
the order in which the messages came: microseconds, 4 bytes each (big endian), many to a message,
and then the end.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable

from jetstreamproto.errors import WireError
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

LATENCY = "latency"
STAMP_SIZE = 8
"""Bytes of the time stamp at the start of every message."""
MAX_MESSAGES = 1_000_000
"""Messages that are timed on one channel."""

_ANSWER = 8192  # latencies a message, which is one fragment then
_MOST = (1 << 32) - 1  # microseconds
_ITEM = 4


def stamp(payload: bytes, now: int) -> bytes:
    """A message that was sent at `now` (in nanoseconds) and has `payload` after its stamp."""
    return now.to_bytes(STAMP_SIZE, "big") + payload


def read_latencies(answer: bytes) -> array[int]:
    """The microseconds in one message of the answer. Raises `WireError` when it is none."""
    if not answer or len(answer) % _ITEM or len(answer) > _ANSWER * _ITEM:
        raise WireError(f"{len(answer)} bytes of latencies")
    return _big_endian(array("I", answer))


class Latency(ChannelProtocol):
    """Records the latency of every message of a channel. `clock` returns nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._latencies = array("I")

    def message_received(self, message: bytes) -> None:
        now = self._clock()
        if len(message) < STAMP_SIZE:
            self.channel.reset(ResetCode.BAD_MESSAGE, f"a message without its {STAMP_SIZE} bytes")
        elif len(self._latencies) >= MAX_MESSAGES:
            self.channel.reset(ResetCode.LIMIT_EXCEEDED, f"more than {MAX_MESSAGES} messages")
        else:
            microseconds = (now - int.from_bytes(message[:STAMP_SIZE], "big")) // 1000
            self._latencies.append(min(max(microseconds, 0), _MOST))

    def end_received(self) -> None:
        latencies = _big_endian(self._latencies)
        for start in range(0, len(latencies), _ANSWER):
            self.channel.send(latencies[start : start + _ANSWER].tobytes())
        self.channel.end()


def _big_endian(numbers: array[int]) -> array[int]:
    """The same numbers in the byte order of the network, or back."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
