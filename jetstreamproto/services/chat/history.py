"""What was said, in a stream of the events' broker.

Its topics are `$chat.ROOM`: only this process can publish there, and nobody can subscribe who was
not allowed to by name. The stream is one for all rooms; which of its events are a room's last ones
is known in memory (`Room.history`), from reading it through when the server starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.errors import ChatError, EventError, WireError
from jetstreamproto.services.chat.messages import NOTICE
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.notice import Notice
from jetstreamproto.services.events.broker import EventBroker
from jetstreamproto.services.events.model.event import Event
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.events.store import Appended

STREAM: Final = "$chat"
KEPT: Final = StreamConfig(STREAM, (f"{STREAM}.>",), max_bytes=64 << 20, max_count=100_000)
"""What is kept of all rooms together."""

_PAGE = 2000  # events read at a time
_PAGE_SIZE = 4 << 20
_log = Logger()


class History:
    """The stream. `remember` is called with a room and a sequence for all that is in it already."""

    def __init__(self, broker: EventBroker, remember: Callable[[str, int], None]) -> None:
        self._broker = broker
        self._waiting: list[Deferred[None]] | None = []
        opening = Deferred.fromCoroutine(self._open(remember))
        opening.addErrback(self._not_opened)

    async def _open(self, remember: Callable[[str, int], None]) -> None:
        broker = self._broker
        if not any(stream.config.name == STREAM for stream in broker.streams()):
            stored = await broker.journal.submit(lambda store: store.add_stream(KEPT))
            broker.committed(Appended((), (), stored))  # the broker's own way to a `$` stream
        else:
            self._read_through(remember)
        waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            one.callback(None)

    def _read_through(self, remember: Callable[[str, int], None]) -> None:
        sequence = 0
        while events := self._broker.read(STREAM, sequence, _PAGE, _PAGE_SIZE):
            for event in events:
                remember(event.topic.removeprefix(f"{STREAM}."), event.sequence)
            sequence = events[-1].sequence + 1

    def _not_opened(self, failure: Failure) -> None:
        _log.failure("chat has no history", failure)
        waiting, self._waiting = self._waiting or [], []
        for one in waiting:
            one.errback(ChatError(ChatCode.STORE_FAILED, "the history cannot be opened"))

    def when_ready(self) -> Deferred[None]:
        """Fires when it can be used."""
        ready: Deferred[None] = Deferred()
        if self._waiting is None:
            ready.callback(None)
        else:
            self._waiting.append(ready)
        return ready

    def append(self, notice: Notice, sender: bytes) -> Deferred[int]:
        """Keep a notice; fires with its sequence, or 0 if `sender` has sent it before.

        Fails with `ChatError`.
        """
        topic = f"{STREAM}.{notice.room}"
        taking = self._broker.publish_batch((topic,), [(topic, NOTICE.encode(notice))], sender, 1)
        return taking.addCallbacks(lambda taken: taken.receipt(0).sequence, _not_kept)

    def read(self, sequences: Iterable[int]) -> tuple[Notice, ...]:
        """Those that are still there."""
        events = self._broker.stream(STREAM).pick(list(sequences))
        return tuple(notice for event in events if (notice := _notice(event)) is not None)


def _not_kept(failure: Failure) -> int:
    failure.trap(EventError)
    raise ChatError(ChatCode.STORE_FAILED, f"it could not be kept: {failure.value}")


def _notice(event: Event) -> Notice | None:
    try:
        return NOTICE.decode(event.payload)._replace(sequence=event.sequence)
    except WireError as error:
        _log.error("event {n} of the history: {error}", n=event.sequence, error=str(error))
        return None
