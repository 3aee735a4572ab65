"""The application's side of a channel: what is called when something arrives."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from jetstreamproto.errors import ChannelClosed, JetStreamError
from jetstreamproto.session.codes import PACKET_COST

if TYPE_CHECKING:
    from jetstreamproto.session.channel import Channel


class ChannelProtocol:
    """Subclass this for what should happen on a channel, as one does with Twisted's `Protocol`.

    An exception from any of these methods is logged and resets the channel; the session lives.
    """

    channel: Channel

    def channel_opened(self) -> None:
        """`self.channel` is set, and messages can be sent on it."""

    def message_received(self, message: bytes) -> None:
        """A whole message arrived. Until this returns it counts against the peer's credit."""

    def messages_expired(self, count: int) -> None:
        """So many messages of an EXPIRING channel will not come: their time was over.

        One that was sent in several packets may count as often as packets of it were given up.
        """

    def end_received(self) -> None:
        """The peer will send no more. Ends our direction too unless overridden."""
        self.channel.end()

    def session_closing(self) -> None:
        """The session is draining: finish what is under way, then end the channel."""

    def channel_closed(self, reason: JetStreamError | None) -> None:
        """The channel is over: None when both sides ended it, otherwise why it broke off."""


class Inbox(ChannelProtocol):
    """Keeps a channel's messages until they are asked for, so that code can simply await them.

        inbox = await session.open("echo")
        inbox.channel.send(b"hello")
        print(await inbox.get())
        async for message in inbox: ...

    At `high_water` waiting bytes the channel is paused, so that a slow reader slows its peer.
    """

    def __init__(self, high_water: int = 1 << 20) -> None:
        self._high_water = high_water
        self._messages: deque[bytes] = deque()
        self._size = 0
        self._waiting: deque[Deferred[bytes]] = deque()
        self._ended: JetStreamError | None = None

    def get(self) -> Deferred[bytes]:
        """The next message. Fails with `ChannelClosed` after the last one, or with what broke."""
        if self._messages:
            message = self._messages.popleft()
            self._size -= len(message) + PACKET_COST
            result: Deferred[bytes] = Deferred()
            result.callback(message)
            if self._size <= self._high_water >> 1:
                self.channel.resumeProducing()
            return result
        waiting: Deferred[bytes] = Deferred(self._waiting.remove)
        if self._ended is not None:
            waiting.errback(self._ended)
        else:
            self._waiting.append(waiting)
        return waiting

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def message_received(self, message: bytes) -> None:
        if self._waiting:
            self._waiting.popleft().callback(message)
            return
        self._messages.append(message)
        self._size += len(message) + PACKET_COST
        if self._size >= self._high_water:
            self.channel.pauseProducing()

    def end_received(self) -> None:
        self._finish(ChannelClosed("the peer has ended the channel"))

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._finish(reason or ChannelClosed("the channel is closed"))

    def _finish(self, reason: JetStreamError) -> None:
        if self._ended is None:
            self._ended = reason
            while self._waiting:
                self._waiting.popleft().errback(reason)
