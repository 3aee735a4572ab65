"""How much of everything there may be."""

from __future__ import annotations

from dataclasses import dataclass

MAX_NAME = 32
"""Characters of a person's name."""
MAX_ROOM = 48
"""Characters of a room's name."""
MAX_TEXT = 4096
"""Bytes of a message, in UTF-8."""
MAX_TOPIC = 512
"""Bytes of a topic, in UTF-8."""
MAX_HISTORY = 200
"""Messages of the past in one answer."""


@dataclass(frozen=True)
class ChatLimits:
    """Counts of a server, times in seconds.

    - `rooms`: that are known; where one more is asked for, the one that nobody owns or has been in
      for longest is forgotten. `owned_rooms`: of one identity. `members`: of a room.
    - `people`: connected. `connections`: of one identity. `joined`: rooms of one connection.
    - `names`: that one identity may claim; `claimed_names`: of all.
    - `mutes`, `bans`: people of each room. `kick_time`: until one who was kicked may come back.
    - `burst`, `rate`: requests that a person may make at once, and each second.
    - `pending`: requests of a connection that wait for the one before them.
    - `queue_bytes`: what may wait to be read by a connection.
    - `hello_timeout`: for a channel's first message.
    """

    rooms: int = 1000
    owned_rooms: int = 16
    members: int = 1000
    people: int = 10_000
    connections: int = 16
    joined: int = 50
    names: int = 4
    claimed_names: int = 100_000
    mutes: int = 256
    bans: int = 256
    kick_time: float = 600.0
    burst: int = 20
    rate: float = 4.0
    pending: int = 32
    queue_bytes: int = 1 << 20
    hello_timeout: float = 10.0


DEFAULT_LIMITS = ChatLimits()
