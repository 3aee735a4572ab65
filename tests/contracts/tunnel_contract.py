"""What a tunnel owes the programs at its ends, whatever carries its session.

Mix `TunnelContract` into a trial `SynchronousTestCase` and say in `connect` how the sessions come
together. It is what plain TCP would show them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectionDone,
    ConnectionLost,
)
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChannelReset, JetStreamError, NotAllowed
from jetstreamproto.services.tunnel.client import Carried, TunnelClient, Watcher
from jetstreamproto.services.tunnel.messages import REQUEST, Purpose, Request
from jetstreamproto.services.tunnel.model import TUNNEL, TunnelCode, TunnelLimits
from jetstreamproto.services.tunnel.service import TunnelOffer
from jetstreamproto.services.tunnel.socks5 import SocksReply, encode_reply
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from tests.doubles import KIB, QuickClock, noise, windows
from tests.streams import Notes
from tests.tcp_network import TcpNetwork

_Case = SynchronousTestCase if TYPE_CHECKING else object

HERE = "127.0.0.1"
GREETING = b"\x05\x01\x00"
CONNECT_80 = b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"


class Diary(Watcher):
    """Writes down what a tunnel's client tells."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.reasons: list[JetStreamError | None] = []
        self.closed_ones: list[Carried] = []

    def opened(self, connection: Carried) -> None:
        self.events.append("opened")

    def closed(self, connection: Carried, reason: JetStreamError | None) -> None:
        self.events.append("closed")
        self.reasons.append(reason)
        self.closed_ones.append(connection)

    def failed(self, connection: Carried, reason: JetStreamError) -> None:
        self.events.append("failed")
        self.reasons.append(reason)


