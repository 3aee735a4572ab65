"""Unary calls, between two sessions in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ConfigurationError, NotAllowed, RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.messages import RPC, Flag, Kind, encode_call, encode_frame
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from tests.doubles import RawPeer, make_pair, windows
from tests.unit.services.rpc.calculator import Calculator


class CallCase(SynchronousTestCase):
    def start(self, *, server: dict[str, Any] | None = None, **options: Any) -> None:
        self.target = Calculator()
        self.rpc = RpcServer([self.target], **(server or {}))
        self.pair = make_pair(self.rpc.services, **options)
        self.client = RpcClient(self.pair.client)
        self.proxy = self.client.proxy(Calculator)

    def setUp(self) -> None:
        self.start()

    def fails(self, call: Deferred[Any]) -> RpcError:
        """What the call fails with; the session lives on."""
        with self.assertRaises(RpcError) as raised:
            self.pair.run(call)
        return raised.exception

    def status(self, call: Deferred[Any]) -> RpcStatus:
        return RpcStatus(self.fails(call).status)


class UnaryTests(CallCase):
    def test_arguments_by_position_and_by_name(self) -> None:
        name = "test.Calculator#add"
        for call in (
            self.client.call(name, 2, 3),
            self.client.call(name, named={"a": 2, "b": 3}),
            self.proxy.add(2, 3),
            self.proxy.add(2, b=3),
            self.proxy.add(b=3, a=2),
        ):
            self.assertEqual(self.pair.run(call), 5)
        self.assertEqual(self.pair.run(self.proxy.add(2)), 3)

    def test_answers_come_in_any_order(self) -> None:
        done: list[str] = []
        for name, call in (
            ("slow", self.proxy.slow(2.0)),
            ("quick", self.proxy.slow(1.0)),
            ("at once", self.proxy.add(1)),
        ):
            call.addCallback(lambda _, name=name: done.append(name))
        self.pair.advance(3.0)
        self.assertEqual(done, ["at once", "quick", "slow"])
        self.assertEqual(len(self.pair.client.channels), 1)

    def test_raw_bytes(self) -> None:
        self.assertEqual(self.pair.run(self.proxy.upper(b"abc")), b"ABC")
        call = self.client.call("test.Calculator#upper", b"abc", raw=True)
        self.assertEqual(self.pair.run(call), b"ABC")
        for wrong in (
            self.client.call("test.Calculator#upper", b"abc"),
            self.client.call("test.Calculator#add", b"abc", raw=True),
        ):
            self.assertIs(self.status(wrong), RpcStatus.INVALID_ARGUMENT)

    def test_large_calls_have_a_channel_of_their_own(self) -> None:
        data = b"x" * 300_000
        call = self.proxy.upper(data)
        self.assertEqual(len(self.pair.client.channels), 1)
        quick = self.proxy.add(1)
        self.assertEqual(len(self.pair.client.channels), 2)
        self.assertEqual(self.pair.run(call), data.upper())
        self.pair.run(quick)
        self.pair.advance(1.0)
        self.assertEqual(len(self.pair.client.channels), 1)
        self.assertEqual(len(self.pair.server.channels), 1)

    def test_metadata(self) -> None:
        call = self.proxy.metadata(metadata={"trace": "7", "ü": ""})
        self.assertEqual(self.pair.run(call), {"trace": "7", "ü": ""})
        self.assertEqual(self.pair.run(self.proxy.metadata()), {})

    def test_a_client_can_expose_too(self) -> None:
        self.start(client_services=RpcServer([Calculator()]).services)
        client = RpcClient(self.pair.server)
        self.assertEqual(self.pair.run(client.call("test.Calculator#add", 1, 1)), 2)

    def test_many_calls_share_few_messages(self) -> None:
        self.pair.run(self.proxy.add(0))
        before = self.pair.client_transport.sent
        calls = [self.proxy.add(number) for number in range(100)]
        results = [self.pair.run(call) for call in calls]
        self.assertEqual(results, list(range(1, 101)))
        # A packet's head and its record would take more than that alone.
        self.assertLess(self.pair.client_transport.sent - before, 100 * 90)

    def test_a_call_costs_the_reactor_no_timer_of_its_own(self) -> None:
        self.pair.run(self.proxy.add(0))
        before = len(self.pair.clock.getDelayedCalls())
        for _ in range(500):
            self.proxy.slow(5.0)
        self.assertLess(len(self.pair.clock.getDelayedCalls()) - before, 5)
        self.pair.advance(6.0)

    def test_what_the_caller_gets_wrong_is_raised(self) -> None:
        for method in ("", "add", "test.Calculator", "test.Calculator#add#"):
            with self.assertRaises(ValueError):
                self.client.call(method)
        add = "test.Calculator#add"
        for options in (
            {"timeout": float("nan")},
            {"timeout": 1e9},
            {"metadata": {"a": "x" * 9999}},
        ):
            with self.assertRaises(ValueError):
                self.client.call(add, 1, **options)
        for wrong in (object(), 1 << 70):
            with self.assertRaises((TypeError, ValueError)):
                self.client.call(add, wrong)
        with self.assertRaises(ValueError):
            self.client.call(add, bytes(5 << 20))
        with self.assertRaises(TypeError):
            self.client.call(add, 1, named={"b": 1})
        for arguments, named in (((1, 2, 3), {}), ((1,), {"a": 1}), ((), {"c": 1})):
            with self.assertRaises(TypeError):
                self.proxy.add(*arguments, **named)


class ErrorTests(CallCase):
    def tearDown(self) -> None:
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)  # the session lives

    def test_what_a_method_raises_on_purpose(self) -> None:
        error = self.fails(self.proxy.refuse())
        self.assertEqual(
            (error.status, error.message, error.details, error.started),
            (RpcStatus.NOT_FOUND, "no such thing", {"id": 5}, True),
        )

    def test_what_it_raises_otherwise_is_not_told(self) -> None:
        error = self.fails(self.proxy.fail())
        self.assertIs(error.status, RpcStatus.INTERNAL)
        self.assertNotIn("secret", str(error))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_unless_that_is_allowed(self) -> None:
        self.start(server={"reveal_errors": True})
        self.assertEqual(self.fails(self.proxy.fail()).message, "ValueError: a secret")
        self.flushLoggedErrors(ValueError)

    def test_what_is_not_there(self) -> None:
        for method in ("test.Nothing#add", "test.Calculator#nothing", "test.Calculator#__init__"):
            error = self.fails(self.client.call(method))
            self.assertEqual((error.status, error.started), (RpcStatus.UNIMPLEMENTED, False))

    def test_arguments_that_do_not_fit(self) -> None:
        for arguments in ((), ("1",), (1, 2, 3), (1.5,), ([[]],)):
            error = self.fails(self.client.call("test.Calculator#add", *arguments))
            self.assertEqual((error.status, error.started), (RpcStatus.INVALID_ARGUMENT, False))
        self.assertEqual(self.target.calls, 0)

    def test_a_result_that_cannot_be_sent(self) -> None:
        self.assertIs(self.status(self.proxy.unsendable()), RpcStatus.INTERNAL)
        self.assertIs(self.status(self.proxy.zeros(5 << 20)), RpcStatus.RESOURCE_EXHAUSTED)

    def test_a_result_that_the_caller_would_refuse(self) -> None:
        self.start(client_settings=SessionSettings(max_message=1000))
        self.assertIs(self.status(self.proxy.zeros(2000)), RpcStatus.RESOURCE_EXHAUSTED)

    def test_arguments_that_the_server_would_refuse(self) -> None:
        self.start(settings=SessionSettings(max_message=100_000))
        for size in (50_000, 99_990, 200_000):
            call = self.proxy.upper(bytes(size))
            if size == 50_000:
                self.assertEqual(len(self.pair.run(call)), size)
            else:
                error = self.fails(call)
                self.assertEqual(error.status, RpcStatus.RESOURCE_EXHAUSTED)
                self.assertFalse(error.started)
        self.pair.advance(1.0)
        self.assertEqual(len(self.pair.client.channels), 1)

    def test_a_result_of_another_type(self) -> None:
        call = self.client.call("test.Calculator#add", 1, read=lambda _: int("x"))
        self.assertIs(self.status(call), RpcStatus.INTERNAL)

    def test_too_many_calls(self) -> None:
        self.start(server={"limits": RpcLimits(calls=3)})
        calls = [self.proxy.slow(1.0) for _ in range(5)]
        errors = [self.fails(call) for call in calls[3:]]
        for error in errors:
            self.assertEqual(error.status, RpcStatus.RESOURCE_EXHAUSTED)
            self.assertFalse(error.started)
        for call in calls[:3]:
            self.pair.run(call)

    def test_too_many_calls_here(self) -> None:
        client = RpcClient(self.pair.client, limits=RpcLimits(calls=2))
        calls = [client.call("test.Calculator#slow", 1.0) for _ in range(3)]
        self.assertIs(self.fails(calls[2]).status, RpcStatus.RESOURCE_EXHAUSTED)
        for call in calls[:2]:
            self.pair.run(call)

    def test_who_may_call_what(self) -> None:
        self.start(server={"permitted": lambda session: ("test.Calculator#add", "jetstream.*")})
        error = self.fails(self.proxy.refuse())
        self.assertEqual((error.status, error.started), (RpcStatus.PERMISSION_DENIED, False))
        # What is there is not told to whom may not call it.
        self.assertIs(
            self.status(self.client.call("test.Nothing#add")), RpcStatus.PERMISSION_DENIED
        )


class DeadlineTests(CallCase):
    def test_the_caller_is_told_at_once_and_the_method_is_cancelled(self) -> None:
        call = self.proxy.slow(10.0, timeout=1.0)
        start = self.pair.clock.seconds()
        error = self.fails(call)
        self.assertIs(error.status, RpcStatus.DEADLINE_EXCEEDED)
        self.assertLess(self.pair.clock.seconds() - start, 1.02)
        self.pair.advance(0.1)
        self.assertEqual(self.target.cancelled, 1)
        self.assertTrue(self.target.contexts[0].cancelled)

    def test_the_time_that_is_left_travels(self) -> None:
        self.start(latency=0.5)
        left = self.pair.run(self.proxy.slow(1.0, timeout=5.0))
        self.assertAlmostEqual(left, 4.0, delta=0.05)
        self.proxy.slow(100.0, timeout=2.0).addErrback(lambda _: None)
        self.pair.advance(1.0)
        self.pair.client_transport.pause()  # the cancellation does not get through
        self.pair.advance(2.0)
        self.assertEqual(self.target.cancelled, 1)

    def test_a_deadline_for_calls_that_have_none(self) -> None:
        client = RpcClient(self.pair.client, timeout=2.0)
        call = client.call("test.Calculator#slow", 10.0)
        self.assertIs(self.status(call), RpcStatus.DEADLINE_EXCEEDED)

    def test_no_time_left(self) -> None:
        for timeout in (0.0, -1.0):
            error = self.fails(self.proxy.add(1, timeout=timeout))
            self.assertEqual((error.status, error.started), (RpcStatus.DEADLINE_EXCEEDED, False))
        self.assertEqual(self.target.calls, 0)

    def test_the_servers_own_longest(self) -> None:
        self.start(server={"limits": RpcLimits(timeout=3.0)})
        inbox = self.pair.run(self.pair.client.open(RPC))
        inbox.channel.send(encode_call(1, 0, b"test.Calculator#slow", b"", b"\x91\x64", 0))
        self.pair.advance(4.0)
        self.assertEqual(self.target.cancelled, 1)

    def test_cancelling(self) -> None:
        call = self.proxy.slow(10.0)
        self.pair.advance(1.0)
        call.cancel()
        self.failureResultOf(call, CancelledError)
        self.pair.advance(0.1)
        self.assertEqual(self.target.cancelled, 1)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)

    def test_cancelling_before_it_is_sent_or_a_large_one(self) -> None:
        self.proxy.slow(10.0).addErrback(lambda _: None).cancel()
        large = self.proxy.upper(bytes(100_000))
        large.cancel()
        self.failureResultOf(large, RpcError)
        self.pair.advance(1.0)
        self.assertEqual(self.target.cancelled, self.target.calls)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)

    def test_a_deferred_that_is_returned_is_cancelled(self) -> None:
        call = self.proxy.later(timeout=1.0)
        self.assertIs(self.status(call), RpcStatus.DEADLINE_EXCEEDED)
        self.pair.advance(0.1)
        self.assertTrue(self.target.deferred.called)


class EndTests(CallCase):
    def test_a_lost_session_fails_its_calls_at_once(self) -> None:
        calls = [self.proxy.slow(10.0), self.proxy.later()]
        self.pair.advance(1.0)
        start = self.pair.clock.seconds()
        self.pair.cut()
        for call in calls:
            error = self.failureResultOf(call, RpcError).value
            self.assertEqual((error.status, error.started), (RpcStatus.UNAVAILABLE, True))
        self.assertEqual(self.pair.clock.seconds(), start)
        self.assertEqual(self.target.cancelled, 1)
        error = self.failureResultOf(self.proxy.add(1), RpcError).value
        self.assertEqual((error.status, error.started), (RpcStatus.UNAVAILABLE, False))
        error = self.failureResultOf(self.proxy.upper(bytes(100_000)), RpcError).value
        self.assertEqual((error.status, error.started), (RpcStatus.UNAVAILABLE, False))

    def test_a_server_that_drains_finishes_its_calls_and_takes_no_more(self) -> None:
        slow = self.proxy.slow(2.0)
        self.pair.advance(0.5)
        self.pair.server.drain()
        self.pair.advance(0.5)
        error = self.fails(self.proxy.add(1))
        self.assertEqual((error.status, error.started), (RpcStatus.UNAVAILABLE, False))
        self.pair.run(slow)
        self.pair.run(self.pair.client.when_closed())
        self.assertIsNone(self.pair.client.close_reason)

    def test_a_client_that_closes_gets_its_answers(self) -> None:
        slow = self.proxy.slow(2.0)
        self.pair.advance(0.5)
        self.pair.client.close()
        self.pair.run(slow)
        self.pair.run(self.pair.client.when_closed())

    def test_access_to_the_whole_service_denied(self) -> None:
        def access(session: object, service: str) -> None:
            raise NotAllowed(ResetCode.NOT_ALLOWED, "not you")

        self.start(server_options={"access": access})
        for call in (self.proxy.add(1), self.proxy.upper(bytes(100_000))):
            error = self.fails(call)
            self.assertEqual((error.status, error.started), (RpcStatus.PERMISSION_DENIED, False))

    def test_no_calls_at_all_there(self) -> None:
        self.pair = make_pair({})
        error = self.fails(RpcClient(self.pair.client).call("test.Calculator#add", 1))
        self.assertEqual((error.status, error.started), (RpcStatus.UNIMPLEMENTED, False))

    def test_a_caller_that_takes_no_answers_is_not_read(self) -> None:
        self.start(
            client_settings=windows(1 << 18, 1 << 19, compression=None),
            settings=SessionSettings(compression=None),
        )
        inbox = self.pair.run(self.pair.client.open(RPC))
        inbox.channel.pauseProducing()
        call = encode_call(1, 1000, b"test.Calculator#zeros", b"", b"\x91\xce\x00\x01\x00\x00", 0)
        for _ in range(2000):
            inbox.channel.send(call)
        self.pair.advance(10.0)
        (channel,) = self.pair.server.channels
        self.assertGreater(channel.queued, 1 << 19)
        self.assertLess(channel.queued, 4 << 20)
        self.assertEqual(self.pair.run(self.proxy.add(1)), 2)


class HostileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.target = Calculator()
        self.peer = RawPeer(RpcServer([self.target]).services)
        self.peer.open(1, RPC)

    def send(self, message: bytes) -> None:
        self.peer.data(1, self.seq, message)
        self.seq += 1
        self.peer.settle()

    seq = 0

    def assert_reset(self, code: int = ResetCode.BAD_MESSAGE) -> None:
        (reset,) = self.peer.sent(7, 1)
        self.assertEqual(reset.code, code)
        self.assertTrue(self.peer.link.open)

    def errors(self) -> list[RpcError]:
        from jetstreamproto.services.rpc.messages import decode_error, split_frames

        return [
            decode_error(number, flags, body)
            for packet in self.peer.sent(4, 1)
            for _, number, _, _, kind, flags, _, body in split_frames(packet.payload)
            if kind == Kind.ERROR
        ]

    def test_what_is_no_frame(self) -> None:
        self.send(b"nonsense")
        self.assert_reset()

    def test_an_empty_message(self) -> None:
        self.send(b"")
        self.assert_reset()

    def test_frames_that_only_servers_send(self) -> None:
        self.send(encode_frame(Kind.RESULT, 1, b"\x01"))
        self.assert_reset()

    def test_frames_of_calls_that_there_are_not(self) -> None:
        for kind in (Kind.CANCEL, Kind.ITEM, Kind.END):
            self.send(encode_frame(kind, 99, b"\x01"))
        self.assertEqual(self.peer.sent(7), [])

    def test_another_version(self) -> None:
        frame = bytearray(encode_call(1, 1000, b"test.Calculator#add", b"", b"\x91\x01", 0))
        at = frame.index(bytes([Kind.CALL, 0, 1]))
        frame[at + 2] = 9
        self.send(bytes(frame))
        (error,) = self.errors()
        self.assertEqual((error.status, error.started), (RpcStatus.UNIMPLEMENTED, False))
        self.assertEqual(self.target.calls, 0)

    def test_sizes_that_do_not_add_up(self) -> None:
        frame = bytearray(encode_call(1, 1000, b"test.Calculator#add", b"", b"\x91\x01", 0))
        at = frame.index((19).to_bytes(2, "little") + b"\0\0")
        for size in (0xFFFF, 0, 20):
            frame[at : at + 2] = size.to_bytes(2, "little")
            self.send(bytes(frame))
        self.assertEqual(len(self.errors()), 3)
        for error in self.errors():
            self.assertIs(error.status, RpcStatus.INVALID_ARGUMENT)
        self.assertEqual(self.target.calls, 0)

    def test_names_and_payloads_that_are_none(self) -> None:
        for name, payload in (
            (b"", b"\x90"),
            (b"\xff\xfe", b"\x90"),
            (b"x" * 60_000, b"\x90"),
            (b"test.Calculator#add", b""),
            (b"test.Calculator#add", b"\xdd\xff\xff\xff\xff"),
            (b"test.Calculator#add", b"\x91" * 30_000),
            (b"test.Calculator#add", b"\x81\xa1\xff\x01"),
            (b"test.Calculator#add", b"\xc1"),
        ):
            self.send(encode_call(1, 1000, name, b"", payload, 0))
        self.assertEqual(len(self.errors()), 8)
        for error in self.errors():
            self.assertIs(error.status, RpcStatus.INVALID_ARGUMENT)
            self.assertLess(len(error.message), 400)

    def test_metadata_that_is_none(self) -> None:
        self.send(encode_call(1, 1000, b"test.Calculator#metadata", b"\x01", b"\x90", 0))
        self.assertEqual([error.status for error in self.errors()], [RpcStatus.INVALID_ARGUMENT])

    def test_a_call_under_a_number_that_is_taken(self) -> None:
        slow = encode_call(1, 9000, b"test.Calculator#slow", b"", b"\x91\x05", 0)
        self.send(slow + slow)
        self.assert_reset()
        self.assertEqual(self.target.cancelled, 1)

    def test_a_stream_beside_other_calls(self) -> None:
        self.send(
            encode_call(1, 9000, b"test.Calculator#forever", b"", b"\x90", Flag.STREAM)
            + encode_call(2, 9000, b"test.Calculator#add", b"", b"\x91\x05", 0)
        )
        self.assert_reset()
        self.assertEqual(self.target.cancelled, 1)


class HostileServerTests(SynchronousTestCase):
    def test_what_a_server_may_not_send(self) -> None:
        for message in (
            b"nonsense",
            b"",
            encode_frame(Kind.CALL, 1),
            encode_frame(99, 1),
            encode_frame(Kind.ITEM, 1),
        ):
            with self.subTest(message):
                inboxes: list[Inbox] = []
                pair = make_pair({RPC: lambda made=inboxes: made.append(Inbox()) or made[-1]})
                call = RpcClient(pair.client).call("test.Calculator#add", 1)
                pair.advance(1.0)
                inboxes[0].channel.send(message)
                pair.advance(1.0)
                error = self.failureResultOf(call, RpcError).value
                self.assertIs(error.status, RpcStatus.UNAVAILABLE)
                self.assertTrue(pair.client.accepts_channels)

    def test_answers_to_calls_that_there_are_not_are_dropped(self) -> None:
        inboxes: list[Inbox] = []
        pair = make_pair({RPC: lambda: inboxes.append(Inbox()) or inboxes[-1]})
        call = RpcClient(pair.client).call("test.Calculator#add", 1)
        pair.advance(1.0)
        inboxes[0].channel.send(encode_frame(Kind.RESULT, 77, b"\x01"))
        inboxes[0].channel.send(encode_frame(Kind.RESULT, 1, b"\xc1"))
        pair.advance(1.0)
        error = self.failureResultOf(call, RpcError).value
        self.assertIs(error.status, RpcStatus.INTERNAL)


class ServerTests(CallCase):
    def test_health(self) -> None:
        def check(service: str = "") -> Any:
            return self.client.call("jetstream.Health#check", service)

        self.assertTrue(self.pair.run(check("test.Calculator")))
        self.rpc.health.set("test.Calculator", False)
        self.assertFalse(self.pair.run(check("test.Calculator")))
        self.assertFalse(self.pair.run(check()))
        self.assertIs(self.status(check("test.Nothing")), RpcStatus.NOT_FOUND)

    def test_reflection_shows_what_may_be_called(self) -> None:
        services = self.client.call("jetstream.Reflection#services")
        found = {one["service"]: one["methods"] for one in self.pair.run(services)}
        self.assertIn("add", found["test.Calculator"])
        described = self.pair.run(
            self.client.call("jetstream.Reflection#describe", "test.Calculator")
        )
        self.assertEqual(len(described["methods"]), len(found["test.Calculator"]))
        self.start(
            server={"permitted": lambda _: ("test.Calculator#add", "jetstream.Reflection#*")}
        )
        services = self.client.call("jetstream.Reflection#services")
        found = {one["service"]: one["methods"] for one in self.pair.run(services)}
        self.assertEqual(found["test.Calculator"], ["add"])
        self.assertNotIn("jetstream.Health", found)
        for name in ("test.Nothing", "jetstream.Health"):
            missing = self.client.call("jetstream.Reflection#describe", name)
            self.assertIs(self.status(missing), RpcStatus.NOT_FOUND)

    def test_what_cannot_be_exposed(self) -> None:
        for target in (Calculator, Calculator(), object()):
            with self.assertRaises(ConfigurationError):
                self.rpc.expose(target)
