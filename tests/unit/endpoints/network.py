"""Client endpoints on sessions in memory: what they open is a pair, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.bytestream import ChannelTransport
from jetstreamproto.endpoints.client import JetStreamClientEndpoint
from jetstreamproto.endpoints.pool import SessionPool
from jetstreamproto.endpoints.target import Target
from jetstreamproto.session.session import Session
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import IDENTITY, QuickClock
from tests.streams import Notes


class NotingFactory(Factory):
    """Makes `Notes`, and counts who uses it."""

    def __init__(self, protocol: Any = Notes) -> None:
        self.made: list[Any] = []
        self.addresses: list[Any] = []
        self.protocol = protocol

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        protocol = super().buildProtocol(addr)
        self.made.append(protocol)
        return protocol


class PairedTestCase(SynchronousTestCase):
    """With a pool whose sessions are pairs with a server that offers `stream` (and `none`)."""

    latency = 0.01

    def setUp(self) -> None:
        self.clock = QuickClock()
        self.pairs: list[SessionPair] = []
        self.failure: Exception | None = None
        self.options: dict[str, Any] = {}
        self.server = NotingFactory()
        self.pool = SessionPool(self.clock, 5.0, self.open)

    def open(self, reactor: Any, target: Target, timeout: float) -> Deferred[Session]:
        if self.failure is not None:
            failed: Deferred[Session] = Deferred()
            failed.errback(self.failure)
            return failed
        services = {"stream": lambda: ChannelTransport(self.server.buildProtocol)}
        pair = SessionPair(
            services,
            clock=self.clock,
            identity=IDENTITY,
            latency=self.latency,
            connect=False,
            **self.options,
        )
        self.pairs.append(pair)
        return pair.client.when_connected()

    def endpoint(self, service: str = "stream", **options: Any) -> JetStreamClientEndpoint:
        options.setdefault("port", 9000)
        timeout = options.pop("timeout", 10.0)
        target = Target(host="server.example", state_dir=Path("none"), **options)
        return JetStreamClientEndpoint(self.clock, target, service, timeout, self.pool)

    def run_until(self, condition: Any) -> None:
        for _ in range(10_000):
            if condition():
                return
            calls = self.clock.getDelayedCalls()
            assert calls, "nothing happens any more"
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))
        raise AssertionError("it does not come to be")

    def connect(self, endpoint: JetStreamClientEndpoint, factory: Any = None) -> Any:
        """The protocol that is connected, or the exception."""
        return self.result(endpoint.connect(factory or NotingFactory()))

    def result(self, connecting: Deferred[Any]) -> Any:
        results: list[Any] = []
        connecting.addBoth(results.append)
        self.run_until(lambda: bool(results))
        return getattr(results[0], "value", results[0])
