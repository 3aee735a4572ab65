"""Two real sessions joined over UDP by a simulated network, in virtual time.

    pair = DatagramPair({"echo": Echo}, link=LinkOptions(delay=0.025, loss=0.1), seed=7)
    inbox = pair.run(pair.client.open("echo"))
    inbox.channel.send(b"hello")
    assert pair.run(inbox.get()) == b"hello"

Everything but the sockets is the real thing, and everything that happens follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from jetstreamproto.datagram import JetStreamDatagramProtocol
from jetstreamproto.factory import Admitted, JetStreamClientFactory, JetStreamServerFactory, Service
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.testing.linkmodel import LinkOptions
from jetstreamproto.testing.simnet import DEFAULT_LINK, Datagram, SimulatedNetwork
from jetstreamproto.transports.udp import UdpLink

T = TypeVar("T")

CLIENT, SERVER, SERVER_PORT = "10.0.0.1", "10.0.0.2", 9000
_CONNECT = {"udp": "connect", "quic": "connect_quic"}
NAT = "192.0.2.1"
"""The address of the client's router, with `behind_nat`."""


class _ServerFactory(JetStreamServerFactory):
    """Remembers whom it has let in last."""

    last: Session

    def admit(self, host: str) -> Admitted | str:
        admitted = super().admit(host)
        if isinstance(admitted, Admitted):
            self.last = admitted.session
        return admitted


class DatagramPair:
    """A client's and a server's session with each other, connected unless `connect=False`.

    `services` are the server's, `client_services` the client's; further settings go to the
    factories. `link` is the way there and, unless `back` is given, the way back. `server` is
    there once the server has accepted the client. `tap` is the network's from the first datagram.
    `transport` is the client's, "udp" or "quic", which the server then has beside it.
    """

    def __init__(
        self,
        services: Mapping[str, Service] | None = None,
        client_services: Mapping[str, Service] | None = None,
        *,
        link: LinkOptions = DEFAULT_LINK,
        back: LinkOptions | None = None,
        seed: int = 0,
        transport: str = "udp",
        batches: bool = True,
        behind_nat: bool = False,
        settings: SessionSettings = DEFAULT_SETTINGS,
        client_settings: SessionSettings | None = None,
        datagrams: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
        client_datagrams: DatagramSettings | None = None,
        clock: Clock | None = None,
        identity: Identity | None = None,
        connect: bool = True,
        tap: Callable[[Datagram], bool] | None = None,
        within: float = 3600.0,
        server_options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.net = SimulatedNetwork(clock, seed)
        self.net.tap = tap
        self.clock = self.net.clock
        self.within = within
        self.nat = self.net.nat(NAT) if behind_nat else None
        client_host = self.net.host(CLIENT, self.nat)
        server_host = self.net.host(SERVER)
        self.net.join(CLIENT, SERVER, link, back)
        identity = identity or Identity.create(datetime.now(UTC))
        chance = random.Random(f"{seed} pair")
        self.server_factory = _ServerFactory(
            identity, services, settings=settings, reactor=self.clock, **(server_options or {})
        )
        self.server_protocol = JetStreamDatagramProtocol(
            self.server_factory,
            quic=transport == "quic",
            settings=datagrams,
            reactor=server_host,
            random_bytes=chance.randbytes,
        )
        self.server_port = self.net.listen_udp(
            self.server_protocol, server_host, SERVER_PORT, batches=batches
        )
        options: dict[str, Any] = {"trust": PinnedKeys([identity.fingerprint])}
        self.client_factory = JetStreamClientFactory(
            services=client_services,
            settings=client_settings or settings,
            reactor=self.clock,
            **(options | dict(client_options or {})),
        )
        self.client_protocol = JetStreamDatagramProtocol(
            settings=client_datagrams or datagrams,
            reactor=client_host,
            random_bytes=chance.randbytes,
        )
        self.client_port = self.net.listen_udp(self.client_protocol, client_host, batches=batches)
        connect_over = getattr(self.client_protocol, _CONNECT[transport])
        self.client: Session = connect_over(SERVER, SERVER_PORT, self.client_factory)
        if connect:
            self.run(self.client.when_connected())
            self.run(self.server.when_connected())

    @property
    def server(self) -> Session:
        """The session that the server has accepted last."""
        return self.server_factory.last

    @property
    def client_link(self) -> UdpLink:
        (link,) = self.client_protocol.links
        return link

    @property
    def server_link(self) -> UdpLink:
        (link,) = self.server_protocol.links
        return link

    def run(self, deferred: Deferred[T]) -> T:
        """Move the clock from event to event until `deferred` fires; its result or exception."""
        return self.net.run(deferred, self.within)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Move the clock from event to event until `condition()` holds."""
        self.net.run_until(condition, self.within)

    def advance(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass, with everything that happens in them."""
        self.net.advance(seconds)

    def change_link(self, **options: Any) -> None:
        """Change the way there and the way back from now on."""
        for link in (self.net.link(CLIENT, SERVER), self.net.link(SERVER, CLIENT)):
            link.options = replace(link.options, **options)
