"""What the tunnel's client makes of a server that does not keep to the protocol."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChannelReset
from jetstreamproto.services.tunnel.client import TunnelClient
from jetstreamproto.services.tunnel.messages import REPLY, REQUEST, Purpose, Reply, Request
from jetstreamproto.services.tunnel.model import TUNNEL, TunnelCode, TunnelLimits
from jetstreamproto.session.codes import ResetCode
from tests.contracts.tunnel_contract import HERE, Diary
from tests.doubles import QuickClock, Recorder, Registry, make_pair
from tests.tcp_network import TcpNetwork


class BadServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        clock = QuickClock()
        self.net = TcpNetwork(clock)
        self.diary = Diary()
        self.server = Registry(lambda: Recorder(stay=True))
        self.tunnel = TunnelClient(
            self.net,
            lambda: succeed(self.pair.client),
            self.net.resolve,
            watcher=self.diary,
            limits=TunnelLimits(),
        )
        self.pair = make_pair(
            {TUNNEL: self.server}, client_services=self.tunnel.services, clock=clock
        )

    def ask(self) -> tuple[Any, Any]:
        """A program that wants to be connected, and the channel that the server is asked by."""
        _, port = self.tunnel.listen_local(HERE, 0, ("host", 80))
        mine = self.net.program(port)
        mine.transport.write(b"early")
        self.pair.run_until(
            lambda: len(self.server.made[-1:]) and self.server.made[-1].received > 5
        )
        return mine, self.server.made[-1]

    def check_failed(self, mine: Any, code: int) -> None:
        self.pair.run_until(lambda: mine.lost)
        self.assertTrue(mine.reason.check(ConnectionLost))
        self.assertEqual(self.diary.events, ["failed"])
        reason = self.diary.reasons[0]
        assert isinstance(reason, ChannelReset)
        self.assertEqual(reason.code, code)
        self.pair.advance(1)
        self.assertEqual(self.pair.client.channels, ())

    def test_the_request_comes_first_and_bytes_right_behind(self) -> None:
        _, theirs = self.ask()
        self.assertEqual(REQUEST.decode(theirs.messages[0]), Request(Purpose.CONNECT, "host", 80))
        self.assertEqual(theirs.messages[1:], [b"early"])

    def test_an_answer_that_is_none(self) -> None:
        mine, theirs = self.ask()
        theirs.channel.send(b"\xff" * 20)
        self.check_failed(mine, ResetCode.BAD_MESSAGE)

    def test_an_end_without_an_answer(self) -> None:
        mine, theirs = self.ask()
        theirs.channel.end()
        self.check_failed(mine, ResetCode.BAD_MESSAGE)

    def test_no_answer(self) -> None:
        mine, _ = self.ask()
        self.pair.advance(29)
        self.assertFalse(mine.lost)
        self.check_failed(mine, ResetCode.TIMED_OUT)

    def test_a_code_that_is_not_known(self) -> None:
        mine, theirs = self.ask()
        theirs.channel.reset(60_000, "because\x1b[31m")
        self.check_failed(mine, 60_000)

    def test_a_proxys_client_is_answered_whatever_the_server_says_of_itself(self) -> None:
        _, port = self.tunnel.listen_socks(HERE, 0)
        mine = self.net.program(port)
        mine.transport.write(b"\x05\x01\x00\x05\x01\x00\x03\x01h\x00\x50")
        self.pair.run_until(lambda: bool(self.server.made) and bool(self.server.made[0].messages))
        self.server.made[0].channel.send(REPLY.encode(Reply("\x1b]0;x\x07", 7)))
        self.pair.run_until(lambda: mine.size > 2)
        self.assertEqual(mine.received, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x07")

    def test_a_reset_after_the_end_of_a_direction_is_told_at_once(self) -> None:
        mine, theirs = self.ask()
        theirs.channel.send(REPLY.encode(Reply(HERE, 1)))
        mine.transport.loseWriteConnection()
        self.pair.run_until(lambda: "end" in theirs.events)
        mine.transport.abortConnection()
        self.pair.advance(0.1)
        assert isinstance(theirs.reason, ChannelReset)
        self.assertEqual(theirs.reason.code, TunnelCode.CONNECTION_RESET)
