"""The departure: how a session is drained and ended, by whichever side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstreamproto.errors import JetStreamError, SessionCut
from jetstreamproto.session.codes import ResetCode, reason_bytes
from jetstreamproto.session.guard import call_application
from jetstreamproto.session.outbox import QueuedPacket
from jetstreamproto.session.state import SessionState
from jetstreamproto.session.table import ChannelTable
from jetstreamproto.transports.timeouts import Timeout
from jetstreamproto.wire.packet import Kind

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session

_CONNECTING, _OPEN, _DRAINING, _ENDING, _CLOSED = SessionState  # slow to get at in the enum


class Departure:
    """Says GOAWAY, lets the channels finish, and ends; each within `drain_timeout`.

    `leaving` tells whether this side wants to end the session.
    """

    __slots__ = ("_deadline", "_farewell", "_session", "_table", "leaving")

    def __init__(self, session: Session, table: ChannelTable) -> None:
        self.leaving = False
        self._session = session
        self._table = table
        self._deadline: Timeout | None = None
        self._farewell: QueuedPacket | None = None  # a GOAWAY that says no more than our end does

    def leave(self, code: int, reason: str) -> None:
        """This side wants to end the session: at the latest when the deadline comes."""
        self.leaving = True
        session = self._session
        if session.state is _CONNECTING:
            session.abort()
        elif session.state is _OPEN:
            if self._table or code != ResetCode.NO_ERROR:
                self._go_away(code, reason)
            else:
                self.end()  # which says it all
        elif session.state is _DRAINING and self._deadline is None:
            self._set_deadline()
            self._end_if_idle()

    def goaway_received(self, code: int, reason: str) -> None:
        """The peer wants to end the session."""
        session = self._session
        if code not in (ResetCode.NO_ERROR, ResetCode.GOING_AWAY):
            session.refusal = SessionCut(f"the peer ended the session: {reason or code}")
        if session.state is _OPEN:
            self._start_draining()
            for channel in self._table:
                if not self._table.is_opening(channel):
                    call_application(channel, channel.protocol.session_closing)

    def channel_gone(self) -> None:
        """A channel is closed; it may have been the last."""
        if self._session.state is _DRAINING:
            self._end_if_idle()

    def turn_away(self, refusal: JetStreamError, reason: str) -> None:
        """The peer is not let in, and told the `reason`."""
        session = self._session
        session.refusal = refusal
        payload = reason_bytes(reason)
        session.outbox.put_control(Kind.GOAWAY, 0, code=ResetCode.NOT_ALLOWED, payload=payload)
        self.end()

    def end(self) -> None:
        """Nothing is left to do: send what waits, then the authenticated end."""
        session = self._session
        if session.state is not _ENDING:
            session.move(_ENDING)
            self._set_deadline()
            if self._farewell is not None:
                session.outbox.take_back(self._farewell)
        session.outbox.pump()

    def stop(self) -> None:
        """The session is over: wait for nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def let_go(self) -> None:
        """It was stopped, and is not asked for anything any more."""
        del self._session

    def _go_away(self, code: int, reason: str) -> None:
        payload = reason_bytes(reason)
        last = self._table.newest_of_peer
        outbox = self._session.outbox
        packet = outbox.put_control(Kind.GOAWAY, 0, seq=last, code=code, payload=payload)
        if code == ResetCode.NO_ERROR:
            self._farewell = packet
        self._start_draining()
        if self._session.state is _DRAINING:
            self._set_deadline()

    def _start_draining(self) -> None:
        self._session.move(_DRAINING)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """End the session if no channel is left.

        Where GOAWAY may overtake OPENs, a side that only follows the peer's does not know whether
        one is on its way: the peer does, and ends.
        """
        if not self._table and (self.leaving or not self._session.link.streams):
            self.end()

    def _set_deadline(self) -> None:
        session = self._session
        timeout = session.settings.drain_timeout
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = session.timeouts.after(timeout, self._timed_out)

    def _timed_out(self) -> None:
        self._deadline = None
        session = self._session
        if session.state is _DRAINING:
            for channel in self._table:
                channel.reset(ResetCode.GOING_AWAY, "the session is closing")
        else:
            session.refusal = SessionCut("the peer did not end the session in time")
            session.link.abort()
