"""Frames that leave together, in as few messages as they fit in."""

from __future__ import annotations

from contextlib import suppress

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.errors import ChannelClosed, MessageTooLarge, QueueFull
from jetstreamproto.session.channel import Channel

_ENOUGH = 1 << 16  # bytes, after which waiting for more saves nothing


class Batch:
    """Collects the frames for one channel: until `release` after `hold`, or the end of the turn."""

    __slots__ = ("_channel", "_clock", "_frames", "_held", "_size", "_timer")

    def __init__(self, channel: Channel, clock: IReactorTime) -> None:
        self._channel = channel
        self._clock = clock
        self._frames: list[bytes] = []
        self._size = 0
        self._held = False
        self._timer: IDelayedCall | None = None

    def hold(self) -> None:
        """More is likely to come before `release`."""
        self._held = True

    def release(self) -> None:
        """Send what has been collected."""
        self._held = False
        self.flush()

    def put(self, frame: bytes) -> None:
        """Send one frame soon.

        Raises `MessageTooLarge` if the peer would refuse it, and `QueueFull` if too much waits.
        """
        channel = self._channel
        limit = channel.session.peer_hello.max_message
        if len(frame) > limit:
            raise MessageTooLarge(f"a frame of {len(frame)} bytes; the peer takes {limit}")
        if channel.queued >= channel.session.settings.send_limit:
            raise QueueFull(f"{channel.queued} bytes are waiting to be sent")
        if self._size + len(frame) > limit:
            self.flush()
        self._frames.append(frame)
        self._size += len(frame)
        if self._size >= _ENOUGH:
            self.flush()
        elif not self._held and self._timer is None:
            self._timer = self._clock.callLater(0, self._turn_ended)

    def flush(self) -> None:
        """Send what there is now. What a closed channel does not take is dropped."""
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()
        if self._frames:
            frames, self._frames = self._frames, []
            self._size = 0
            with suppress(ChannelClosed):  # who waits for an answer is told by `channel_closed`
                self._channel.send(frames[0] if len(frames) == 1 else b"".join(frames))

    def _turn_ended(self) -> None:
        self._timer = None
        self.flush()
