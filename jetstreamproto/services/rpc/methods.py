"""The methods of an object, ready to be run with what a call brings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.messages import DECODE_ERRORS, Flag, encode_value
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.services.rpc.signatures import Signature

_as_tuple = msgspec.structs.astuple
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))  # how a map in MessagePack begins


class Method:
    """One method of one object."""

    __slots__ = ("_names", "_read_item", "call", "plain", "signature")

    def __init__(self, signature: Signature, target: object) -> None:
        self.signature = signature
        self.call: Callable[..., Any] = getattr(target, signature.attribute)
        self.plain = not (
            signature.streaming
            or signature.context is not None
            or inspect.iscoroutinefunction(self.call)
        )
        """Whether calling it with the arguments alone gives the result, most likely at once."""
        self._names = signature.parameters
        self._read_item = (
            msgspec.msgpack.Decoder(signature.items_in).decode
            if signature.items is not None and not signature.raw
            else None
        )

    def arguments(self, payload: memoryview, flags: int) -> tuple[Any, ...]:
        """What the caller gave, in the order of the parameters. Raises `RpcError`."""
        signature = self.signature
        if flags & Flag.RAW or signature.raw:
            return self._raw_arguments(payload, flags)
        read = signature.by_name if payload and payload[0] in _MAPS else signature.by_position
        try:
            return _as_tuple(read(payload))
        except DECODE_ERRORS as error:
            raise RpcError(RpcStatus.INVALID_ARGUMENT, f"{signature.name}: {error}") from None

    def _raw_arguments(self, payload: memoryview, flags: int) -> tuple[Any, ...]:
        signature = self.signature
        if not (flags & Flag.RAW and signature.raw):
            wanted = "bytes as they are" if signature.raw else "MessagePack"
            raise RpcError(RpcStatus.INVALID_ARGUMENT, f"{signature.name} takes {wanted}")
        if not signature.parameters:
            return ()
        return (bytes(payload),)

    def named(self, arguments: tuple[Any, ...], context: Any, items: Any) -> dict[str, Any]:
        """The arguments by name, with the context and the items where they are wanted."""
        named = dict(zip(self._names, arguments, strict=True))
        if self.signature.context is not None:
            named[self.signature.context] = context
        if self.signature.items is not None:
            named[self.signature.items] = items
        return named

    def read_item(self, payload: memoryview) -> Any:
        """One item that the caller sent. Raises `RpcError`."""
        if self._read_item is None:
            return bytes(payload)
        try:
            return self._read_item(payload)
        except DECODE_ERRORS as error:
            raise RpcError(
                RpcStatus.INVALID_ARGUMENT, f"{self.signature.name}: an item: {error}"
            ) from None

    def encode(self, value: Any, limits: RpcLimits) -> bytes:
        """A result, or an item of it. Raises `RpcError` for what cannot be sent."""
        name = self.signature.name
        if self.signature.raw:
            if not isinstance(value, bytes | bytearray | memoryview):
                raise RpcError(RpcStatus.INTERNAL, f"{name} returned no bytes")
            data = bytes(value)
        else:
            try:
                data = encode_value(value)
            except (TypeError, ValueError, OverflowError, RecursionError):
                raise RpcError(RpcStatus.INTERNAL, f"{name} returned what cannot be sent") from None
        if len(data) > limits.payload:
            raise RpcError(
                RpcStatus.RESOURCE_EXHAUSTED,
                f"{name} returned {len(data)} bytes; the limit is {limits.payload}",
            )
        return data