class TunnelContract(_Case):
    """The tests. `large` is the size of what they call large."""

    large = 1 << 20

    def connect(self, services: Any, client_services: Any, **options: Any) -> Any:
        """Two connected sessions, with what moves them."""
        raise NotImplementedError

    def start(
        self,
        targets: tuple[str, ...] = ("127.0.0.1:*", "*.example.org:80"),
        listen: tuple[str, ...] = ("127.0.0.1:*",),
        limits: TunnelLimits | None = None,
        **options: Any,
    ) -> None:
        limits = limits or TunnelLimits()
        scopes = {"targets": targets, "listen": listen}
        clock = QuickClock()
        self.net = net = TcpNetwork(clock)
        self.diary = Diary()
        self.offer = TunnelOffer(
            lambda session, service, scope, default=(): scopes[scope], net.resolve, limits
        )
        self.offer.start(net)
        self.tunnel = TunnelClient(
            net, self.get_session, net.resolve, limits=limits, watcher=self.diary
        )
        self.pair = self.connect(self.offer.services, self.tunnel.services, clock=clock, **options)

    def get_session(self) -> Deferred[Any]:
        return succeed(self.pair.client)

    def until(self, condition: Any) -> None:
        self.pair.run_until(condition)

    def settle(self) -> None:
        self.pair.advance(1.0)

    def forward(self, **options: Any) -> tuple[Any, Any]:
        """A program, and the one that it has reached through a tunnel."""
        self.start(**options)
        made = self.net.serve(80)
        _, port = self.tunnel.listen_local(HERE, 0, (HERE, 80))
        mine = self.net.program(port)
        self.until(lambda: bool(made))
        self.settle()
        return mine, made[0]

    def is_reset(self, program: Notes) -> bool:
        return program.reason is not None and bool(program.reason.check(ConnectionLost))

    def check_nothing_left(self) -> None:
        """No channel, no connection and no count is left behind."""
        self.pair.advance(30)
        self.assertEqual((len(self.pair.client.channels), len(self.pair.server.channels)), (0, 0))
        self.assertEqual(self.offer.guest(self.pair.server).connections, 0)

    # --- bytes and ends -----------------------

    def test_bytes_go_both_ways(self) -> None:
        mine, theirs = self.forward()
        up, down = noise(self.large, 1), noise(self.large, 2)
        for start in range(0, len(up), 50_000):
            mine.transport.write(up[start : start + 50_000])
            theirs.transport.write(down[start : start + 50_000])
        self.until(lambda: theirs.size == len(up) and mine.size == len(down))
        self.assertTrue(theirs.received == up and mine.received == down)
        self.assertEqual(self.diary.events, ["opened"])

    def test_what_is_written_before_there_is_a_connection_arrives(self) -> None:
        self.start()
        made = self.net.serve(80)
        _, port = self.tunnel.listen_local(HERE, 0, (HERE, 80))
        mine = self.net.program(port)
        mine.transport.write(b"early ")
        mine.transport.write(b"words")
        mine.transport.loseWriteConnection()
        self.until(lambda: bool(made) and "read lost" in made[0].events)
        self.assertEqual(made[0].received, b"early words")

    def test_an_end_goes_through_and_the_other_direction_goes_on(self) -> None:
        mine, theirs = self.forward()
        mine.transport.write(b"question")
        mine.transport.loseWriteConnection()
        self.until(lambda: "read lost" in theirs.events)
        self.assertEqual(theirs.received, b"question")
        theirs.transport.write(noise(self.large))
        theirs.transport.loseWriteConnection()
        self.until(lambda: "read lost" in mine.events)
        self.assertTrue(mine.received == noise(self.large))
        self.check_nothing_left()
        self.assertEqual(self.diary.events, ["opened", "closed"])
        self.assertEqual(self.diary.reasons, [None])
        relay = self.diary.closed_ones[0].relay
        assert relay is not None
        self.assertEqual((relay.to_channel, relay.to_tcp), (8, self.large))

    def test_and_from_the_target_first(self) -> None:
        mine, theirs = self.forward()
        theirs.transport.loseWriteConnection()
        self.until(lambda: "read lost" in mine.events)
        mine.transport.write(b"still here")
        mine.transport.loseConnection()
        self.until(lambda: "read lost" in theirs.events)
        self.assertEqual(theirs.received, b"still here")
        self.check_nothing_left()

    def test_programs_that_know_no_half_close(self) -> None:
        self.start()
        made = self.net.serve(80, Notes)
        _, port = self.tunnel.listen_local(HERE, 0, (HERE, 80))
        mine = self.net.program(port, Notes)
        self.until(lambda: bool(made))
        made[0].transport.write(b"bye")
        made[0].transport.loseConnection()
        self.until(lambda: mine.lost)
        self.assertEqual(mine.received, b"bye")
        assert mine.reason is not None
        self.assertTrue(mine.reason.check(ConnectionDone))
        self.check_nothing_left()

    def test_a_reset_goes_through_both_ways(self) -> None:
        for number in (0, 1):
            ends = self.forward()
            ends[number].transport.abortConnection()
            self.until(lambda other=ends[1 - number]: other.lost)
            self.assertTrue(self.is_reset(ends[1 - number]))
            self.check_nothing_left()
            self.assertEqual(self.diary.events, ["opened", "closed"])
            self.assertIsInstance(self.diary.reasons[0], ChannelReset)

    def test_writing_to_a_closed_program_resets_the_writer(self) -> None:
        mine, theirs = self.forward()
        mine.transport.loseConnection()
        self.until(lambda: "read lost" in theirs.events)
        theirs.transport.write(b"anybody there?")
        self.until(lambda: theirs.lost)
        self.assertTrue(self.is_reset(theirs))
        self.check_nothing_left()

    def test_a_cut_session_resets_both_ends(self) -> None:
        mine, theirs = self.forward()
        self.pair.client.abort()
        self.until(lambda: mine.lost)
        self.assertTrue(self.is_reset(mine))
        self.pair.advance(120)
        self.assertTrue(self.is_reset(theirs))

    def test_idle_streams_stay(self) -> None:
        mine, theirs = self.forward()
        self.pair.advance(3 * 3600)
        mine.transport.write(b"good morning")
        self.until(lambda: bool(theirs.received))
        theirs.transport.write(b"and to you")
        self.until(lambda: bool(mine.received))

    def test_a_slow_reader_slows_the_writer_at_either_end(self) -> None:
        for number in (0, 1):
            ends = self.forward(settings=windows(256 * KIB, 512 * KIB, high_water=256 * KIB))
            writer, reader = ends[number], ends[1 - number]
            reader.transport.pauseProducing()
            piece = noise(32 * KIB)
            for _ in range(96):
                writer.transport.write(piece)
            self.pair.advance(30)
            # both queues, the window, and a message at each end
            held = 96 * len(piece) - writer.transport.waiting
            self.assertLess(held, 1200 * KIB)
            self.assertGreater(held, 256 * KIB)
            reader.transport.resumeProducing()
            self.until(lambda: reader.size == 96 * len(piece))  # noqa: B023
            self.assertTrue(reader.received == 96 * piece)
            self.pair.client.abort()
            self.pair.advance(120)

    # --- refusals -----------------------

    def refused(self, host: str, port: int, code: int, text: str) -> None:
        """A target that cannot be had resets the program that asked for it."""
        self.diary.events.clear()
        self.diary.reasons.clear()
        _, local = self.tunnel.listen_local(HERE, 0, (host, port))
        mine = self.net.program(local)
        mine.transport.write(b"hello?")
        self.until(lambda: mine.lost)
        self.assertTrue(self.is_reset(mine))
        self.assertEqual(self.diary.events, ["failed"])
        reason = self.diary.reasons[0]
        assert isinstance(reason, ChannelReset)
        self.assertEqual(reason.code, code)
        self.assertRegex(reason.reason, text)
        self.check_nothing_left()

    def test_targets_that_cannot_be_had(self) -> None:
        self.start(targets=("*:*",))
        self.net.errors = {
            "10.0.0.1": ConnectError(errno.EHOSTUNREACH, "No route to host"),
            "10.0.0.2": ConnectError(errno.ENETUNREACH, "Network is unreachable"),
            "10.0.0.3": ConnectError(errno.EACCES, "Permission denied"),
        }
        self.net.silent = {"10.0.0.4"}
        self.refused(HERE, 81, TunnelCode.CONNECTION_REFUSED, "127.0.0.1:81 refuses")
        self.refused("10.0.0.1", 80, TunnelCode.HOST_UNREACHABLE, "cannot be reached")
        self.refused("10.0.0.2", 80, TunnelCode.NETWORK_UNREACHABLE, "network")
        self.refused("10.0.0.3", 80, TunnelCode.CANNOT_CONNECT, "cannot be connected")
        self.refused("10.0.0.4", 80, ResetCode.TIMED_OUT, "does not answer")
        self.refused("none.example", 80, TunnelCode.NAME_NOT_FOUND, "no address")

    def test_targets_that_are_not_allowed(self) -> None:
        self.start()
        self.net.serve(80, host="10.0.0.9")
        self.refused("10.0.0.9", 80, ResetCode.NOT_ALLOWED, "may not use 10.0.0.9:80")
        self.net.names = {"evil.example": ["10.0.0.9"]}
        self.refused("evil.example", 80, ResetCode.NOT_ALLOWED, "may not use evil.example:80")
        self.assertEqual(self.net.connects, [])
        self.net.names = {"a.example.org": ["10.0.0.9"]}
        self.refused("a.example.org", 81, ResetCode.NOT_ALLOWED, "may not")

    def test_without_patterns_nothing_is_even_looked_up(self) -> None:
        self.start(targets=(), listen=())
        self.refused(HERE, 80, ResetCode.NOT_ALLOWED, "may not")
        self.refused("localhost", 80, ResetCode.NOT_ALLOWED, "may not")
        self.assertEqual((self.net.connects, self.net.lookups), ([], []))
        with self.assertRaises(NotAllowed):
            self.listen_remote(0, (HERE, 80))

    def test_a_name_is_connected_to_where_it_was_checked(self) -> None:
        """It is looked up once, whatever it would lead to the next time."""
        self.start()
        made = self.net.serve(80)
        self.net.names = {"two.example": ["10.0.0.1", HERE], "a.example.org": ["10.0.0.2"]}
        _, port = self.tunnel.listen_local(HERE, 0, ("two.example", 80))
        self.net.program(port)
        self.until(lambda: bool(made))
        self.assertEqual(self.net.connects, [(HERE, 80)])  # not the address that is not allowed
        self.assertEqual(self.net.lookups, ["two.example"])
        self.net.serve(80, host="10.0.0.2")
        _, port = self.tunnel.listen_local(HERE, 0, ("a.example.org", 80))
        self.net.program(port)  # allowed by its name
        self.until(lambda: self.net.connects[-1] == ("10.0.0.2", 80))

    def test_all_addresses_of_a_name_are_tried(self) -> None:
        self.start(targets=("*:*",))
        made = self.net.serve(80, host="10.0.0.3")
        self.net.silent = {"10.0.0.1"}
        self.net.names = {"many.example": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}
        _, port = self.tunnel.listen_local(HERE, 0, ("many.example", 80))
        mine = self.net.program(port)
        self.until(lambda: bool(made))
        made[0].transport.write(b"here")
        self.until(lambda: mine.received == b"here")

    def test_a_name_that_takes_too_long(self) -> None:
        self.start(limits=TunnelLimits(lookups=1), targets=("*:*",))
        never: Deferred[Any] = Deferred()

        async def resolve(reactor: Any, name: str) -> Any:
            return await never

        guest = self.offer.guest(self.pair.server)
        guest.dialler._resolve = resolve
        self.refused("slow.example", 80, ResetCode.TIMED_OUT, "no answer about the name")
        # the thread that looks it up is still at it
        self.refused("other.example", 80, ResetCode.LIMIT_EXCEEDED, "looked up")
        never.callback([])
        guest.dialler._resolve = self.net.resolve
        self.refused("other.example", 80, TunnelCode.NAME_NOT_FOUND, "no address")

    def test_a_program_that_leaves_while_the_target_is_connected_to(self) -> None:
        self.start(targets=("*:*",))
        self.net.silent = {"10.0.0.1"}
        _, port = self.tunnel.listen_local(HERE, 0, ("10.0.0.1", 80))
        mine = self.net.program(port)
        self.until(lambda: bool(self.net.connects))
        mine.transport.abortConnection()
        self.until(lambda: not self.pair.server.channels)
        self.check_nothing_left()

    def test_connections_are_counted(self) -> None:
        mine, theirs = self.forward(limits=TunnelLimits(connections=1))
        local = next(p for (_, p) in self.net.ports if p != 80)
        second = self.net.program(local)
        self.until(lambda: second.lost)
        self.assertTrue(self.is_reset(second))
        mine.transport.loseConnection()
        theirs.transport.loseConnection()
        self.check_nothing_left()
        third = self.net.program(local)
        self.settle()
        self.assertFalse(third.lost)

    # --- peers that do not keep to it -----------------------

    def ask(self, *messages: bytes, end: bool = False, server: bool = True) -> ChannelReset:
        """How the service answers a channel that begins so."""
        session = self.pair.client if server else self.pair.server
        inbox: Inbox = self.pair.run(session.open(TUNNEL))
        for message in messages:
            inbox.channel.send(message)
        if end:
            inbox.channel.end()
        with self.assertRaises(ChannelReset) as caught:
            self.pair.run(inbox.get())
        return caught.exception

    def test_bad_requests(self) -> None:
        self.start(targets=("*:*",), listen=("*:*",))
        for host, port in (("", 80), ("a b", 80), ("x" * 300, 80), ("fe80::1%lo", 80), (HERE, 0)):
            request = REQUEST.encode(Request(Purpose.CONNECT, host, port))
            self.assertEqual(self.ask(request).code, ResetCode.BAD_MESSAGE)
        for message in (b"", b"\xff" * 40, REQUEST.encode(Request(Purpose.CONNECT, HERE, 80))[:-9]):
            self.assertEqual(self.ask(message).code, ResetCode.BAD_MESSAGE)
        listen = REQUEST.encode(Request(Purpose.LISTEN, "localhost", 80))
        self.assertEqual(self.ask(listen).code, ResetCode.BAD_MESSAGE)
        accepted = REQUEST.encode(Request(Purpose.ACCEPTED, HERE, 80, 1))
        self.assertEqual(self.ask(accepted).code, ResetCode.BAD_MESSAGE)
        self.assertEqual(self.ask(end=True).code, ResetCode.BAD_MESSAGE)
        self.assertEqual(self.ask().code, ResetCode.TIMED_OUT)
        self.assertEqual(self.net.connects, [])
        self.check_nothing_left()

    def test_a_client_connects_to_nothing_that_it_did_not_ask_for(self) -> None:
        self.start()
        self.net.serve(80)
        for purpose in Purpose:
            request = REQUEST.encode(Request(purpose, HERE, 80, 1))
            self.assertEqual(self.ask(request, server=False).code, ResetCode.NOT_ALLOWED)
        self.assertEqual(self.net.connects, [])

    # --- the reverse -----------------------

    def listen_remote(self, port: int, target: tuple[str, int]) -> Any:
        listening = self.tunnel.listen_remote(self.pair.client, HERE, port, target)
        return self.pair.run(Deferred.fromCoroutine(listening))

    def test_the_server_listens_for_the_client(self) -> None:
        self.start()
        made = self.net.serve(80)
        (host, port), _ = self.listen_remote(0, (HERE, 80))
        self.assertEqual(host, HERE)
        theirs = self.net.program(port)
        theirs.transport.write(b"from afar")
        self.until(lambda: bool(made) and made[0].received == b"from afar")
        made[0].transport.write(b"welcome")
        made[0].transport.loseConnection()
        self.until(lambda: theirs.received == b"welcome")
        theirs.transport.loseConnection()
        self.until(lambda: "closed" in self.diary.events)
        self.assertEqual(self.diary.events, ["opened", "closed"])

    def test_a_target_here_that_refuses(self) -> None:
        self.start()
        (_, port), _ = self.listen_remote(0, (HERE, 81))
        theirs = self.net.program(port)
        self.until(lambda: theirs.lost)
        self.assertTrue(self.is_reset(theirs))
        self.assertEqual(self.diary.events, ["failed"])

    def test_listening_ends_with_the_channel_and_with_the_session(self) -> None:
        self.start()
        (_, first), _ = self.listen_remote(0, (HERE, 80))
        (_, second), closed = self.listen_remote(0, (HERE, 80))
        self.assertIn((HERE, first), self.net.ports)
        self.pair.client.channels[0].end()
        self.until(lambda: (HERE, first) not in self.net.ports)
        self.assertIn((HERE, second), self.net.ports)
        self.pair.client.abort()
        self.until(lambda: (HERE, second) not in self.net.ports)
        self.assertEqual(self.offer.guest(self.pair.server).listeners, 0)
        self.successResultOf(closed)

    def test_ports_that_cannot_be_listened_on(self) -> None:
        self.start(listen=("127.0.0.1:8000-8010",), limits=TunnelLimits(listeners=2))
        self.net.serve(8000)
        for port, code in (
            (8000, TunnelCode.CANNOT_LISTEN),
            (8011, ResetCode.NOT_ALLOWED),
            (0, ResetCode.NOT_ALLOWED),
        ):
            with self.assertRaises(ChannelReset) as caught:
                self.listen_remote(port, (HERE, 80))
            self.assertEqual(caught.exception.code, code)
        self.listen_remote(8001, (HERE, 80))
        self.listen_remote(8002, (HERE, 80))
        with self.assertRaises(ChannelReset) as caught:
            self.listen_remote(8003, (HERE, 80))
        self.assertEqual(caught.exception.code, ResetCode.LIMIT_EXCEEDED)

    # --- the proxy -----------------------

    def test_a_proxy_answers_once_the_target_has(self) -> None:
        self.start()
        made = self.net.serve(80)
        _, port = self.tunnel.listen_socks(HERE, 0)
        mine = self.net.program(port)
        mine.transport.write(GREETING)
        self.until(lambda: mine.received == b"\x05\x00")
        mine.transport.write(CONNECT_80 + b"GET /")
        self.until(lambda: bool(made) and made[0].received == b"GET /")
        self.until(lambda: mine.size > 2)
        self.assertEqual(mine.received[2:6], b"\x05\x00\x00\x01")
        made[0].transport.write(b"ok")
        made[0].transport.loseConnection()
        self.until(lambda: mine.received[12:] == b"ok")

    def test_a_proxys_refusals(self) -> None:
        self.start()
        _, port = self.tunnel.listen_socks(HERE, 0)
        for request, reply in (
            (CONNECT_80, SocksReply.CONNECTION_REFUSED),
            (b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", SocksReply.NOT_ALLOWED),
            (b"\x05\x01\x00\x03\x01x\x00\x50", SocksReply.HOST_UNREACHABLE),
            (b"\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", SocksReply.COMMAND_NOT_SUPPORTED),
        ):
            mine = self.net.program(port)
            mine.transport.write(GREETING + request)
            self.until(lambda mine=mine: "read lost" in mine.events)
            self.assertEqual(mine.received, b"\x05\x00" + encode_reply(reply))
            mine.transport.loseConnection()
        self.check_nothing_left()

    def test_a_proxys_client_that_says_nothing(self) -> None:
        self.start()
        _, port = self.tunnel.listen_socks(HERE, 0)
        mine = self.net.program(port)
        self.pair.advance(29)
        self.assertFalse(mine.lost)
        self.pair.advance(2)
        self.assertTrue(self.is_reset(mine))

    # --- without a session -----------------------

    def test_connections_wait_for_a_session_and_not_for_ever(self) -> None:
        self.start()
        made = self.net.serve(80)
        waiting: list[Deferred[Any]] = []

        def get_session() -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.tunnel._get_session = get_session
        _, port = self.tunnel.listen_local(HERE, 0, (HERE, 80))
        first, second = self.net.program(port), self.net.program(port)
        first.transport.write(b"patience")
        waiting[0].callback(self.pair.client)
        self.until(lambda: bool(made) and made[0].received == b"patience")
        self.pair.advance(11)
        self.assertFalse(first.lost)
        self.assertTrue(self.is_reset(second))

    def test_stopping_resets_everything(self) -> None:
        mine, theirs = self.forward()
        self.tunnel.stop()
        self.until(lambda: mine.lost and theirs.lost)
        self.assertTrue(self.is_reset(mine) and self.is_reset(theirs))
        self.assertEqual([port for (_, port) in self.net.ports], [80])

    def test_a_taken_port(self) -> None:
        self.start()
        self.net.serve(80)
        with self.assertRaises(CannotListenError):
            self.tunnel.listen_local(HERE, 80, (HERE, 80))
