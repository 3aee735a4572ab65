"""Source: sends as many bytes as it is asked for, as fast as the peer takes them. For benchmarks.

The client opens a channel to `source`, sends one `source_request`, and ends its direction or not.
The answer is messages of the size it asked for (the last may be shorter), then the end. They are
random bytes, so that no compression helps.
"""

from __future__ import annotations

import os
from struct import Struct

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

SOURCE = "source"
MAX_BYTES = 1 << 40
"""The most bytes that one request may ask for."""
MAX_SIZE = 1 << 20
"""The largest message that a request may ask for."""

_REQUEST = Struct(">QQ")  # bytes in all, bytes a message
_AHEAD = 1 << 18  # bytes that wait to be sent, so that the link always finds some


def source_request(count: int, size: int) -> bytes:
    """The message that asks for `count` bytes in messages of `size`."""
    return _REQUEST.pack(count, size)


@implementer(IPullProducer)
class Source(ChannelProtocol):
    """Answers one request, no faster than the peer takes it."""

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._left = 0

    def message_received(self, message: bytes) -> None:
        if self._message is not None or len(message) != _REQUEST.size:
            self.channel.reset(ResetCode.BAD_MESSAGE, "source takes one request of 16 bytes")
            return
        count, size = _REQUEST.unpack(message)
        if not 0 < size <= MAX_SIZE or count > MAX_BYTES:
            self.channel.reset(
                ResetCode.LIMIT_EXCEEDED,
                f"source sends 1 to {MAX_SIZE} bytes a message, {MAX_BYTES} in all",
            )
            return
        self._message = os.urandom(size)
        self._left = count
        self.channel.registerProducer(self, False)

    def end_received(self) -> None:
        """Go on: the client has said all it will, we have not."""
        if self._message is None:
            self.channel.end()

    def resumeProducing(self) -> None:
        message, channel = self._message, self.channel
        assert message is not None
        while self._left and channel.queued < _AHEAD:
            channel.send(message if self._left >= len(message) else message[: self._left])
            self._left -= min(self._left, len(message))
        if not self._left:
            channel.unregisterProducer()
            channel.end()

    def stopProducing(self) -> None:
        """The channel is gone, and so is all there was to do."""
