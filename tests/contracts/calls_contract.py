"""What calls owe their callers, whatever carries the session.

Mix `CallsContract` into a trial `SynchronousTestCase` and say in `connect` how sessions come
together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.model import RpcStatus
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.services.rpc.stream import RpcStream
from jetstreamproto.testing.pair import SessionPair
from tests.unit.services.rpc.calculator import Calculator

_Case = SynchronousTestCase if TYPE_CHECKING else object


class CallsContract(_Case):
    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        """Two connected sessions, with what moves them."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.target = Calculator()
        self.pair = self.connect(RpcServer([self.target]).services)
        self.proxy = RpcClient(self.pair.client).proxy(Calculator)

    def test_many_calls_at_once(self) -> None:
        calls = [self.proxy.add(number, number) for number in range(500)]
        results = [self.pair.run(call) for call in calls]
        self.assertEqual(results, [2 * number for number in range(500)])
        self.assertEqual(self.target.calls, 500)

    def test_large_ones_among_small_ones(self) -> None:
        large = [self.proxy.upper(bytes([97 + n]) * 200_000) for n in range(3)]
        small = [self.proxy.add(number) for number in range(50)]
        results = self.proxy.zeros(150_000)
        self.assertEqual([self.pair.run(call) for call in small], list(range(1, 51)))
        for number, call in enumerate(large):
            self.assertEqual(self.pair.run(call), bytes([65 + number]) * 200_000)
        self.assertEqual(len(self.pair.run(results)), 150_000)

    def test_a_deadline(self) -> None:
        with self.assertRaises(RpcError) as raised:
            self.pair.run(self.proxy.slow(10.0, timeout=0.5))
        self.assertIs(raised.exception.status, RpcStatus.DEADLINE_EXCEEDED)
        self.pair.advance(1.0)
        self.assertEqual(self.target.cancelled, 1)

    def test_cancelling(self) -> None:
        call = self.proxy.slow(10.0)
        self.pair.advance(1.0)
        call.addErrback(lambda _: None).cancel()
        self.pair.advance(1.0)
        self.assertEqual(self.target.cancelled, 1)

    def test_items_both_ways(self) -> None:
        async def talk(stream: RpcStream) -> list[int]:
            for number in range(300):
                await stream.send(number)
            stream.end()
            return [item async for item in stream]

        found = self.pair.run(Deferred.fromCoroutine(talk(self.proxy.squares())))
        self.assertEqual(found, [number * number for number in range(300)])

    def test_a_cancelled_stream(self) -> None:
        stream = self.proxy.forever()
        self.pair.run(Deferred.fromCoroutine(stream.__anext__()))
        stream.cancel()
        self.pair.advance(1.0)
        self.assertEqual(self.target.cancelled, 1)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)

    def test_errors(self) -> None:
        for call, status in (
            (self.proxy.refuse(), RpcStatus.NOT_FOUND),
            (RpcClient(self.pair.client).call("test.No#thing"), RpcStatus.UNIMPLEMENTED),
        ):
            with self.assertRaises(RpcError) as raised:
                self.pair.run(call)
            self.assertIs(raised.exception.status, status)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)

    def test_a_client_that_leaves_has_its_answers(self) -> None:
        call = self.proxy.slow(1.0)
        self.pair.advance(0.5)
        closed = self.pair.client.close()
        self.pair.run(call)
        self.pair.run(closed)
        self.assertIsNone(self.pair.client.close_reason)
