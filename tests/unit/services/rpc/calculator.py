"""What the tests expose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.model import RpcStatus
from jetstreamproto.services.rpc.signatures import rpc_method, rpc_service


@rpc_service("test.Calculator")
class Calculator:
    """Counts its calls, and what became of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.contexts: list[RpcContext] = []
        self.cancelled = 0
        self.taken = 0
        self.broken = False

    @rpc_method(idempotent=True)
    def add(self, a: int, b: int = 1) -> int:
        self.calls += 1
        return a + b

    @rpc_method
    async def slow(self, seconds: float, context: RpcContext) -> float | None:
        self.calls += 1
        self.contexts.append(context)
        if self.broken:
            raise ZeroDivisionError
        try:
            await deferLater(context.clock, seconds)  # type: ignore[arg-type]
        except CancelledError:
            self.cancelled += 1
            raise
        return context.time_left()

    @rpc_method
    def later(self) -> Deferred[str]:
        self.calls += 1
        self.deferred: Deferred[str] = Deferred()
        return self.deferred

    @rpc_method
    def metadata(self, context: RpcContext) -> dict[str, str]:
        return dict(context.metadata)

    @rpc_method
    def refuse(self) -> None:
        raise RpcError(RpcStatus.NOT_FOUND, "no such thing", {"id": 5})

    @rpc_method
    async def fail(self) -> None:
        raise ValueError("a secret")

    @rpc_method
    def unsendable(self) -> Any:
        return object()

    @rpc_method
    def zeros(self, size: int) -> bytes:
        return bytes(size)

    @rpc_method(raw=True)
    def upper(self, data: bytes) -> bytes:
        return data.upper()

    @rpc_method
    async def count(self, upto: int, size: int = 0) -> AsyncIterator[str]:
        try:
            for number in range(upto):
                self.taken += 1
                yield str(number).rjust(size)
        finally:
            self.cancelled += 1

    @rpc_method
    async def forever(self, context: RpcContext) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await deferLater(context.clock, 1.0)  # type: ignore[arg-type]
        finally:
            self.cancelled += 1

    @rpc_method
    async def total(self, numbers: AsyncIterator[int], start: int = 0) -> int:
        async for number in numbers:
            self.taken += 1
            start += number
        return start

    @rpc_method
    async def stuck(self, numbers: AsyncIterator[bytes], context: RpcContext) -> int:
        await deferLater(context.clock, 60.0)  # type: ignore[arg-type]
        return len([number async for number in numbers])

    @rpc_method
    async def squares(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            if number < 0:
                raise RpcError(RpcStatus.OUT_OF_RANGE, "negative")
            yield number * number
