"""What one side of a session allows and expects."""

from __future__ import annotations

from dataclasses import dataclass, field

from jetstreamproto._version import __version__
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.session.codes import MIN_WINDOW
from jetstreamproto.wire.compression import CompressionPolicy


@dataclass(frozen=True)
class SessionSettings:
    """Limits in bytes, deadlines in seconds. Every session of a factory shares one of these.

    - `max_message`: the largest message accepted, after decompression.
    - `max_assembly`: bytes of unfinished messages a session holds, over all its channels.
    - `max_channels`: channels the peer may have open at once.
    - `channel_window`, `session_window`: unconsumed bytes accepted at first, a channel and in all;
      they grow to `max_channel_window` and `max_session_window` on paths that are long and fast.
    - `high_water`: queued bytes at which a channel pauses its producer; it resumes at half.
    - `send_limit`: queued bytes beyond which `send` raises `QueueFull`.
    - `compression`: when payloads are LZ4-compressed, or None for never.
    - `handshake_timeout`: from connecting until the peer's first packet under the new keys.
    - `heartbeat`: quiet time after which the peer is asked to answer; `idle_timeout`: quiet time
      after which it counts as dead.
    - `open_timeout`: for the peer to accept or refuse a channel.
    - `drain_timeout`: for channels to finish once the session is closing, then for the peer's end.
    """

    max_message: int = 16 << 20
    max_assembly: int = 64 << 20
    max_channels: int = 1024
    channel_window: int = 1 << 20
    max_channel_window: int = 16 << 20
    session_window: int = 4 << 20
    max_session_window: int = 64 << 20
    high_water: int = 1 << 20
    send_limit: int = 64 << 20
    compression: CompressionPolicy | None = field(default_factory=CompressionPolicy)
    handshake_timeout: float = 10.0
    heartbeat: float = 15.0
    idle_timeout: float = 45.0
    open_timeout: float = 30.0
    drain_timeout: float = 10.0
    agent: str = f"JetStreamProto/{__version__}"

    def __post_init__(self) -> None:
        for name in ("channel_window", "session_window"):
            if getattr(self, name) < MIN_WINDOW:
                raise ConfigurationError(f"{name} must be at least {MIN_WINDOW} bytes")
            if getattr(self, f"max_{name}") < getattr(self, name):
                raise ConfigurationError(f"max_{name} must be at least {name}")
        for name in ("max_message", "max_channels", "channel_window"):
            if getattr(self, name) >= 1 << 32:
                raise ConfigurationError(f"{name} must be less than 2**32, to be announced")
        for name in ("max_message", "max_channels", "high_water", "send_limit"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be positive")
        if self.max_assembly < self.max_message:
            raise ConfigurationError("max_assembly must be at least max_message")
        for name in ("handshake_timeout", "heartbeat", "open_timeout", "drain_timeout"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be positive")
        if self.idle_timeout <= self.heartbeat:
            raise ConfigurationError("idle_timeout must be longer than heartbeat")


DEFAULT_SETTINGS = SessionSettings()
