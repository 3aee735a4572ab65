"""Two Twisted protocols joined by a byte stream, in virtual time; protocols that take notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.bytestream import ChannelTransport


class Notes(Protocol):
    """Notes what it is told; `on_data` is called with what it received, after that was noted."""

    transport: ChannelTransport  # type: ignore[assignment]

    def __init__(self) -> None:
        self.events: list[str] = []
        self.pieces: list[bytes] = []
        self.size = 0
        self.reason: Failure | None = None
        self.on_made: Callable[[], Any] = lambda: None
        self.on_data: Callable[[bytes], Any] = lambda data: None
        self.on_read_lost: Callable[[], Any] = lambda: None
        self.on_write_lost: Callable[[], Any] = lambda: None
        self.on_lost: Callable[[], Any] = lambda: None

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def lost(self) -> bool:
        return self.reason is not None

    def connectionMade(self) -> None:
        self.events.append("made")
        self.on_made()

    def dataReceived(self, data: bytes) -> None:
        if self.events[-1] != "data":
            self.events.append("data")
        self.pieces.append(data)
        self.size += len(data)
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events.append("lost")
        self.reason = reason
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class HalfNotes(Notes):
    """One that knows of half-closed connections."""

    def readConnectionLost(self) -> None:
        self.events.append("read lost")
        self.on_read_lost()

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")
        self.on_write_lost()


class PushProducer:
    """Writes `piece` a turn unless it is paused, `count` times, then unregisters itself."""

    def __init__(self, clock: Any, transport: ChannelTransport, piece: bytes, count: int) -> None:
        self.calls: list[str] = []
        self.left = count
        self.paused = False
        self._clock = clock
        self._transport = transport
        self._piece = piece

    def start(self) -> None:
        self._transport.registerProducer(self, True)
        self._produce()

    def _produce(self) -> None:
        if self.paused or "stop" in self.calls:
            return
        if not self.left:
            self._transport.unregisterProducer()
            return
        self.left -= 1
        self._transport.write(self._piece)
        self._clock.callLater(0, self._produce)

    def pauseProducing(self) -> None:
        self.calls.append("pause")
        self.paused = True

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        self.paused = False
        self._clock.callLater(0, self._produce)

    def stopProducing(self) -> None:
        self.calls.append("stop")


class PullProducer:
    """Writes `piece` whenever it is asked, `count` times, then unregisters itself."""

    def __init__(self, transport: ChannelTransport, piece: bytes, count: int) -> None:
        self.calls: list[str] = []
        self.left = count
        self._transport = transport
        self._piece = piece

    def start(self) -> None:
        self._transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        if self.left:
            self.left -= 1
            self._transport.write(self._piece)
        if not self.left:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.calls.append("stop")


class Joined:
    """Connected protocols on the two ends of a pair of sessions.

    `make_pair` is given the services, and makes connected sessions.
    """

    def __init__(
        self,
        make_pair: Callable[..., Any],
        mine: Notes | None = None,
        theirs: Notes | None = None,
        **options: Any,
    ) -> None:
        self.mine = Notes() if mine is None else mine
        self.theirs = Notes() if theirs is None else theirs
        service = lambda: ChannelTransport(lambda address: self.theirs, ("server", 9000))  # noqa: E731
        self.pair = make_pair({"stream": service}, **options)
        self.clock = self.pair.clock
        opened = self.pair.client.open("stream", ChannelTransport(lambda address: self.mine))
        self.pair.run(opened)
        self.until(lambda: bool(self.theirs.events))

    def until(self, condition: Callable[[], bool]) -> None:
        self.pair.run_until(condition)

    def until_lost(self) -> None:
        self.until(lambda: self.mine.lost and self.theirs.lost)
