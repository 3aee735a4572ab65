"""`JetStreamServerEndpoint`: takes connections, each a channel of some client's session."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, execute, maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from jetstreamproto.address import JetStreamAddress
from jetstreamproto.bytestream import ChannelTransport
from jetstreamproto.endpoints.client import STREAM
from jetstreamproto.endpoints.listening import OpenPort, open_ports
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import CertificateAuthority, PinnedKeys, Trust
from jetstreamproto.server.config import available_transports, read_transport
from jetstreamproto.server.listeners import show_address
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.state import default_state_dir

_log = Logger(namespace="jetstream")


@attrs.frozen(kw_only=True)
class Listening:
    """Where a server endpoint listens, who it is, and whom it lets in.

    Clients are let in by `fingerprints`, by those in the file `clients`, or by the CAs in
    `client_ca`. Without any, everybody is who can reach `interface`, which then must be of this
    host only, unless `allow_anonymous`. Raises `ConfigurationError` for what contradicts.
    """

    port: int
    interface: str = "127.0.0.1"
    transports: tuple[str, ...] = attrs.field(factory=available_transports)
    state_dir: Path = attrs.field(factory=default_state_dir)
    cert: Path | None = None
    key: Path | None = None
    fingerprints: tuple[str, ...] = ()
    clients: Path | None = None
    client_ca: Path | None = None
    allow_anonymous: bool = False
    datagrams: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS
    settings: SessionSettings = DEFAULT_SETTINGS

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigurationError(f"{self.port} is not a port: 0 to 65535")
        for transport in self.transports:
            try:
                read_transport(transport)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
        if not self.transports:
            raise ConfigurationError("no transport to listen with")
        if self.key is not None and self.cert is None:
            raise ConfigurationError("key is of no use without cert")
        named = bool(self.fingerprints) + (self.clients is not None) + (self.client_ca is not None)
        if named + self.allow_anonymous > 1:
            raise ConfigurationError("only one of allow, clients and clientCA can be what decides")
        if self.fingerprints:
            PinnedKeys(self.fingerprints)
        if not named and not self.allow_anonymous:
            self._stay_on_loopback()

    def _stay_on_loopback(self) -> None:
        if not ipaddress.ip_address(self.interface).is_loopback:
            raise ConfigurationError(
                f"interface={self.interface} lets other hosts in: say whom with"
                r" allow=sha256\:FINGERPRINT, clients=FILE or clientCA=FILE, or let in anyone with"
                " allow=anonymous"
            )

    def identity(self) -> Identity:
        """Who the server is."""
        if self.cert is not None:
            return Identity.from_files(self.cert, self.key)
        return Identity.load_or_create(self.state_dir, datetime.now(UTC))

    def client_trust(self) -> Trust | None:
        """Who judges the clients' certificates; None when they are not asked for any."""
        if self.fingerprints:
            return PinnedKeys(self.fingerprints)
        if self.clients is not None:
            return PinnedKeys.from_file(self.clients)
        return None if self.client_ca is None else CertificateAuthority(self.client_ca)


@implementer(IStreamServerEndpoint)
class JetStreamServerEndpoint:
    """Listens for sessions, and offers a factory's protocols in them as `service`."""

    def __init__(self, reactor: Any, listening: Listening, service: str = STREAM) -> None:
        self.listening = listening
        self.service = service
        self._reactor = reactor

    def __repr__(self) -> str:
        where = show_address(self.listening.interface, self.listening.port)
        return f"<JetStreamServerEndpoint {where} {self.service!r}>"

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """A `JetStreamPort`. Fails with `CannotListenError`, or with a `ConfigurationError`."""
        port = JetStreamPort(self._reactor, self.listening, self.service, factory)

        def start() -> JetStreamPort:
            port.startListening()
            return port

        return execute(start)


@implementer(IListeningPort)
class JetStreamPort:
    """The port of a server endpoint: each channel to `service` is a connection of `factory`."""

    def __init__(
        self, reactor: Any, listening: Listening, service: str, factory: IProtocolFactory
    ) -> None:
        self.factory = factory
        self.sessions: JetStreamServerFactory
        """What accepts the clients' sessions."""
        self._reactor = reactor
        self._listening = listening
        self._service = service
        self._ports: Sequence[OpenPort] = ()
        self._number = 0

    def startListening(self) -> None:
        """Accept sessions. Raises `CannotListenError`, or `ConfigurationError`."""
        listening = self._listening
        self.sessions = JetStreamServerFactory(
            listening.identity(),
            {self._service: self.make_connection},
            clients=listening.client_trust(),
            settings=listening.settings,
            reactor=self._reactor,
        )
        self._ports = open_ports(
            self._reactor,
            listening.transports,
            listening.interface,
            listening.port,
            self.sessions,
            listening.datagrams,
        )
        self._number = self._ports[0].number
        self.factory.doStart()
        _log.info(
            "{factory} starting on {where} ({transports}), its fingerprint is {fingerprint}",
            factory=type(self.factory).__name__,
            where=show_address(listening.interface, self._number),
            transports=",".join(listening.transports),
            fingerprint=self.sessions.identity.fingerprint,
        )

    def make_connection(self) -> ChannelProtocol:
        """For a channel that a client opens."""
        host = self._listening.interface
        return ChannelTransport(self.factory.buildProtocol, (host, self._number))

    def stopListening(self) -> Deferred[None]:
        """Take no more connections; fires when those there are have ended.

        They have the drain timeout of the settings to finish, and are cut then.
        """
        ports, self._ports = self._ports, ()
        return Deferred.fromCoroutine(self._stop(ports))

    async def _stop(self, ports: Sequence[OpenPort]) -> None:
        if not ports:
            return
        closing = DeferredList([maybeDeferred(port.stop_accepting) for port in ports])
        await self.sessions.drain()
        await closing
        await DeferredList([maybeDeferred(port.close) for port in ports])
        self.factory.doStop()

    def getHost(self) -> JetStreamAddress:
        return JetStreamAddress(
            self._listening.interface,
            self._number,
            ",".join(self._listening.transports),
            self._service,
            self.sessions.identity.fingerprint,
        )
