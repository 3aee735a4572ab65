"""`RpcClient`: calls to the methods that a session's peer exposes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelError, JetStreamError, RpcError
from jetstreamproto.services.rpc.calling import ReadResult, SharedCalls, lost
from jetstreamproto.services.rpc.messages import (
    RPC,
    Flag,
    Metadata,
    encode_metadata,
    encode_value,
)
from jetstreamproto.services.rpc.model import DEFAULT_LIMITS, RpcLimits, RpcStatus, check_method
from jetstreamproto.services.rpc.signatures import Signature, signatures
from jetstreamproto.services.rpc.stream import RpcStream
from jetstreamproto.session.session import Session
from jetstreamproto.wire.session_messages import Mode

_MAX_NAMES = 1000
DEFAULT_TIMEOUT = 30.0


class RpcClient:
    """Calls methods of the other side of a session.

        client = RpcClient(session)
        total = await client.call("demo.Calculator#add", 1, 2)

    Calls share one channel and are answered in any order. None is made twice. `timeout`, in
    seconds, is for calls that have none of their own, `limits` what is sent and accepted. What
    goes wrong is an `RpcError` that the Deferred fails with; only what the caller got wrong is
    raised: `ValueError` for a name, a timeout or metadata, `TypeError` for what cannot be sent.
    """

    def __init__(
        self,
        session: Session,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        limits: RpcLimits = DEFAULT_LIMITS,
    ) -> None:
        self.session = session
        self._timeout = timeout
        self._limits = limits
        self._names: dict[str, bytes] = {}
        self._shared: SharedCalls | None = None

    @property
    def outstanding(self) -> int:
        """The unary calls that are under way on the shared channel."""
        return 0 if self._shared is None else self._shared.outstanding

    def call(
        self,
        method: str,
        *arguments: Any,
        named: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        raw: bool = False,
        read: ReadResult | None = None,
    ) -> Deferred[Any]:
        """Call `SERVICE#METHOD` with arguments by position, or `named` ones; its result.

        The call ends within `timeout` seconds, for the method too. Cancelling the Deferred
        cancels the method. A `raw` method takes and returns bytes. `read` makes the result of
        its MessagePack, as `msgspec.msgpack.Decoder(T).decode` does.
        """
        name = self._names.get(method) or self._check_name(method)
        payload = self._payload(arguments, named, raw)
        seconds = self._timeout if timeout is None else timeout
        if not 0 < seconds <= self._limits.timeout:
            return self._no_time(seconds)
        extra = encode_metadata(metadata, self._limits) if metadata else b""
        if len(payload) > self._limits.shared and self.session.accepts_channels:
            stream = self._open(name, payload, seconds, extra, raw=raw, read=read)
            stream.end()
            return stream.result()
        shared = self._shared
        if shared is None or not shared.usable:
            shared = self._open_shared()
        return shared.call(name, payload, seconds, extra, Flag.RAW if raw else 0, read)

    def stream(
        self,
        method: str,
        *arguments: Any,
        named: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        raw: bool = False,
        read: ReadResult | None = None,
        read_item: ReadResult | None = None,
    ) -> RpcStream:
        """A call whose items go one way or both; as `call`, but without a deadline unless told."""
        name = self._names.get(method) or self._check_name(method)
        payload = self._payload(arguments, named, raw)
        if timeout is not None and not 0 < timeout <= self._limits.timeout:
            raise ValueError(f"a timeout of {timeout!r} s")
        extra = encode_metadata(metadata, self._limits)
        return self._open(name, payload, timeout, extra, raw=raw, read=read, read_item=read_item)

    def proxy(self, cls: type) -> Any:
        """An object with the methods of `cls`, which `rpc_service` has named.

        What is a plain or async method there returns a Deferred of its typed result here, what
        streams there an `RpcStream`. All take `timeout` and `metadata` besides.
        """
        return Proxy(self, cls)

    # --- inside ------------------------------------------------------------------------

    def _check_name(self, method: str) -> bytes:
        name = check_method(method).encode()
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._names[method] = name
        return name

    def _payload(
        self, arguments: tuple[Any, ...], named: Mapping[str, Any] | None, raw: bool
    ) -> bytes:
        if raw:
            if named or len(arguments) > 1 or not all(isinstance(a, bytes) for a in arguments):
                raise TypeError("a raw method takes one argument of bytes")
            payload = arguments[0] if arguments else b""
        elif named is not None and arguments:
            raise TypeError("arguments are given by position or by name, not both")
        else:
            try:
                payload = encode_value(arguments if named is None else dict(named))
            except (OverflowError, RecursionError) as error:
                raise ValueError(f"these arguments cannot be sent: {error}") from None
        if len(payload) > self._limits.payload:
            raise ValueError(
                f"{len(payload)} bytes of arguments; the limit is {self._limits.payload}"
            )
        return payload

    def _no_time(self, seconds: float) -> Deferred[Any]:
        if seconds > 0 or seconds != seconds:
            raise ValueError(f"a timeout of {seconds!r} s; the most is {self._limits.timeout:g}")
        result: Deferred[Any] = Deferred()
        result.errback(RpcError(RpcStatus.DEADLINE_EXCEEDED, "no time is left", started=False))
        return result

    def _open_shared(self) -> SharedCalls:
        shared = SharedCalls(self._limits)
        session = self.session
        if session.accepts_channels:
            # Where the transport can, a lost packet holds up only the calls that were in it.
            mode = Mode.UNORDERED if session.link.streams else Mode.ORDERED
            opening = session.open(RPC, shared, mode=mode)
            shared.begin(shared.channel)
            opening.addErrback(lambda failure: shared.fail(lost(_cause(failure))))
            self._shared = shared
            return shared
        return _Unusable(self._limits, self._gone())

    def _open(
        self,
        name: bytes,
        payload: bytes,
        seconds: float | None,
        metadata: bytes,
        *,
        raw: bool,
        read: ReadResult | None,
        read_item: ReadResult | None = None,
    ) -> RpcStream:
        if not self.session.accepts_channels:
            raise self._gone()
        stream = RpcStream(self._limits, raw=raw, read=read, read_item=read_item)
        opening = self.session.open(RPC, stream)
        stream.begin(stream.channel, name, payload, seconds, metadata)
        opening.addErrback(lambda failure: stream.fail(lost(_cause(failure))))
        return stream

    def _gone(self) -> RpcError:
        return RpcError(
            RpcStatus.UNAVAILABLE, f"the session is {self.session.state.value}", started=False
        )


class Proxy:
    """The methods of a class, called over an `RpcClient` or an `RpcBalancer`."""

    def __init__(self, client: Any, cls: type) -> None:
        for attribute, signature in signatures(cls).items():
            setattr(self, attribute, _caller(client, signature))


def _caller(client: Any, signature: Signature) -> Any:
    """What calls one method, with arguments as its signature has them."""
    known: dict[str, Any] = {"raw": signature.raw}
    if signature.result is not None and not signature.raw:
        known["read"] = msgspec.msgpack.Decoder(signature.result).decode
    if signature.streaming:
        if signature.items_out is not None and not signature.raw:
            known["read_item"] = msgspec.msgpack.Decoder(signature.items_out).decode
        make = partial(client.stream, signature.name, **known)
    else:
        if signature.idempotent and getattr(client, "repeats", False):
            known["idempotent"] = True
        make = partial(client.call, signature.name, **known)
    names = signature.parameters

    def call(
        *arguments: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **named: Any,
    ) -> Any:
        if len(arguments) > len(names):
            raise TypeError(f"{signature.name} takes {len(names)} arguments")
        if not named:
            return make(*arguments, timeout=timeout, metadata=metadata)
        given = dict(zip(names, arguments, strict=False))
        for name, value in named.items():
            if name not in names or name in given:
                raise TypeError(f"{signature.name}: the argument {name!r} is unknown or doubled")
            given[name] = value
        if signature.raw:
            return make(*given.values(), timeout=timeout, metadata=metadata)
        return make(named=given, timeout=timeout, metadata=metadata)

    call.__name__, call.__doc__ = signature.attribute, signature.doc
    return call


class _Unusable(SharedCalls):
    """Stands for the channel of a session that is gone."""

    def __init__(self, limits: RpcLimits, error: RpcError) -> None:
        super().__init__(limits)
        self._error = error

    def call(self, *_: Any, **__: Any) -> Any:
        failed: Deferred[Any] = Deferred()
        failed.errback(self._error)
        return failed


def _cause(failure: Failure) -> JetStreamError | None:
    error = failure.value
    return error if isinstance(error, JetStreamError) else ChannelError(str(error))
