"""Echo returns every message; discard takes them and says nothing. For pings, pipes, benchmarks."""

from __future__ import annotations

from jetstreamproto.errors import MessageTooLarge
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

ECHO = "echo"
DISCARD = "discard"


class Echo(ChannelProtocol):
    """Sends back what it receives, no faster than the peer takes it."""

    def channel_opened(self) -> None:
        self.channel.registerProducer(self.channel, True)

    def message_received(self, message: bytes) -> None:
        try:
            self.channel.send(message)
        except MessageTooLarge as error:
            self.channel.reset(ResetCode.MESSAGE_TOO_LARGE, str(error))


class Discard(ChannelProtocol):
    """Drops what it receives, and answers the end with how many bytes that was (8, big endian)."""

    def __init__(self) -> None:
        self._received = 0

    def message_received(self, message: bytes) -> None:
        self._received += len(message)

    def end_received(self) -> None:
        self.channel.send(self._received.to_bytes(8, "big"))
        self.channel.end()
