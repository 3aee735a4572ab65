"""The states of a session, and which may follow which."""

from __future__ import annotations

from enum import Enum


class SessionState(Enum):
    CONNECTING = "connecting"  # until the peer's HELLO under the new keys
    OPEN = "open"
    DRAINING = "draining"  # either side is going away: no new channels
    ENDING = "ending"  # no channels are left: the authenticated end is being exchanged
    CLOSED = "closed"


NEXT_STATES = {
    SessionState.CONNECTING: {SessionState.OPEN, SessionState.ENDING, SessionState.CLOSED},
    SessionState.OPEN: {SessionState.DRAINING, SessionState.ENDING, SessionState.CLOSED},
    SessionState.DRAINING: {SessionState.ENDING, SessionState.CLOSED},
    SessionState.ENDING: {SessionState.CLOSED},
    SessionState.CLOSED: set(),
}
