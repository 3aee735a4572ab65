"""The states of a session, and which may follow which."""

from __future__ import annotations

from enum import Enum


class SessionState(Enum):
    following: tuple[SessionState, ...]
    """Those that may be next."""

    CONNECTING = "connecting"  # until the peer's HELLO under the new keys
    OPEN = "open"
    DRAINING = "draining"  # either side is going away: no new channels
    ENDING = "ending"  # no channels are left: the authenticated end is being exchanged
    CLOSED = "closed"


SessionState.CONNECTING.following = (SessionState.OPEN, SessionState.ENDING, SessionState.CLOSED)
SessionState.OPEN.following = (SessionState.DRAINING, SessionState.ENDING, SessionState.CLOSED)
SessionState.DRAINING.following = (SessionState.ENDING, SessionState.CLOSED)
SessionState.ENDING.following = (SessionState.CLOSED,)
SessionState.CLOSED.following = ()
