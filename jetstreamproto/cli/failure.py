"""How a command ends when it fails: the exit status, the kind for `--json`, and one clear line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import click

from jetstreamproto.errors import (
    ChannelReset,
    ChatError,
    HandshakeTimeout,
    JetStreamError,
    NotAllowed,
    NotLetIn,
    PeerSilent,
    RpcError,
    ServiceNotFound,
    TrustError,
    UnknownHost,
)
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.session.codes import ResetCode


class ExitStatus(IntEnum):
    """What the exit status of every command means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_TRUSTED = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 5


class CannotConnect(JetStreamError):
    """No connection to the server could be made."""


class NameNotFound(CannotConnect):
    """The host name has no address."""


class ConnectTimeout(CannotConnect):
    """No connection within the deadline."""


class EndedEarly(JetStreamError):
    """What was waited for did not come in time."""


class StreamFailed(JetStreamError):
    """Standard input or output cannot be used."""


class NotFound(JetStreamError):
    """What was asked for is not there."""


class Interrupted(Exception):
    """A signal asked the command to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted")
        self.signal_number = signal_number


class NobodyReads(Exception):
    """Standard output is a pipe whose reader is gone."""


_CHAT_DENIED = (ChatCode.NOT_OWNER, ChatCode.KICKED, ChatCode.MUTED)
_RPC_STATUS = {
    "DEADLINE_EXCEEDED": ExitStatus.TIMED_OUT,
    "PERMISSION_DENIED": ExitStatus.NOT_ALLOWED,
    "UNAUTHENTICATED": ExitStatus.NOT_ALLOWED,
}


@dataclass(frozen=True)
class Failure:
    """What is shown of an error; `expected` is False for a bug, whose traceback helps."""

    kind: str
    message: str
    status: ExitStatus
    expected: bool = True


def clean(text: str) -> str:
    """One line of `text` that may come from a peer, without what a terminal would act on.

    Control characters, escapes and bidirectional controls are taken out.
    """
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def describe(error: BaseException) -> Failure:
    """The failure that `error` is to the person who ran the command."""
    if isinstance(error, click.ClickException):
        return Failure("Usage", clean(error.format_message()), ExitStatus.USAGE)
    if isinstance(error, JetStreamError):
        return Failure(type(error).__name__, clean(_message(error)), _status(error))
    if isinstance(error, OSError):
        return Failure(type(error).__name__, clean(_system_message(error)), ExitStatus.FAILED)
    message = f"this is a bug in jetstream: {type(error).__name__}: {error}"
    return Failure("InternalError", clean(message), ExitStatus.FAILED, expected=False)


def _status(error: JetStreamError) -> ExitStatus:
    if isinstance(error, TrustError):
        return ExitStatus.NOT_TRUSTED
    if isinstance(error, NotAllowed | NotLetIn):
        return ExitStatus.NOT_ALLOWED
    if isinstance(error, HandshakeTimeout | PeerSilent | ConnectTimeout | EndedEarly):
        return ExitStatus.TIMED_OUT
    if isinstance(error, RpcError):
        return _RPC_STATUS.get(error.status.name, ExitStatus.FAILED)
    if isinstance(error, ChatError) and error.code in _CHAT_DENIED:
        return ExitStatus.NOT_ALLOWED
    if isinstance(error, ChannelReset) and error.code == ResetCode.TIMED_OUT:
        return ExitStatus.TIMED_OUT
    return ExitStatus.FAILED


def _message(error: JetStreamError) -> str:
    if isinstance(error, UnknownHost):
        return (
            f"{error}; compare it with what `jetstream identity` says there, "
            f"then give --pin {error.fingerprint} or --trust-new"
        )
    if isinstance(error, ServiceNotFound | NotAllowed):
        return f"the server refused: {error.reason or error}"
    if isinstance(error, ChannelReset):
        return f"the channel was cut off: {error.reason or error}"
    return str(error) or type(error).__name__


def _system_message(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what
