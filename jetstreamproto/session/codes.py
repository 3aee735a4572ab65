"""The numbers of the session protocol, in one place (docs/protocol.md explains each)."""

from __future__ import annotations

from enum import IntEnum

PROTOCOL_VERSION = 1

MAX_FRAGMENT = 1 << 16
"""The most bytes of a message that one packet carries, before and after decompression."""
PACKET_COST = 64
"""What a DATA packet costs in credit beyond its payload, so that empty ones are not free."""
MIN_WINDOW = 2 * (MAX_FRAGMENT + PACKET_COST)
"""The smallest credit window either side may announce."""
MAX_SERVICE_NAME = 255
"""The longest service name, in UTF-8 bytes."""
MAX_REASON = 256
"""The longest reason text of a RESET or GOAWAY, in UTF-8 bytes."""
MAX_CODE = 0xFFFF
"""The highest code a packet can carry; applications may use those from 256 on."""
MAX_AGENT = 255
"""Characters of the peer's agent that are kept."""
MAX_CREDENTIAL = 1024
"""The longest user name or password, in UTF-8 bytes."""
MAX_DEADLINE_MS = (1 << 32) - 1
"""The longest deadline an OPEN can carry, in milliseconds."""
DEFAULT_URGENCY = 3
LOWEST_URGENCY = 7


class ResetCode(IntEnum):
    """Why a channel was reset or a session is going away."""

    NO_ERROR = 0
    CANCELLED = 1
    SERVICE_NOT_FOUND = 2
    NOT_ALLOWED = 3
    MESSAGE_TOO_LARGE = 4
    INTERNAL_ERROR = 5
    LIMIT_EXCEEDED = 6
    TIMED_OUT = 7
    GOING_AWAY = 8
    BAD_MESSAGE = 9
    PROTOCOL_ERROR = 10


def reason_bytes(reason: str) -> bytes:
    """A reason as it is sent: UTF-8, cut between characters."""
    data = reason.encode("utf-8", "replace")[:MAX_REASON]
    return data.decode("utf-8", "ignore").encode()


def reason_text(payload: memoryview) -> str:
    """A reason the peer gave, fit to be shown."""
    text = bytes(payload[:MAX_REASON]).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
