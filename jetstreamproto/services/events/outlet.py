"""Where deliveries leave: channels that say when they have room, and live subscriptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from jetstreamproto.errors import ChannelClosed, MessageTooLarge, QueueFull
from jetstreamproto.services.events.messages import Kind, encode_part
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.services.events.model.event import Event, Policy
from jetstreamproto.services.events.runs import Run
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode

_log = Logger()


@implementer(IPushProducer)
class Outlet:
    """A channel, for whoever sends no faster than it is taken; then `resumed` is called."""

    def __init__(self, channel: Channel, resumed: Callable[[], None]) -> None:
        self.ready = True
        """Whether there is room."""
        self._channel = channel
        self._resumed = resumed
        channel.registerProducer(self, True)

    def send(self, run: Run) -> None:
        """Send a run; in parts if the peer takes no message that large."""
        try:
            self._channel.send(run.message)
        except MessageTooLarge as error:
            half = len(run.events) // 2
            if not half:
                self.reset(ResetCode.MESSAGE_TOO_LARGE, str(error))
                return
            self.send(Run(run.events[:half], run.stream))
            self.send(Run(run.events[half:], run.stream))
        except QueueFull as error:
            self.reset(ResetCode.LIMIT_EXCEEDED, str(error))
        except ChannelClosed:
            self.ready = False  # its end is on the way

    def tell(self, kind: Kind, body: bytes = b"", number: int = 0) -> None:
        """Send another message."""
        try:
            self._channel.send(encode_part(kind, body, number))
        except (ChannelClosed, QueueFull, MessageTooLarge) as error:
            self.reset(ResetCode.LIMIT_EXCEEDED, str(error))

    def reset(self, code: int, reason: str) -> None:
        """End the subscription."""
        self.ready = False
        self._channel.reset(code, reason)

    def pauseProducing(self) -> None:
        self.ready = False

    def resumeProducing(self) -> None:
        self.ready = True
        self._resumed()

    def stopProducing(self) -> None:
        self.ready = False


class QueueTotal:
    """What waits for all live subscriptions of a broker together, in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.missed = 0
        """Events that subscriptions have lost, ever."""


class Live:
    """A live subscription over a channel: what does not fit waits here, within its limits."""

    def __init__(self, policy: Policy, events: int, size: int, total: QueueTotal) -> None:
        self.out: Outlet
        self.missed = 0
        """Events lost, ever."""
        self._policy = policy
        self._max_events = events
        self._max_size = size
        self._total = total
        self._queue: deque[Run] = deque()
        self._events = 0
        self._size = 0
        self._untold = 0

    def deliver(self, run: Run) -> None:
        if self.out.ready and not self._queue:
            self.out.send(run)
            return
        self._queue.append(run)
        self._count(len(run.events), run.size)
        if self._over():
            if self._policy is Policy.DISCONNECT:
                self.out.reset(EventCode.TOO_SLOW, "the subscriber is too slow")
            else:
                self._drop()

    def resumed(self) -> None:
        """There is room in the channel."""
        while self.out.ready and (self._queue or self._untold):
            if self._untold:
                untold, self._untold = self._untold, 0
                self.out.tell(Kind.MISSED, number=untold)
                continue
            run = self._queue.popleft()
            self._count(-len(run.events), -run.size)
            self.out.send(run)

    def stop(self) -> None:
        """Nothing is delivered any more."""
        self._queue.clear()
        self._count(-self._events, -self._size)

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._size += size
        self._total.size += size

    def _over(self) -> bool:
        return (
            self._events > self._max_events
            or self._size > self._max_size
            or self._total.size > self._total.limit
        )

    def _drop(self) -> None:
        """Lose the oldest until what waits is within the limits."""
        while self._queue and self._over():
            run = self._queue.popleft()
            before = self._events
            for event in run.events:
                self._count(-1, -len(event.payload))
                if not self._over():
                    break
            lost = before - self._events
            if lost < len(run.events):
                self._queue.appendleft(Run(run.events[lost:], run.stream))
            self.missed += lost
            self._untold += lost
            self._total.missed += lost


class Group:
    """Live subscriptions that share the events of a pattern: each goes to one of them, in turns."""

    def __init__(self) -> None:
        self.members: list[Live] = []
        self._turn = 0

    def deliver(self, run: Run) -> None:
        shares: dict[int, list[Event]] = {}
        count = len(self.members)
        for event in run.events:
            shares.setdefault(self._turn % count, []).append(event)
            self._turn += 1
        for number, events in shares.items():
            self.members[number].deliver(Run(events, run.stream))


class Listener:
    """A subscription within the process: a function that is called with events, in their order."""

    def __init__(self, receive: Callable[[Sequence[Event]], None]) -> None:
        self._receive = receive

    def deliver(self, run: Run) -> None:
        try:
            self._receive(run.events)
        except Exception:
            _log.failure("a listener of events failed")
