"""`RpcStream`: a call with a channel of its own, on which items go either way."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from jetstreamproto.errors import ChannelClosed, ChannelError, JetStreamError, RpcError, WireError
from jetstreamproto.services.rpc.batch import Batch
from jetstreamproto.services.rpc.calling import ReadResult, copy_of, lost, read_result
from jetstreamproto.services.rpc.items import ItemQueue
from jetstreamproto.services.rpc.messages import (
    DECODE_ERRORS,
    VERSION,
    Flag,
    Kind,
    decode_error,
    decode_value,
    encode_call,
    encode_frame,
    encode_value,
    split_frames,
)
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

_CALL_ID = 1


class RpcStream(ChannelProtocol):
    """A streaming call; `RpcClient.stream` makes it.

        stream = client.stream("demo.Numbers#squares", 10)
        async for square in stream: ...

        stream = client.stream("demo.Numbers#total")
        await stream.send(1)
        stream.end()
        total = await stream.result()

    The iteration raises the `RpcError` that the call ends with. Whoever gives up before the end
    calls `cancel`.
    """

    def __init__(
        self,
        limits: RpcLimits,
        *,
        raw: bool = False,
        read: ReadResult | None = None,
        read_item: ReadResult | None = None,
    ) -> None:
        self._limits = limits
        self._raw = raw
        self._read = read
        self._read_one = read_item or decode_value
        self._waiting: list[Deferred[Any]] = []
        self._outcome: tuple[Any, RpcError | None] | None = None
        self._ended = False
        self._timer: IDelayedCall | None = None
        self._batch: Batch
        self._items: ItemQueue

    def begin(
        self,
        channel: Channel,
        name: bytes,
        payload: bytes,
        seconds: float | None,
        metadata: bytes = b"",
    ) -> None:
        """Make the call, before the channel is accepted: it travels with the request."""
        clock = channel.session.clock
        self._batch = Batch(channel, clock)
        self._items = ItemQueue(channel, self._read_item, self._limits.buffered)
        milliseconds = 0 if seconds is None else int(seconds * 1000) or 1
        flags = Flag.STREAM | (Flag.RAW if self._raw else 0)
        try:
            self._batch.put(encode_call(_CALL_ID, milliseconds, name, metadata, payload, flags))
        except ChannelError as error:
            self._finish(None, RpcError(RpcStatus.RESOURCE_EXHAUSTED, str(error), started=False))
            channel.reset()
            return
        if seconds is not None:
            self._timer = clock.callLater(seconds, self._late)

    # --- for the application -----------------------------------------------------------

    def __aiter__(self) -> RpcStream:
        return self

    async def __anext__(self) -> Any:
        """The next item from the server."""
        return await self._items.__anext__()

    async def send(self, item: Any) -> None:
        """Send one item; returns when there is room for more.

        Raises `RpcError`: what the call has ended with, or INVALID_ARGUMENT for what cannot be
        sent.
        """
        if self._outcome is not None:
            raise copy_of(self._outcome[1] or RpcError(RpcStatus.CANCELLED, "the call has ended"))
        if self._ended:
            raise RpcError(RpcStatus.FAILED_PRECONDITION, "the stream has been ended")
        try:
            data = bytes(item) if self._raw else encode_value(item)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RpcError(RpcStatus.INVALID_ARGUMENT, f"this cannot be sent: {error}") from None
        if len(data) > self._limits.payload:
            raise RpcError(
                RpcStatus.INVALID_ARGUMENT,
                f"an item of {len(data)} bytes; the limit is {self._limits.payload}",
            )
        try:
            self._batch.put(encode_frame(Kind.ITEM, _CALL_ID, data))
            if self.channel.queued >= self.channel.session.settings.high_water:
                await self.channel.drained()
        except ChannelClosed as error:
            raise lost(error) from None
        except ChannelError as error:
            raise RpcError(RpcStatus.RESOURCE_EXHAUSTED, str(error)) from None

    def end(self) -> None:
        """Nothing more will be sent. The result, or items, may still come."""
        if not self._ended and self._outcome is None:
            self._ended = True
            self._batch.put(encode_frame(Kind.END, _CALL_ID))

    def result(self) -> Deferred[Any]:
        """Fires with the result of the call, or fails with its `RpcError`.

        It is None for a method whose items are the result: these have all come then. Cancelling
        it cancels the call.
        """
        waiting: Deferred[Any] = Deferred(lambda _: self.cancel())
        if self._outcome is None:
            self._waiting.append(waiting)
        else:
            self._tell(waiting)
        return waiting

    @property
    def streamed(self) -> bool:
        """Whether the call has ended, and its items were the result."""
        return self._outcome is not None and self._no_value

    _no_value = False

    def cancel(self) -> None:
        """Give the call up. The method is cancelled; who waits is told CANCELLED."""
        if self._outcome is None:
            self._finish(None, RpcError(RpcStatus.CANCELLED, "the call was cancelled"))
            self.channel.reset(ResetCode.CANCELLED, "the call was cancelled")

    # --- from the session --------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        try:
            for _, number, _, _, kind, flags, version, body in split_frames(message):
                if version != VERSION:
                    raise WireError(f"a frame of version {version}; here it is {VERSION}")
                if self._outcome is not None:
                    return
                self._frame(kind, number, flags, body)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))

    def session_closing(self) -> None:
        """The server wants to go, and its session does not tell the method so itself."""
        if self._outcome is None:
            self._batch.put(encode_frame(Kind.CLOSING, _CALL_ID))

    def end_received(self) -> None:
        self._finish(None, RpcError(RpcStatus.UNAVAILABLE, "the server has ended the channel"))

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._finish(None, lost(reason))

    def fail(self, error: RpcError) -> None:
        """The channel could not be opened."""
        self._finish(None, error)

    # --- inside ------------------------------------------------------------------------

    def _frame(self, kind: int, number: int, flags: int, body: memoryview) -> None:
        if kind == Kind.ITEM:
            self._items.put(body)
        elif kind == Kind.RESULT:
            self._no_value = bool(flags & Flag.NO_VALUE)
            try:
                result = read_result(flags, body, self._read)
            except RpcError as error:
                self._finish(None, error)
            else:
                self._finish(result, None)
        elif kind == Kind.ERROR:
            self._finish(None, decode_error(number, flags, body))
        else:
            raise WireError(f"a frame of kind {kind} to a caller")

    def _finish(self, result: Any, error: RpcError | None) -> None:
        if self._outcome is not None:
            return
        self._outcome = result, error
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if error is None or error.status is not RpcStatus.CANCELLED:
            self._items.finish(error and copy_of(error))
        else:
            self._items.drop(copy_of(error))
        self._batch.flush()
        self.channel.end()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            self._tell(waiter)

    def _tell(self, waiter: Deferred[Any]) -> None:
        assert self._outcome is not None
        result, error = self._outcome
        if error is None:
            waiter.callback(result)
        else:
            waiter.errback(copy_of(error))

    def _late(self) -> None:
        self._finish(None, RpcError(RpcStatus.DEADLINE_EXCEEDED, "no end within the deadline"))
        self.channel.reset(ResetCode.CANCELLED, "its deadline has passed")

    def _read_item(self, payload: memoryview) -> Any:
        if self._raw:
            return bytes(payload)
        try:
            return self._read_one(payload)
        except DECODE_ERRORS as error:
            raise RpcError(RpcStatus.INTERNAL, f"the peer's item: {error}") from None
