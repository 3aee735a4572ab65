"""A calculator: `python rpc.py serve` in one terminal, `python rpc.py` in another."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet import defer, reactor, task

from jetstreamproto import (
    Identity,
    JetStreamServerFactory,
    PinnedKeys,
    RpcClient,
    RpcError,
    RpcServer,
    RpcStatus,
    connect,
    rpc_method,
    rpc_service,
)

PORT = 9000
IDENTITY = Identity.load_or_create(Path("state"), datetime.now(UTC))


@rpc_service("demo.Calculator")
class Calculator:
    @rpc_method(idempotent=True)
    def divide(self, a: float, b: float) -> float:
        if b == 0:
            raise RpcError(RpcStatus.INVALID_ARGUMENT, "nobody divides by zero")
        return a / b

    @rpc_method
    async def running_sum(self, numbers: AsyncIterator[float]) -> AsyncIterator[float]:
        total = 0.0
        async for number in numbers:
            total += number
            yield total


async def serve() -> None:
    factory = JetStreamServerFactory(IDENTITY, RpcServer([Calculator()]).services)
    reactor.listenTCP(PORT, factory, interface="127.0.0.1")
    print("ready", flush=True)
    await defer.Deferred()


async def call() -> None:
    session = await connect(reactor, "localhost", PORT, PinnedKeys([IDENTITY.fingerprint]))
    calculator = RpcClient(session).proxy(Calculator)
    print("1 / 8 =", await calculator.divide(1, 8, timeout=5))
    try:
        await calculator.divide(1, b=0)
    except RpcError as error:
        print(error.status.name, error.message)
    sums = calculator.running_sum()
    for number in (1, 2, 3):
        await sums.send(number)
    sums.end()
    print("sums:", [total async for total in sums])
    await session.close()


task.react(lambda _: defer.Deferred.fromCoroutine(serve() if sys.argv[1:] else call()))
