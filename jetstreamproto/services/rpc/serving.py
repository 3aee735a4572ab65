"""The called side of a channel: runs methods, and answers as they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import (
    ChannelError,
    JetStreamError,
    MessageTooLarge,
    QueueFull,
    RpcError,
    SessionError,
    WireError,
)
from jetstreamproto.services.rpc.batch import Batch
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.deadlines import Deadlines
from jetstreamproto.services.rpc.items import ItemQueue
from jetstreamproto.services.rpc.messages import (
    VERSION,
    Flag,
    Kind,
    decode_metadata,
    encode_error,
    encode_frame,
    split_frames,
)
from jetstreamproto.services.rpc.methods import Method
from jetstreamproto.services.rpc.model import RpcStatus
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

if TYPE_CHECKING:
    from jetstreamproto.services.rpc.service import RpcServer

_log = Logger()

_CALL, _ITEM, _END, _CANCEL = int(Kind.CALL), int(Kind.ITEM), int(Kind.END), int(Kind.CANCEL)
_AS_A_STREAM = "{} has items: it is to be called as a stream"
_CLOSING, _RESULT, _RAW = int(Kind.CLOSING), int(Kind.RESULT), int(Flag.RAW)


class _Running:
    """A call whose method has begun and not ended."""

    __slots__ = ("call", "context", "items", "method", "slot", "work")

    def __init__(
        self, call: int, method: Method, context: RpcContext | None, items: ItemQueue | None
    ) -> None:
        self.call = call
        self.method = method
        self.context = context
        self.items = items
        self.slot: float | None = None
        self.work: Deferred[Any] | None = None


class Tally:
    """The calls that are under way in a session, on all of its channels."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ServedCalls(ChannelProtocol):
    """Runs the calls of one channel. A call that streams must be its channel's only one."""

    def __init__(self, server: RpcServer) -> None:
        self._server = server
        self._limits = server.limits
        self._methods: dict[bytes, Method] = {}  # those that the peer has called, and may
        self._running: dict[int, _Running] = {}
        self._streaming = False
        self._closing = self._closed = False
        self._session: Session
        self._tally: Tally
        self._batch: Batch
        self._deadlines: Deadlines

    # --- from the session --------------------------------------------------------------

    def channel_opened(self) -> None:
        self._session = self.channel.session
        self._tally = self._server.tally(self._session)
        self._batch = Batch(self.channel, self._session.clock)
        self._deadlines = Deadlines(self._session.clock, self._late)
        self.channel.registerProducer(_Reader(self.channel), True)

    def message_received(self, message: bytes) -> None:
        batch = self._batch
        batch.hold()
        try:
            for call, number, name_size, extra, kind, flags, version, body in split_frames(message):
                if self._closed:
                    return
                if version != VERSION:
                    self._wrong_version(call, kind, version)
                elif kind == _CALL:
                    self._call(call, number, name_size, extra, flags, body)
                else:
                    self._other_frame(call, kind, body)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
        finally:
            batch.release()

    def end_received(self) -> None:
        """The caller will make no more calls here, but waits for those under way."""
        for running in tuple(self._running.values()):
            if running.items is not None:
                running.items.finish()
        self.session_closing()

    def session_closing(self) -> None:
        self._closing = True
        for running in tuple(self._running.values()):
            if running.context is not None:
                running.context.close()
        self._end_if_done()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._closed = True
        self._deadlines.stop()
        gone = RpcError(RpcStatus.CANCELLED, "the caller is gone")
        for running in tuple(self._running.values()):
            self._give_up(running, gone)

    # --- frames ------------------------------------------------------------------------

    def _call(
        self, call: int, timeout_ms: int, name_size: int, extra: int, flags: int, body: memoryview
    ) -> None:
        try:
            name = bytes(body[:name_size])
            method = self._methods.get(name) or self._find(name)
            if self._tally.count >= self._limits.calls or self._closing:
                raise self._busy()
            start = name_size + extra
            if len(body) - start > self._limits.payload:
                raise RpcError(
                    RpcStatus.RESOURCE_EXHAUSTED, f"more than {self._limits.payload} bytes"
                )
            if method.signature.streaming and not flags & Flag.STREAM:
                raise RpcError(RpcStatus.UNIMPLEMENTED, _AS_A_STREAM.format(method.signature.name))
            arguments = method.arguments(body[start:], flags)
            if not method.plain or self._streaming or call in self._running:
                metadata = body[name_size:start]
                self._start(call, method, arguments, timeout_ms, metadata)
                return
        except RpcError as error:
            error.started = False
            self._fail(call, error)
            return
        try:
            result = method.call(*arguments)
        except Exception:
            self._fail(call, self._error(method, Failure()))
            return
        if isinstance(result, Deferred):
            running = _Running(call, method, None, None)
            self._running[call] = running
            self._follow(running, result, timeout_ms)
        else:
            self._answer(call, method, result)

    def _find(self, name: bytes) -> Method:
        method = self._server.find(self._session, name)
        self._methods[name] = method
        return method

    def _busy(self) -> RpcError:
        if self._closing:
            return RpcError(RpcStatus.UNAVAILABLE, "the server is closing")
        return RpcError(
            RpcStatus.RESOURCE_EXHAUSTED, f"{self._limits.calls} calls are under way already"
        )

    def _other_frame(self, call: int, kind: int, body: memoryview) -> None:
        running = self._running.get(call)
        if kind == _CANCEL:
            if running is not None:
                self._give_up(running, RpcError(RpcStatus.CANCELLED, "the caller gave up"))
        elif kind == _ITEM:
            if running is not None and running.items is not None:
                running.items.put(body)
        elif kind == _CLOSING:
            if running is not None and running.context is not None:
                running.context.close()
        elif kind == _END:
            if running is not None and running.items is not None:
                running.items.finish()
        else:
            raise WireError(f"a frame of kind {kind} to a server")

    def _wrong_version(self, call: int, kind: int, version: int) -> None:
        if kind != _CALL:
            raise WireError(f"a frame of version {version}; here it is {VERSION}")
        error = RpcError(
            RpcStatus.UNIMPLEMENTED,
            f"envelope version {version}; here it is {VERSION}",
            started=False,
        )
        self._fail(call, error)

    # --- calls that take a while -------------------------------------------------------

    def _start(
        self,
        call: int,
        method: Method,
        arguments: tuple[Any, ...],
        timeout_ms: int,
        metadata: memoryview,
    ) -> None:
        shared = method.signature.streaming and self._running
        if self._streaming or shared or call in self._running:
            raise WireError(f"call {call} cannot share its channel")
        seconds = self._seconds(method, timeout_ms)
        session = self._session
        context = RpcContext(
            session,
            method.signature.name,
            decode_metadata(metadata, self._limits),
            None if seconds is None else session.clock.seconds() + seconds,
        )
        items = None
        if method.signature.streaming:
            self._streaming = True
            self.channel.unregisterProducer()
            if method.signature.items is not None:
                items = ItemQueue(self.channel, method.read_item, self._limits.buffered)
        running = _Running(call, method, context, items)
        named = method.named(arguments, context, items)
        self._running[call] = running  # before it runs, which it does at once
        self._follow(running, Deferred.fromCoroutine(self._work(running, named)), timeout_ms)

    async def _work(self, running: _Running, named: dict[str, Any]) -> Any:
        """Run the method; its result, or None when its items were the result."""
        result = running.method.call(**named)
        if running.method.signature.items_out is None:
            return await result if hasattr(result, "__await__") else result
        if hasattr(result, "__await__"):
            result = await result
        try:
            async for item in result:
                await self._send_item(running, item)
        except GeneratorExit:  # nobody is left to wait for anything
            raise
        except BaseException:
            if hasattr(result, "aclose"):
                await result.aclose()
            raise
        return None

    async def _send_item(self, running: _Running, item: Any) -> None:
        """Send one item; returns when there is room for more."""
        body = running.method.encode(item, self._limits)
        if self._running.get(running.call) is not running:
            raise RpcError(RpcStatus.CANCELLED, "nobody wants the rest")
        self._batch.put(encode_frame(Kind.ITEM, running.call, body))
        if self.channel.queued >= self._session.settings.high_water:
            await self._drained()

    async def _drained(self) -> None:
        try:
            await self.channel.drained()
        except ChannelError:
            raise RpcError(RpcStatus.CANCELLED, "the caller is gone") from None

    def _follow(self, running: _Running, work: Deferred[Any], timeout_ms: int) -> None:
        """Answer when `work` is done, or when its time is over."""
        running.work = work
        self._tally.count += 1
        work.addBoth(self._ended, running)
        if self._running.get(running.call) is running:
            seconds = self._seconds(running.method, timeout_ms)
            if seconds is not None:
                running.slot = self._deadlines.add(running.call, seconds)

    def _seconds(self, method: Method, timeout_ms: int) -> float | None:
        if timeout_ms:
            return timeout_ms / 1000
        return None if method.signature.streaming else self._limits.timeout

    def _ended(self, result: Any, running: _Running) -> None:
        self._tally.count -= 1
        if self._running.get(running.call) is not running:
            return  # it was given up before
        self._forget(running)
        if self._closed:
            return
        if isinstance(result, Failure):
            self._fail(running.call, self._error(running.method, result))
        elif running.method.signature.items_out is not None:
            self._put(encode_frame(_RESULT, running.call, b"", 0, Flag.NO_VALUE))
        else:
            self._answer(running.call, running.method, result)
        self._end_if_done()

    def _forget(self, running: _Running) -> None:
        del self._running[running.call]
        if running.slot is not None:
            self._deadlines.discard(running.call, running.slot)
        if running.items is not None:
            running.items.drop(RpcError(RpcStatus.CANCELLED, "the call has ended"))

    def _late(self, call: int) -> None:
        running = self._running.get(call)
        if running is not None:
            late = RpcError(RpcStatus.DEADLINE_EXCEEDED, "the method took longer than it had")
            self._give_up(running, late)
            self._fail(call, late)
            self._end_if_done()

    def _give_up(self, running: _Running, why: RpcError) -> None:
        """Stop the method; what comes of it is not wanted any more."""
        self._forget(running)
        if running.context is not None:
            running.context.cancelled = True
        if running.work is not None:
            running.work.cancel()

    # --- answers -----------------------------------------------------------------------

    def _answer(self, call: int, method: Method, result: Any) -> None:
        try:
            body = method.encode(result, self._limits)
        except RpcError as error:
            self._fail(call, error)
            return
        frame = encode_frame(_RESULT, call, body, 0, _RAW if method.signature.raw else 0)
        try:
            self._put(frame)
        except MessageTooLarge:
            self._fail(
                call, RpcError(RpcStatus.RESOURCE_EXHAUSTED, "the result is too large for you")
            )

    def _fail(self, call: int, error: RpcError) -> None:
        self._put(encode_error(call, error, self._limits))

    def _put(self, frame: bytes) -> None:
        if self._closed:
            return
        try:
            self._batch.put(frame)
        except QueueFull as error:
            self.channel.reset(ResetCode.LIMIT_EXCEEDED, str(error))

    def _end_if_done(self) -> None:
        if (self._closing or self._streaming) and not self._running and not self._closed:
            self._batch.flush()
            self.channel.end()

    def _error(self, method: Method, failure: Failure) -> RpcError:
        """What the caller is told of an exception."""
        error = failure.value
        if isinstance(error, RpcError):
            return RpcError(error.status, error.message, error.details)
        if isinstance(error, SessionError):
            return RpcError(RpcStatus.UNAVAILABLE, "the method lost a session that it needs")
        _log.failure("{name} failed", failure, name=method.signature.name)
        text = "the method failed"
        if self._server.reveal_errors:
            text = f"{type(error).__name__}: {error}"
        return RpcError(RpcStatus.INTERNAL, text)


@implementer(IPushProducer)
class _Reader:
    """Stops reading calls from a peer that does not take the answers."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def pauseProducing(self) -> None:
        self._channel.pauseProducing()

    def resumeProducing(self) -> None:
        self._channel.resumeProducing()

    def stopProducing(self) -> None:
        """The channel is over."""
