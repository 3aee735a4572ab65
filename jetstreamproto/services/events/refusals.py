"""What the server refused, as the exception that a client raises."""

from __future__ import annotations

from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelReset, EventError, JetStreamError, NotAllowed
from jetstreamproto.services.events.model.codes import EventCode
from jetstreamproto.session.codes import ResetCode

RETRY = 0.1
"""Seconds after which a channel that was lost is opened again, in the session of then."""

_CODES = frozenset(EventCode)


def refusal(code: int, reason: str) -> JetStreamError:
    """The exception for a code and a reason."""
    if code == ResetCode.NOT_ALLOWED:
        return NotAllowed(code, reason)
    if code in _CODES:
        return EventError(code, reason)
    return ChannelReset(code, reason)


def reset_refusal(reason: JetStreamError) -> JetStreamError:
    """The same for what broke a channel off."""
    if type(reason) is ChannelReset:
        return refusal(reason.code, reason.reason)
    return reason


def expected(failure: Failure) -> JetStreamError:
    """The exception of a failure that is one of ours; raises others."""
    failure.trap(JetStreamError)
    assert isinstance(failure.value, JetStreamError)
    return failure.value


def refused_for(failure: Failure) -> EventError | ChannelReset:
    """Why something was refused, which has a code and a reason; raises other exceptions."""
    failure.trap(EventError, ChannelReset)
    assert isinstance(failure.value, EventError | ChannelReset)
    return failure.value


def is_over(reason: JetStreamError | None) -> bool:
    """Whether a channel that closed for this reason is refused for good, in any session."""
    if not isinstance(reason, ChannelReset):
        return False
    return reason.code not in (ResetCode.GOING_AWAY, ResetCode.CANCELLED)
