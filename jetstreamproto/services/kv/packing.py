"""Small messages that are sent in the same turn of the reactor become one message.

A message costs both ends some microseconds on its way through the session, which is as much as what
is done about it here. Large ones travel by themselves, so that nothing is copied for this twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from jetstreamproto.errors import ChannelClosed
from jetstreamproto.services.kv.model import MAX_PACK
from jetstreamproto.session.channel import Channel

_SMALL = 4096  # bytes of a message that is packed
_MOST = 1 << 14  # bytes of messages in a pack
_HEAD = 256  # bytes that a pack has beside them and their sizes, and more


class Packing:
    """What waits to be sent on a channel. `pack` makes one message of several."""

    def __init__(self, channel: Channel, pack: Callable[[Sequence[bytes]], bytes]) -> None:
        self._channel = channel
        self._pack = pack
        self._most = min(_MOST, channel.session.peer_hello.max_message - _HEAD)
        self._small = min(_SMALL, self._most)
        self._waiting: list[bytes] = []
        self._size = 0

    def put(self, message: bytes) -> None:
        """Send a message, in the order of calls. Raises what `Channel.send` does."""
        size = len(message)
        if size > self._small:
            self.flush()
            self._channel.send(message)
            return
        if len(self._waiting) >= MAX_PACK or self._size + size > self._most:
            self.flush()
        if not self._waiting:
            self._channel.before_sending(self.flush)
        self._waiting.append(message)
        self._size += size + 4

    def flush(self) -> None:
        """Give the channel what waits. Call it before `Channel.end`."""
        waiting = self._waiting
        if not waiting:
            return
        self._waiting = []
        self._size = 0
        with suppress(ChannelClosed):  # if it was reset meanwhile, its protocol has been told
            self._channel.send(waiting[0] if len(waiting) == 1 else self._pack(waiting))
