"""The scheduler: which channel sends next.

Urgency decides first, 0 before 7 (RFC 9218); channels of one urgency take turns. A channel is in
the scheduler at most once, while it has something to send and the credit to send it, and stays in
it during its turn.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Sender(Protocol):
    """What the scheduler needs of a channel."""

    urgency: int
    scheduled: bool


S = TypeVar("S", bound=Sender)


class Scheduler(Generic[S]):
    """Ready senders, in turns within each urgency."""

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[int, deque[S]] = {}  # only urgencies that have a ready sender

    def add(self, sender: S) -> None:
        """Put `sender` at the end of its urgency's line; once is enough."""
        if sender.scheduled:
            return
        sender.scheduled = True
        level = self._levels.get(sender.urgency)
        if level is None:
            self._levels[sender.urgency] = deque((sender,))
        else:
            level.append(sender)

    def first(self) -> S | None:
        """The sender whose turn it is, or None when nobody is ready."""
        levels = self._levels
        if not levels:
            return None
        return levels[min(levels) if len(levels) > 1 else next(iter(levels))][0]

    @property
    def crowded(self) -> bool:
        """Whether senders wait beside the first one. There has to be one."""
        levels = self._levels
        return len(levels) > 1 or len(next(iter(levels.values()))) > 1

    def turn_over(self, sender: S, *, more: bool) -> None:
        """`sender`, which was the first, has had its turn; whether it has more to send."""
        if not sender.scheduled:
            return  # it was discarded meanwhile
        if not more:
            self.discard(sender)
            return
        level = self._levels[sender.urgency]
        if len(level) > 1:
            level.rotate(-1)

    def discard(self, sender: S) -> None:
        """Remove `sender` if it is waiting for its turn."""
        if sender.scheduled:
            sender.scheduled = False
            level = self._levels[sender.urgency]
            level.remove(sender)
            if not level:
                del self._levels[sender.urgency]

    def __bool__(self) -> bool:
        return bool(self._levels)
