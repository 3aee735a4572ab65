"""What begins and what ends a session leaves at the end of the reactor's turn, the rest at once."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.state import SessionState
from tests.certificates import NOW
from tests.unit.transports.tcp_ends import Transport

SERVER = Identity.create(NOW)


class Ends:
    """A client and a server; what one has written is carried to the other by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        server = JetStreamServerFactory(SERVER, {"echo": Echo}, reactor=self.clock)  # type: ignore[arg-type]
        client = JetStreamClientFactory(PinnedKeys([SERVER.fingerprint]), reactor=self.clock)  # type: ignore[arg-type]
        address = IPv4Address("TCP", "192.0.2.1", 9000)
        self.protocols: list[Any] = [one.buildProtocol(address) for one in (client, server)]
        self.transports = [Transport(address), Transport(address)]
        for protocol, transport in zip(self.protocols, self.transports, strict=True):
            protocol.makeConnection(transport)

    def written(self, side: int) -> int:
        return len(self.transports[side].written)

    def carry(self, side: int) -> None:
        """What that side has written arrives at the other."""
        self.protocols[1 - side].dataReceived(self.transports[side].take())

    def lose(self) -> None:
        for protocol in self.protocols:
            protocol.connectionLost()


class TurnEndTests(TestCase):
    def setUp(self) -> None:
        self.ends = Ends()
        self.client = self.ends.protocols[0].session

    def connect(self) -> None:
        for side in (0, 1, 0):
            self.assertEqual(self.ends.written(side), 0)
            self.ends.clock.advance(0)
            self.assertGreater(self.ends.written(side), 0)
            self.ends.carry(side)
        self.assertIs(self.client.state, SessionState.OPEN)

    def test_flights_of_the_handshake_wait(self) -> None:
        self.connect()
        self.ends.lose()

    def test_answers_in_a_session_do_not_wait(self) -> None:
        inbox = Inbox()
        self.connect()
        opened = self.client.open("echo", inbox)
        inbox.channel.send(b"first")
        self.ends.clock.advance(0)
        self.ends.carry(0)
        self.assertGreater(self.ends.written(1), 0)
        answers: list[object] = []
        opened.addCallback(answers.append)
        inbox.get().addCallback(answers.append)
        for _ in range(3):  # this transport takes one record at a time
            self.ends.carry(1)
        self.assertEqual(answers, [inbox, b"first"])
        self.ends.lose()

    def test_one_call_of_the_reactor_for_all(self) -> None:
        clock = self.ends.clock
        factory = JetStreamClientFactory(PinnedKeys([SERVER.fingerprint]), reactor=clock)  # type: ignore[arg-type]
        address = IPv4Address("TCP", "192.0.2.1", 9000)
        before = len(clock.getDelayedCalls())
        transports = [Transport(address) for _ in range(20)]
        protocols: list[Any] = [factory.buildProtocol(address) for _ in transports]
        for protocol, transport in zip(protocols, transports, strict=True):
            protocol.makeConnection(transport)
        # another for the deadlines of their handshakes
        self.assertEqual(len(clock.getDelayedCalls()), before + 2)
        clock.advance(0)
        self.assertTrue(all(transport.written for transport in transports))
        for protocol in protocols:
            protocol.connectionLost()
        self.ends.lose()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_waits_when_the_connection_goes_is_forgotten(self) -> None:
        for way in ("abort", "lose"):
            ends = Ends()
            if way == "abort":
                ends.protocols[0].session.abort()
                self.assertTrue(ends.transports[0].aborted)
            ends.lose()
            ends.clock.advance(0)
            self.assertEqual(ends.written(0), 0)
        self.ends.lose()
