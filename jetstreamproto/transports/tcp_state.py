"""The states of a TCP link, and which may follow which."""

from __future__ import annotations

from enum import Enum

from jetstreamproto.errors import HandshakeError, JetStreamError, SessionCut


class TcpState(Enum):
    following: tuple[TcpState, ...]
    """Those that may be next."""

    HANDSHAKE = "handshake"
    SEALED = "sealed"
    ENDING = "ending"  # close() was called: the end follows what is still to be written
    ENDED = "ended"  # our end is written
    CLOSING = "closing"  # the transport was told to close
    LOST = "lost"

    def then(self, state: TcpState) -> TcpState:
        """The state after this one; `AssertionError` for one that cannot be."""
        if state not in self.following:
            raise AssertionError(f"a link cannot go from {self} to {state}")
        return state

    def cut(self) -> JetStreamError:
        """What it means that the connection is gone in this state."""
        if self is TcpState.HANDSHAKE:
            return HandshakeError("the peer closed the connection during the handshake")
        return SessionCut("the connection broke before the peer ended the session")


TcpState.HANDSHAKE.following = (TcpState.SEALED, TcpState.CLOSING, TcpState.LOST)
TcpState.SEALED.following = (TcpState.ENDING, TcpState.CLOSING, TcpState.LOST)
TcpState.ENDING.following = (TcpState.ENDED, TcpState.CLOSING, TcpState.LOST)
TcpState.ENDED.following = (TcpState.CLOSING, TcpState.LOST)
TcpState.CLOSING.following = (TcpState.LOST,)
TcpState.LOST.following = ()
