"""One operation on a channel of its own: what both sides of every operation have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.errors import (
    ChannelReset,
    FileError,
    JetStreamError,
    MessageTooLarge,
    WireError,
)
from jetstreamproto.services.files.messages import Kind, decode_part, encode_part
from jetstreamproto.services.files.model import FileCode
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

FILES = "files"
"""The name of the service."""
ALIVE_EVERY = 20.0
"""Seconds after which a side that works or waits says that it is there."""
PATIENCE = 90.0
"""Seconds without a message of the peer after which an operation is given up."""

_log = Logger(namespace="jetstream.files")

T = TypeVar("T")


class Worker(Protocol):
    """Runs what blocks, in a thread or (in tests) at once; the Deferred fires with its result."""

    def __call__(self, call: Callable[[], T]) -> Deferred[T]: ...


class Conversation(ChannelProtocol):
    """Reads messages, ends the operation with a typed error, and notices a peer that is stuck."""

    def __init__(self, in_worker: Worker) -> None:
        self._in_worker = in_worker
        self._error: JetStreamError | None = None
        self._ended = self._closed = False
        self.paused = False
        """Whether we have stopped listening, so that silence means nothing."""
        self._heard = False  # from the peer, since we have last looked
        self._silence = 0.0  # seconds that it has been silent, when we looked
        self._watch: IDelayedCall | None = None

    # --- for subclasses ------------------------------------------------------------------

    def part_received(self, kind: int, number: int, body: memoryview) -> None:
        """A message came. `WireError` and `FileError` end the operation."""
        raise NotImplementedError

    def over(self, error: JetStreamError | None) -> None:
        """The channel is closed: None if the operation has ended as it should."""
        raise NotImplementedError

    # --- for the parts of an operation -----------------------------------------------------

    @property
    def now(self) -> float:
        """The session's clock, in seconds."""
        return self.channel.session.clock.seconds()

    def say(self, kind: Kind, body: bytes = b"", number: int = 0) -> None:
        """Send one message."""
        self.channel.send(encode_part(kind, body, number))

    def work(
        self, call: Callable[[], T], then: Callable[[T | None, JetStreamError | None], None]
    ) -> None:
        """Do `call` where it may block, then `then` with its result or its error.

        That is done also if the channel is closed meanwhile. What `then` raises ends the operation.
        """
        waiting = self._in_worker(call)
        waiting.addCallbacks(
            lambda result: then(result, None), lambda failure: then(None, _expected(failure))
        )
        waiting.addErrback(lambda failure: self.fail(_expected(failure)))

    def end(self) -> None:
        """Everything is said."""
        self._ended = True
        self.channel.end()

    def fail(self, error: JetStreamError) -> None:
        """End the operation because of `error`, and tell the peer."""
        if not self._closed:
            self._error = self._error or error
            self.channel.reset(_code(error), str(error))

    def heard(self) -> None:
        """The peer is there, or we are what it waits for."""
        self._heard = True

    # --- ChannelProtocol -----------------------------------------------------------------

    def channel_opened(self) -> None:
        self._watch = self.channel.session.clock.callLater(ALIVE_EVERY, self._look)

    def message_received(self, message: bytes) -> None:
        self._heard = True
        try:
            kind, number, body = decode_part(message)
            if kind != Kind.ALIVE:
                self.part_received(kind, number, body)
        except (WireError, FileError, ChannelReset, MessageTooLarge) as error:
            self.fail(error)

    def end_received(self) -> None:
        self.end()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.over(self._error or _typed(reason))

    def _look(self) -> None:
        self._watch = self.channel.session.clock.callLater(ALIVE_EVERY, self._look)
        there = self._heard or self.paused
        self._silence = 0.0 if there else self._silence + ALIVE_EVERY
        self._heard = False
        if self._silence > PATIENCE:
            self.fail(ChannelReset(ResetCode.TIMED_OUT, f"nothing came for {PATIENCE:g} s"))
        elif not self._ended:
            self.say(Kind.ALIVE)


def _expected(failure: Failure) -> JetStreamError:
    """The error that an operation ends with; what is a bug is logged."""
    if isinstance(failure.value, JetStreamError):
        return failure.value
    _log.failure("An operation on files failed", failure)
    return ChannelReset(ResetCode.INTERNAL_ERROR, "the service failed")


def _code(error: JetStreamError) -> int:
    """The code that tells the peer of `error`."""
    if isinstance(error, FileError | ChannelReset):
        return error.code
    if isinstance(error, MessageTooLarge):
        return ResetCode.MESSAGE_TOO_LARGE
    return ResetCode.BAD_MESSAGE


def _typed(reason: JetStreamError | None) -> JetStreamError | None:
    """A reset with a code of this service is a `FileError`."""
    if type(reason) is ChannelReset and reason.code in FileCode._value2member_map_:
        return FileError(reason.code, reason.reason)
    return reason
