"""Streaming calls, between two sessions in virtual time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.messages import RPC, Kind, encode_frame
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.services.rpc.stream import RpcStream
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from tests.doubles import make_pair
from tests.unit.services.rpc.test_calls import CallCase


class StreamCase(CallCase):
    def run_coroutine(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.pair.run(Deferred.fromCoroutine(work))

    def tearDown(self) -> None:
        """No channel of a stream stays, and the session lives."""
        self.pair.advance(1.0)
        self.assertLessEqual(len(self.pair.client.channels), 1)
        self.assertLessEqual(len(self.pair.server.channels), 1)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)


async def collect(stream: RpcStream) -> list[Any]:
    return [item async for item in stream]


async def send_all(stream: RpcStream, items: Any) -> Any:
    for item in items:
        await stream.send(item)
    stream.end()
    return await stream.result()


class ServerStreamTests(StreamCase):
    def test_items_then_the_end(self) -> None:
        stream = self.proxy.count(3)
        self.assertEqual(self.run_coroutine(collect(stream)), ["0", "1", "2"])
        self.assertTrue(stream.streamed)
        self.assertIsNone(self.pair.run(stream.result()))
        self.assertEqual(self.run_coroutine(collect(self.proxy.count(0))), [])

    def test_a_reader_that_is_slow_stops_the_method(self) -> None:
        self.start(settings=SessionSettings(compression=None))
        stream = self.proxy.count(1_000_000, size=1000)
        first = self.run_coroutine(stream.__anext__())
        self.pair.advance(30.0)
        self.assertEqual(first.strip(), "0")
        taken = self.target.taken
        self.assertLess(taken, 20_000)
        self.pair.advance(30.0)
        self.assertEqual(self.target.taken, taken)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)  # other calls go on
        stream.cancel()
        self.pair.advance(1.0)
        self.assertEqual(self.target.cancelled, 1)

    def test_everything_arrives_in_the_end(self) -> None:
        items = self.run_coroutine(collect(self.proxy.count(20_000, size=100)))
        self.assertEqual([int(item) for item in items], list(range(20_000)))

    def test_cancelling_reaches_the_generator(self) -> None:
        stream = self.proxy.forever()
        self.run_coroutine(stream.__anext__())
        waiting = Deferred.fromCoroutine(stream.__anext__())
        stream.cancel()
        error = self.failureResultOf(waiting, RpcError).value
        self.assertIs(error.status, RpcStatus.CANCELLED)
        self.pair.advance(0.5)
        self.assertEqual(self.target.cancelled, 1)
        self.failureResultOf(stream.result(), RpcError)

    def test_a_deadline(self) -> None:
        stream = self.proxy.forever(timeout=2.5)
        with self.assertRaises(RpcError) as raised:
            self.run_coroutine(collect(stream))
        self.assertIs(raised.exception.status, RpcStatus.DEADLINE_EXCEEDED)
        self.pair.advance(0.5)
        self.assertEqual(self.target.cancelled, 1)

    def test_a_lost_session(self) -> None:
        stream = self.proxy.forever()
        self.run_coroutine(stream.__anext__())
        self.pair.cut()
        error = self.failureResultOf(stream.result(), RpcError).value
        self.assertIs(error.status, RpcStatus.UNAVAILABLE)
        self.assertEqual(self.target.cancelled, 1)
        with self.assertRaises(RpcError):
            self.client.stream("test.Calculator#forever")
        self.start()

    def test_no_such_method(self) -> None:
        stream = self.client.stream("test.Calculator#nothing")
        with self.assertRaises(RpcError) as raised:
            self.run_coroutine(collect(stream))
        self.assertIs(raised.exception.status, RpcStatus.UNIMPLEMENTED)

    def test_a_unary_method_called_as_a_stream(self) -> None:
        stream = self.client.stream("test.Calculator#add", 2)
        stream.end()
        self.assertEqual(self.pair.run(stream.result()), 3)
        self.assertFalse(stream.streamed)

    def test_a_streaming_method_called_as_unary(self) -> None:
        other = self.proxy.slow(1.0)
        error = self.fails(self.client.call("test.Calculator#count", 3))
        self.assertEqual((error.status, error.started), (RpcStatus.UNIMPLEMENTED, False))
        self.assertIn("stream", error.message)
        self.pair.run(other)


class ClientStreamTests(StreamCase):
    def test_items_then_the_result(self) -> None:
        work = send_all(self.proxy.total(start=100), range(1000))
        self.assertEqual(self.run_coroutine(work), 100 + sum(range(1000)))

    def test_a_method_that_is_slow_stops_the_sender(self) -> None:
        self.start(settings=SessionSettings(compression=None))
        sent = [0]

        async def send(stream: RpcStream) -> None:
            for _ in range(100_000):
                await stream.send(bytes(1000))
                sent[0] += 1

        stream = self.proxy.stuck()
        sending = Deferred.fromCoroutine(send(stream))
        self.pair.advance(20.0)
        self.assertLess(sent[0], 20_000)
        before = sent[0]
        self.pair.advance(20.0)
        self.assertEqual(sent[0], before)
        stream.cancel()
        self.failureResultOf(sending, RpcError)

    def test_an_item_that_does_not_fit(self) -> None:
        stream = self.client.stream("test.Calculator#total")
        with self.assertRaises(RpcError) as raised:
            self.run_coroutine(send_all(stream, ["one"]))
        self.assertIs(raised.exception.status, RpcStatus.INVALID_ARGUMENT)

    def test_items_that_cannot_be_sent(self) -> None:
        stream = self.proxy.total()
        for item in (object(), 1 << 70, bytes(5 << 20)):
            with self.assertRaises(RpcError) as raised:
                self.run_coroutine(stream.send(item))
            self.assertIs(raised.exception.status, RpcStatus.INVALID_ARGUMENT)
        self.assertEqual(self.run_coroutine(send_all(stream, [1])), 1)
        with self.assertRaises(RpcError):
            self.run_coroutine(stream.send(1))

    def test_cancelling_the_result(self) -> None:
        stream = self.proxy.total()
        result = stream.result()
        self.pair.advance(1.0)
        result.cancel()
        self.failureResultOf(result, RpcError, CancelledError)


class BothWaysTests(StreamCase):
    def test_one_for_one(self) -> None:
        async def talk(stream: RpcStream) -> list[int]:
            found = []
            for number in range(50):
                await stream.send(number)
                found.append(await stream.__anext__())
            stream.end()
            await stream.result()
            return found

        found = self.run_coroutine(talk(self.proxy.squares()))
        self.assertEqual(found, [number * number for number in range(50)])

    def test_an_error_after_some_items(self) -> None:
        async def talk(stream: RpcStream) -> list[int]:
            for number in (2, 3, -1):
                await stream.send(number)
            found = []
            with self.assertRaises(RpcError) as raised:
                async for item in stream:
                    found.append(item)
            self.assertIs(raised.exception.status, RpcStatus.OUT_OF_RANGE)
            return found

        self.assertEqual(self.run_coroutine(talk(self.proxy.squares())), [4, 9])

    def test_streams_count_as_calls(self) -> None:
        self.start(server={"limits": RpcLimits(calls=2)})
        streams = [self.proxy.squares() for _ in range(3)]
        self.pair.advance(0.5)
        with self.assertRaises(RpcError) as raised:
            self.run_coroutine(collect(streams[2]))
        self.assertIs(raised.exception.status, RpcStatus.RESOURCE_EXHAUSTED)
        for stream in streams:
            stream.cancel()


class HostileStreamTests(CallCase):
    def test_what_a_server_may_not_send(self) -> None:
        for message in (b"nonsense", b"", encode_frame(Kind.CALL, 1), encode_frame(77, 1)):
            inboxes: list[Inbox] = []
            pair = make_pair({RPC: lambda made=inboxes: made.append(Inbox()) or made[-1]})
            stream = RpcClient(pair.client).stream("test.Calculator#count", 1)
            pair.advance(1.0)
            inboxes[0].channel.send(message)
            pair.advance(1.0)
            error = self.failureResultOf(stream.result(), RpcError).value
            self.assertIs(error.status, RpcStatus.UNAVAILABLE)
            self.assertTrue(pair.client.accepts_channels)

    def test_items_that_are_none(self) -> None:
        inboxes: list[Inbox] = []
        pair = make_pair({RPC: lambda: inboxes.append(Inbox()) or inboxes[-1]})
        stream = RpcClient(pair.client).stream("test.Calculator#count", 1)
        pair.advance(1.0)
        inboxes[0].channel.send(encode_frame(Kind.ITEM, 1, b"\xc1"))
        with self.assertRaises(RpcError) as raised:
            pair.run(Deferred.fromCoroutine(stream.__anext__()))
        self.assertIs(raised.exception.status, RpcStatus.INTERNAL)
        stream.cancel()

    def test_a_flood_of_items_is_stopped_by_credit(self) -> None:
        inboxes: list[Inbox] = []
        pair = make_pair(
            {RPC: lambda: inboxes.append(Inbox()) or inboxes[-1]},
            settings=SessionSettings(compression=None),
        )
        stream = RpcClient(pair.client).stream("test.Calculator#count", 1)
        pair.advance(1.0)
        for _ in range(300):
            inboxes[0].channel.send(encode_frame(Kind.ITEM, 1, bytes(100_000)))
        pair.advance(10.0)
        self.assertLess(stream._items._size, 3 << 20)
        self.assertGreater(inboxes[0].channel.queued, 10 << 20)
        stream.cancel()
