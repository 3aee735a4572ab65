"""The guard between a session and its applications: what they raise costs their channel only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from jetstreamproto.errors import ChannelClosed
from jetstreamproto.session.codes import ResetCode

if TYPE_CHECKING:
    from jetstreamproto.session.channel import Channel

_log = Logger()


def call_application(channel: Channel, call: Callable[..., None], *args: Any) -> None:
    """Call into the application of `channel`; what it raises is logged and resets the channel."""
    try:
        call(*args)
    except Exception as error:
        application_failed(channel, error)


def application_failed(channel: Channel, error: Exception) -> None:
    """The application of `channel` has raised `error`, which is being handled."""
    if isinstance(error, ChannelClosed):  # what it sends crosses with the end of its channel
        _log.info("{error}: it is being closed", error=str(error))
        channel.reset(ResetCode.CANCELLED, "it was being closed")
    else:
        _log.failure(
            "The application's protocol for channel {id} ({service}) failed",
            id=channel.id,
            service=channel.service,
        )
        channel.reset(ResetCode.INTERNAL_ERROR, "the application failed")
