"""What a durable consumer still has to get: deliveries, acknowledgements, redeliveries.

Every sequence number of the stream is *ahead* (not offered yet), *out* (delivered, with a deadline
for its acknowledgement), *waiting* (for its time to be delivered again) or *done*. `floor` is the
highest number that has only done ones up to it: with the done ones above, all that must be kept.
Times are seconds of one clock, given as arguments.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

MAX_ATTEMPTS = 255


class ConsumerConfig(NamedTuple):
    """How a durable consumer delivers.

    `ack_wait` is the seconds after which an event that was not acknowledged is delivered again,
    `max_deliver` how often it is delivered at most (0: without end) before it goes to the dead
    letters, `max_pending` how many may be delivered and not acknowledged. With `group`, several
    subscriptions share the events.
    """

    name: str
    pattern: str
    group: str = ""
    ack_wait: float = 30.0
    max_deliver: int = 0
    max_pending: int = 1024


class Progress(NamedTuple):
    """What is kept of a consumer: its floor, the numbers above it that are done, and how often
    those that are not were delivered (pairs of number and attempts)."""

    floor: int
    done: bytes = b""
    attempts: bytes = b""


class ConsumerState:
    """The sequence numbers of one consumer. Members are whatever the caller delivers to."""

    def __init__(self, config: ConsumerConfig, progress: Progress) -> None:
        self.config = config
        self.floor = progress.floor
        self._done = set(array("Q", progress.done))
        while self.floor + 1 in self._done:
            self.floor += 1
            self._done.remove(self.floor)
        self.next = self.floor + 1
        """The first number that was not offered yet."""
        pairs = array("Q", progress.attempts)
        self._attempts = dict(zip(pairs[::2], pairs[1::2], strict=True))
        self._order: deque[int] = deque()  # out or waiting, ascending, and some that are done
        self._out: dict[int, tuple[object, float]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._waiting: dict[int, float] = {}
        self._due: list[tuple[float, int]] = []

    @property
    def room(self) -> int:
        """How many more may be offered: what is done counts too while an older one is not."""
        return self.config.max_pending - len(self._order)

    @property
    def outstanding(self) -> int:
        """How many were delivered and are not done."""
        return len(self._out) + len(self._waiting)

    def progress(self) -> Progress:
        """What has to be kept."""
        open_ones = [n for n in self._order if n in self._attempts and n not in self._done]
        pairs = array("Q", [x for n in open_ones for x in (n, self._attempts[n])])
        return Progress(self.floor, array("Q", sorted(self._done)).tobytes(), pairs.tobytes())

    # --- delivering ---------------------------------------------------------------------

    def skip_to(self, sequence: int) -> None:
        """Nothing below `sequence` that was not offered yet will be."""
        if self._done and sequence > self.next:
            self._order.extend(n for n in sorted(self._done) if self.next <= n < sequence)
        self.next = max(self.next, sequence)
        self._settle()

    def offer(self, sequence: int) -> bool:
        """Whether the next number, `sequence`, is to be delivered; then call `deliver`."""
        self.skip_to(sequence)
        self.next = sequence + 1
        self._order.append(sequence)
        if sequence in self._done:
            self._settle()
            return False
        self._waiting[sequence] = 0.0
        return True

    def deliver(self, sequence: int, member: object, now: float) -> int:
        """`sequence` goes to `member`; how many times it was delivered by now."""
        del self._waiting[sequence]
        deadline = now + self.config.ack_wait
        self._out[sequence] = (member, deadline)
        heapq.heappush(self._deadlines, (deadline, sequence))
        attempt = min(self._attempts.get(sequence, 0) + 1, MAX_ATTEMPTS)
        self._attempts[sequence] = attempt
        return attempt

    def postpone(self, sequence: int, now: float, delay: float = 0.0) -> bool:
        """Deliver `sequence` again, `delay` seconds from now; False if it is not outstanding."""
        if self._out.pop(sequence, None) is None and sequence not in self._waiting:
            return False
        self._waiting[sequence] = now + delay
        heapq.heappush(self._due, (now + delay, sequence))
        return True

    def hold(self, sequence: int) -> bool:
        """Have `sequence` wait until `finish` or `postpone`; False if it is not outstanding."""
        if self._out.pop(sequence, None) is None:
            return False
        self._waiting[sequence] = math.inf
        return True

    def exhausted(self, sequence: int) -> bool:
        """Whether it was delivered as often as it may be."""
        limit = self.config.max_deliver
        return limit > 0 and self._attempts.get(sequence, 0) >= limit

    def due(self, now: float, limit: int) -> list[int]:
        """Up to `limit` numbers that are to be delivered again by now; each is told once."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, sequence = heapq.heappop(self._deadlines)
            entry = self._out.get(sequence)
            if entry is not None and entry[1] == deadline:
                self.postpone(sequence, now)
        found: list[int] = []
        while self._due and self._due[0][0] <= now and len(found) < limit:
            when, sequence = heapq.heappop(self._due)
            if self._waiting.get(sequence) == when and sequence not in found:
                found.append(sequence)
        return found

    def next_due(self) -> float | None:
        """When `due` may have something."""
        times = [heap[0][0] for heap in (self._deadlines, self._due) if heap]
        return min(times, default=None)

    def member_gone(self, member: object, now: float) -> None:
        """What `member` had and did not acknowledge is to be delivered again now."""
        for sequence in [n for n, (owner, _) in self._out.items() if owner is member]:
            self.postpone(sequence, now)

    # --- acknowledgements -----------------------------------------------------------------

    def finish(self, sequences: Iterable[int]) -> bool:
        """These are done; whether that changes anything."""
        changed = False
        for sequence in sequences:
            if self._out.pop(sequence, None) or self._waiting.pop(sequence, None) is not None:
                self._done.add(sequence)
                self._attempts.pop(sequence, None)
                changed = True
        if changed:
            self._settle()
            self._compact()
        return changed

    def _settle(self) -> None:
        order, done = self._order, self._done
        while order and order[0] in done:
            done.remove(order.popleft())
        self.floor = max(self.floor, (order[0] if order else self.next) - 1)

    def _compact(self) -> None:
        """Heaps keep what is settled until it surfaces; not without bound."""
        most = 4 * self.config.max_pending + 64
        if len(self._deadlines) > most:
            self._deadlines = [(when, n) for n, (_, when) in self._out.items()]
            heapq.heapify(self._deadlines)
        if len(self._due) > most:
            self._due = [(when, n) for n, when in self._waiting.items()]
            heapq.heapify(self._due)
