"""The intake: what a session has taken in that its applications have not consumed yet."""

from __future__ import annotations

from collections.abc import Callable

from jetstreamproto.errors import ChannelReset
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.credit import ReceiveCredit
from jetstreamproto.session.settings import SessionSettings


class Intake:
    """A session's own receive credit, and the bound on its unfinished messages.

    `renew(credit)` is called when the peer should be told a higher limit.
    """

    __slots__ = ("_assembled", "_held", "_max_assembly", "_max_window", "_renew", "credit")

    def __init__(self, settings: SessionSettings, renew: Callable[[ReceiveCredit], None]) -> None:
        self.credit = ReceiveCredit(settings.session_window, settings.max_session_window)
        self._max_window = settings.max_session_window
        self._max_assembly = settings.max_assembly
        self._renew = renew
        self._held = 0
        self._assembled = 0

    def open(self, window: int) -> None:
        """The peer is told that it may send `window` bytes to begin with."""
        self.credit = ReceiveCredit(window, self._max_window)

    def let_go(self) -> None:
        """The session is over, and nothing is taken in any more."""
        del self._renew

    def hold(self, cost: int) -> bool:
        """A paused channel keeps what arrived: give the session its credit back all the same.

        So paused channels do not stop the others, until what they hold reaches the largest
        window of a session; then this is False, and the credit comes back with `consumed`.
        """
        if self._held + cost + self.credit.window > self._max_window:
            return False
        self.consumed(cost)
        self._held += cost
        return True

    def consumed(self, cost: int, was_held: bool = False) -> None:
        """The application has taken what cost that much (and was held, as `hold` answered)."""
        if was_held:
            self._held -= cost
        elif self.credit.consume(cost):
            self._renew(self.credit)

    def reserve(self, cost: int) -> None:
        """Count `cost` more for unfinished messages; `ChannelReset` if that is too much."""
        if self._assembled + cost > self._max_assembly:
            raise ChannelReset(
                ResetCode.LIMIT_EXCEEDED, "too many unfinished messages in this session"
            )
        self._assembled += cost

    def release(self, cost: int) -> None:
        """Those fragments are gone."""
        self._assembled -= cost


def too_large(limit: int) -> ChannelReset:
    """How a message of over `limit` bytes is refused."""
    return ChannelReset(ResetCode.MESSAGE_TOO_LARGE, f"messages here may have {limit} bytes")
