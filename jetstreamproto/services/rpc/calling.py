"""The calling side of the channel that the unary calls of a session share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from jetstreamproto.errors import (
    ChannelError,
    ChannelReset,
    JetStreamError,
    NotAllowed,
    RpcError,
    ServiceNotFound,
    WireError,
)
from jetstreamproto.services.rpc.batch import Batch
from jetstreamproto.services.rpc.deadlines import Deadlines
from jetstreamproto.services.rpc.messages import (
    DECODE_ERRORS,
    MAX_CALL_ID,
    VERSION,
    Flag,
    Kind,
    decode_error,
    decode_value,
    encode_call,
    encode_frame,
    split_frames,
)
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

ReadResult: TypeAlias = Callable[[memoryview], Any]
"""Makes a result of its MessagePack; raises what msgspec does."""

_RESULT, _ERROR, _RAW = int(Kind.RESULT), int(Kind.ERROR), int(Flag.RAW)


class PendingCall(Deferred[Any]):
    """The result of a call that is under way; cancelling it cancels the call."""

    call = 0
    slot = 0.0
    read: ReadResult | None = None


class SharedCalls(ChannelProtocol):
    """Calls on one channel, answered in any order.

    `begin` binds it to its channel, before that is accepted: calls travel with the request.
    """

    def __init__(self, limits: RpcLimits) -> None:
        self._limits = limits
        self._pending: dict[int, PendingCall] = {}
        self._last = 0
        self._closing = False
        self._over: RpcError | None = None
        self._batch: Batch
        self._deadlines: Deadlines

    def begin(self, channel: Channel) -> None:
        """Calls may be made from now on."""
        clock = channel.session.clock
        self._batch = Batch(channel, clock)
        self._deadlines = Deadlines(clock, self._late)

    @property
    def usable(self) -> bool:
        """Whether new calls can be made."""
        return self._over is None and not self._closing

    @property
    def outstanding(self) -> int:
        """Calls that are under way."""
        return len(self._pending)

    def call(
        self,
        name: bytes,
        payload: bytes,
        seconds: float,
        metadata: bytes = b"",
        flags: int = 0,
        read: ReadResult | None = None,
    ) -> PendingCall:
        """Make a call that ends within `seconds`; what fails is an `RpcError` of the Deferred."""
        pending = PendingCall(self._cancelled)
        pending.read = read
        if len(self._pending) >= self._limits.calls:
            pending.errback(
                RpcError(
                    RpcStatus.RESOURCE_EXHAUSTED,
                    f"{self._limits.calls} calls are under way already",
                    started=False,
                )
            )
            return pending
        call = self._last = self._last % MAX_CALL_ID + 1
        while call in self._pending:  # one is still under way after 4 billion others
            call = self._last = self._last % MAX_CALL_ID + 1
        frame = encode_call(call, int(seconds * 1000) or 1, name, metadata, payload, flags)
        try:
            self._batch.put(frame)
        except ChannelError as error:
            pending.errback(RpcError(RpcStatus.RESOURCE_EXHAUSTED, str(error), started=False))
            return pending
        self._pending[call] = pending
        pending.call = call
        pending.slot = self._deadlines.add(call, seconds)
        return pending

    def fail(self, error: RpcError) -> None:
        """Nothing more will come here: every call fails with `error`."""
        if self._over is None:
            self._over = error
            self._deadlines.stop()
            pending, self._pending = self._pending, {}
            for call in pending.values():
                call.errback(copy_of(error))

    # --- from the session --------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        batch = self._batch
        batch.hold()
        try:
            for call, number, _, _, kind, flags, version, body in split_frames(message):
                if version != VERSION or kind not in (_RESULT, _ERROR):
                    raise WireError(f"a frame of kind {kind}, version {version} to a caller")
                pending = self._pending.pop(call, None)
                if pending is None:
                    continue  # it was given up
                self._deadlines.discard(call, pending.slot)
                if kind == _RESULT:
                    self._succeed(pending, flags, body)
                else:
                    pending.errback(decode_error(number, flags, body))
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
        finally:
            batch.release()
        if self._closing:
            self._end_if_done()

    def end_received(self) -> None:
        self._closing = True
        self.fail(RpcError(RpcStatus.UNAVAILABLE, "the server has ended the channel"))
        self.channel.end()

    def session_closing(self) -> None:
        self._closing = True
        self._end_if_done()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.fail(lost(reason))

    # --- ends --------------------------------------------------------------------------

    def _succeed(self, pending: PendingCall, flags: int, body: memoryview) -> None:
        try:
            result = read_result(flags, body, pending.read)
        except RpcError as error:
            pending.errback(error)
        else:
            pending.callback(result)

    def _late(self, call: int) -> None:
        pending = self._pending.pop(call, None)
        if pending is not None:
            self._send_cancel(call)
            pending.errback(RpcError(RpcStatus.DEADLINE_EXCEEDED, "no answer within the deadline"))

    def _cancelled(self, pending: Deferred[Any]) -> None:
        assert isinstance(pending, PendingCall)
        if self._pending.pop(pending.call, None) is not None:
            self._deadlines.discard(pending.call, pending.slot)
            self._send_cancel(pending.call)
        if self._closing:
            self._end_if_done()

    def _send_cancel(self, call: int) -> None:
        with suppress(ChannelError):  # the server has its own deadline for it
            self._batch.put(encode_frame(Kind.CANCEL, call))

    def _end_if_done(self) -> None:
        if not self._pending:
            self._batch.flush()
            self.channel.end()


def read_result(flags: int, body: memoryview, read: ReadResult | None) -> Any:
    """The value in a RESULT. Raises `RpcError` (INTERNAL) if `read` cannot make anything of it."""
    if flags & _RAW:
        return bytes(body)
    if flags & Flag.NO_VALUE:
        return None
    try:
        return decode_value(body) if read is None else read(body)
    except DECODE_ERRORS as error:
        raise RpcError(RpcStatus.INTERNAL, f"the peer's result: {error}") from None


def lost(reason: JetStreamError | None) -> RpcError:
    """What a call fails with whose channel has closed because of `reason`."""
    if isinstance(reason, NotAllowed):
        error = RpcError(RpcStatus.PERMISSION_DENIED, reason.reason, started=False)
    elif isinstance(reason, ServiceNotFound):
        error = RpcError(RpcStatus.UNIMPLEMENTED, reason.reason, started=False)
    elif isinstance(reason, ChannelReset):
        error = RpcError(RpcStatus.UNAVAILABLE, f"the channel was cut off: {reason.reason}")
    else:
        error = RpcError(RpcStatus.UNAVAILABLE, str(reason or "the channel has ended"))
    error.__cause__ = reason
    return error


def copy_of(error: RpcError) -> RpcError:
    """The same again: an exception that many wait for must not gather all of their tracebacks."""
    copy = RpcError(error.status, error.message, error.details, started=error.started)
    copy.__cause__ = error.__cause__
    return copy
