"""The client's side of a key-value channel: requests, and the replies to them by number."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall

from jetstreamproto.errors import (
    ChannelClosed,
    JetStreamError,
    KeyValueError,
    NotAllowed,
    RevisionConflict,
    WireError,
)
from jetstreamproto.services.kv.messages import Reply, encode_request, read_reply
from jetstreamproto.services.kv.model import ANY_REVISION, KEEP_TTL, Action, Status
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

_IDS = 1 << 32


class KeyValueConnection(ChannelProtocol):
    """Carries any number of requests at a time. None takes longer than `timeout` seconds.

    A server that is late with one loses the channel, and all requests on it fail.
    """

    def __init__(self, timeout: float) -> None:
        self.lost: JetStreamError | None = None
        """Why it carries no more requests."""
        self._timeout = timeout
        self._pending: dict[int, tuple[Deferred[Reply], float]] = {}
        self._last = 0
        self._timer: IDelayedCall | None = None

    def request(
        self,
        action: Action,
        bucket: str,
        key: str = "",
        *,
        names: tuple[str, ...] = (),
        values: Sequence[bytes] = (),
        revision: int = ANY_REVISION,
        ttl: int = KEEP_TTL,
        limit: int = 0,
    ) -> Deferred[Reply]:
        """Send one; fires with its reply. Fails as `KeyValueClient` describes."""
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
            self.channel.send(message)
        except JetStreamError as error:
            return fail(error)
        clock = self.channel.session.clock
        done: Deferred[Reply] = Deferred(lambda _: self._give_up(id))
        self._pending[id] = (done, clock.seconds())
        if self._timer is None:
            self._timer = clock.callLater(self._timeout, self._check)
        return done

    def message_received(self, message: bytes) -> None:
        try:
            reply = read_reply(message)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
            return
        pending = self._pending.pop(reply.id, None)
        if pending is None:  # given up
            return
        if reply.status:
            pending[0].errback(_error(reply))
        else:
            pending[0].callback(reply)

    def end_received(self) -> None:
        self.lose(ChannelClosed("the server has ended the channel"))
        self.channel.end()

    def session_closing(self) -> None:
        self.lost = self.lost or ChannelClosed("the session is closing")
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
        for done, _ in pending.values():
            done.errback(reason)

    def _give_up(self, id: int) -> None:
        """Nobody waits for that reply any more."""
        self._pending.pop(id, None)

    def _check(self) -> None:
        """Whether the oldest request is late."""
        self._timer = None
        if not self._pending:
            return
        clock = self.channel.session.clock
        _, sent = next(iter(self._pending.values()))
        left = sent + self._timeout - clock.seconds()
        if left <= 0:
            self.channel.reset(ResetCode.TIMED_OUT, f"no answer within {self._timeout:g} s")
        else:
            self._timer = clock.callLater(left, self._check)


def _error(reply: Reply) -> JetStreamError:
    reason = b"".join(value or b"" for value in reply.values).decode("utf-8", "replace")
    if reply.status == Status.NOT_ALLOWED:
        return NotAllowed(ResetCode.NOT_ALLOWED, reason)
    if reply.status == Status.CONFLICT:
        return RevisionConflict(reply.status, reason, reply.revision)
    return KeyValueError(reply.status, reason)


def check_reply(reply: Reply) -> Reply:
    """`reply` if it says that all went well; raises what it says otherwise."""
    if reply.status:
        raise _error(reply)
    return reply
