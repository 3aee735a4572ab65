"""Why something was refused."""

from __future__ import annotations

from enum import IntEnum


class ChatCode(IntEnum):
    """What the server says of a request; as the code of a reset too."""

    DONE = 0
    UNSUPPORTED = 256
    """A version or an action that the server does not have."""
    INVALID = 257
    """No name, no room, or no text that may be sent."""
    NAME_TAKEN = 258
    NOT_IN_ROOM = 259
    NO_SUCH_PERSON = 260
    NOT_OWNER = 261
    KICKED = 262
    """Kicked, and not long ago."""
    MUTED = 263
    TOO_FAST = 264
    """`retry_after` says when there is room again."""
    LIMIT = 265
    STORE_FAILED = 266
    TOO_SLOW = 267
    """Too much waited to be read; the client comes back and reads on from the history."""
