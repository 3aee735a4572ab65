"""The client's side of a key-value channel: requests, and the replies to them by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.errors import (
    ChannelClosed,
    JetStreamError,
    KeyValueError,
    NotAllowed,
    RevisionConflict,
    WireError,
)
from jetstreamproto.services.kv.messages import (
    Reply,
    encode_request,
    pack_requests,
    packed_replies,
    read_reply,
)
from jetstreamproto.services.kv.model import ANY_REVISION, KEEP_TTL, Action, Status
from jetstreamproto.services.kv.packing import Packing
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

T = TypeVar("T")

_IDS = 1 << 32


class KeyValueConnection(ChannelProtocol):
    """Carries any number of requests at a time. None takes longer than `timeout` seconds.

    A server that is late with one loses the channel, and all requests on it fail.
    """

    def __init__(self, timeout: float) -> None:
        self.lost: JetStreamError | None = None
        """Why it carries no more requests."""
        self._timeout = timeout
        # what is waited for, how it is read from its reply, and when it was asked for
        self._pending: dict[int, tuple[Deferred[Any], Callable[[Reply], Any], float]] = {}
        self._last = 0
        self._timer: IDelayedCall | None = None
        self._outgoing: Packing | None = None
        self._clock: IReactorTime

    def request(
        self,
        read: Callable[[Reply], T],
        action: Action,
        bucket: str,
        key: str = "",
        names: tuple[str, ...] = (),
        values: Sequence[bytes] = (),
        revision: int = ANY_REVISION,
        ttl: int = KEEP_TTL,
        limit: int = 0,
    ) -> Deferred[T]:
        """Send one; fires with what `read` makes of its reply. Fails as `KeyValueClient` says.

        `read` may raise `WireError`.
        """
        if self.lost is not None:
            return fail(self.lost)
        self._last = id = (self._last + 1) % _IDS
        message = encode_request(
            action,
            bucket,
            key,
            id=id,
            names=names,
            values=values,
            revision=revision,
            ttl=ttl,
            limit=limit,
        )
        try:
            if self._outgoing is None:
                self._outgoing = Packing(self.channel, pack_requests)
                self._clock = self.channel.session.clock
            self._outgoing.put(message)
        except JetStreamError as error:
            return fail(error)
        done: Deferred[T] = Deferred(self._give_up)
        self._pending[id] = (done, read, self._clock.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout, self._check)
        return done

    def message_received(self, message: bytes) -> None:
        try:
            reply = read_reply(message)
            replies = packed_replies(reply) if reply.packed else (reply,)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
            return
        for reply in replies:
            self._answered(reply)

    def _answered(self, reply: Reply) -> None:
        pending = self._pending.pop(reply.id, None)
        if pending is None:  # given up
            return
        done, read, _ = pending
        try:
            result = read(check_reply(reply))
        except JetStreamError as error:
            done.errback(error)
        else:
            done.callback(result)

    def end_received(self) -> None:
        self.lose(ChannelClosed("the server has ended the channel"))
        self.channel.end()

    def session_closing(self) -> None:
        self.lost = self.lost or ChannelClosed("the session is closing")
        self.end()

    def end(self) -> None:
        """Send what was asked, and no more."""
        if self._outgoing is not None:
            self._outgoing.flush()
        self.channel.end()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.lose(reason or ChannelClosed("the channel is closed"))

    def lose(self, reason: JetStreamError) -> None:
        """Fail what has not been answered, and everything from now on."""
        self.lost = self.lost or reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, {}
        for done, _, _ in pending.values():
            done.errback(reason)

    def _give_up(self, waiting: Deferred[Any]) -> None:
        """Nobody waits for that reply any more."""
        for id, (done, _, _) in self._pending.items():
            if done is waiting:
                del self._pending[id]
                return

    def _check(self) -> None:
        """Whether the oldest request is late."""
        self._timer = None
        if not self._pending:
            return
        _, _, sent = next(iter(self._pending.values()))
        left = sent + self._timeout - self._clock.seconds()
        if left <= 0:
            self.channel.reset(ResetCode.TIMED_OUT, f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._clock.callLater(left, self._check)


def _error(reply: Reply) -> JetStreamError:
    reason, position = _why(reply)
    if reply.status == Status.NOT_ALLOWED:
        return NotAllowed(ResetCode.NOT_ALLOWED, reason)
    if reply.status == Status.CONFLICT:
        return RevisionConflict(reply.status, reason, reply.revision, position)
    return KeyValueError(reply.status, reason, position)


def _why(reply: Reply) -> tuple[str, int | None]:
    """Why a request is refused, and the position of the write that it is about, if there is one."""
    why, position, *_ = [*reply.values, b"", b""]
    digits = position or b""
    known = int(digits) if digits.isdigit() and len(digits) < 6 else None
    return (why or b"").decode("utf-8", "replace"), known


def check_reply(reply: Reply) -> Reply:
    """`reply` if it says that all went well; raises what it says otherwise."""
    if reply.status:
        raise _error(reply)
    return reply
