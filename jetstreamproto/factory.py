"""The factories: what a server offers and a client trusts, shared by all of their sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.logger import Logger

from jetstreamproto.errors import JetStreamError, ServiceNotFound
from jetstreamproto.protocol import JetStreamProtocol, TurnedAway
from jetstreamproto.security.handshake import Handshake, Role, TlsContext
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.keys import Cipher
from jetstreamproto.security.names import canonical_name
from jetstreamproto.security.records import DEFAULT_LIMITS, RecordLimits
from jetstreamproto.security.trust import Trust
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.transports.admission import Admission, AdmissionLimits, Ticket
from jetstreamproto.transports.timeouts import Timeouts
from jetstreamproto.wire.session_messages import Hello

_log = Logger()

Service = Callable[[], ChannelProtocol]
"""Makes the protocol for one channel; a `ChannelProtocol` subclass is one."""

Access = Callable[[Session, str], None]
"""Returns if the session's peer may use the named service, and raises `NotAllowed` otherwise."""

DEFAULT_CIPHERS = (Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session for a peer that is let in, over whichever transport.

    Whoever asked for it calls `release` when the connection is gone, after `link_lost`.
    """

    session: Session
    release: Callable[[], None]


class SessionFactory(Factory):
    """What both factories share. `services` maps the names that the peer may open.

    They make the protocols of TCP connections (`buildProtocol`); other transports take a session
    and a `handshake`, and give the session its link.
    """

    noisy = False

    def __init__(
        self,
        tls: TlsContext,
        services: Mapping[str, Service] | None,
        settings: SessionSettings,
        record_limits: RecordLimits,
        reactor: IReactorTime | None,
    ) -> None:
        self.settings = settings
        self.services = dict(services or {})
        self.sessions: set[Session] = set()
        self._tls = tls
        self._server_name: str | None = None  # what a client calls the server
        self._record_limits = record_limits
        self._reactor = reactor
        self._timeouts: Timeouts | None = None

    @property
    def clock(self) -> IReactorTime:
        """The reactor that was given, or the installed one."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = IReactorTime(reactor)
        return self._reactor

    @property
    def timeouts(self) -> Timeouts:
        """The deadlines of all its sessions."""
        if self._timeouts is None:
            self._timeouts = Timeouts(self.clock)
        return self._timeouts

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        make = self.services.get(service)
        if make is None:
            raise ServiceNotFound(ResetCode.SERVICE_NOT_FOUND, f"no service {service!r} here")
        return make()

    @property
    def authenticates(self) -> bool:
        return type(self).authenticate is not SessionFactory.authenticate

    def authenticate(self, session: Session, hello: Hello) -> Deferred[object] | None:
        return None

    def credentials(self) -> tuple[str, str] | None:
        return None

    def session_made(self, session: Session) -> None:
        """A session is connected. Override to act on it; call this as well."""
        self.sessions.add(session)

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None:
        """A session, connected or not, is gone: None if both ended it. As `session_made`."""
        self.sessions.discard(session)

    @property
    def tls(self) -> TlsContext:
        """Identity and trust, for transports that bring their own TLS."""
        return self._tls

    @property
    def server_name(self) -> str | None:
        """What a client calls the server."""
        return self._server_name

    def handshake(self) -> Handshake:
        """A fresh TLS handshake, for one connection."""
        return Handshake(self._tls, now=datetime.now(UTC), host=self._server_name)


class JetStreamServerFactory(SessionFactory):
    """Accepts sessions: give it to `listenTCP` or to a server endpoint.

    `identity` is shown to clients. With `clients` they must show a certificate that it trusts;
    with `authenticate` they must be let in by user name and password (a Deferred of an avatar,
    which becomes `session.avatar`). `access` is asked before a channel is opened.
    """

    def __init__(
        self,
        identity: Identity,
        services: Mapping[str, Service] | None = None,
        *,
        clients: Trust | None = None,
        authenticate: Callable[[Session, Hello], Deferred[object]] | None = None,
        access: Access | None = None,
        settings: SessionSettings = DEFAULT_SETTINGS,
        admission: AdmissionLimits | None = None,
        ciphers: Sequence[Cipher] = DEFAULT_CIPHERS,
        record_limits: RecordLimits = DEFAULT_LIMITS,
        reactor: IReactorTime | None = None,
    ) -> None:
        tls = TlsContext(Role.SERVER, identity=identity, trust=clients, ciphers=ciphers)
        super().__init__(tls, services, settings, record_limits, reactor)
        self.identity = identity
        self.admission = Admission(admission or AdmissionLimits())
        self._authenticate = authenticate
        self._access = access
        self._tickets: dict[Session, Ticket] = {}
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether nobody new is let in any more."""
        return self._draining

    def admit(self, host: str) -> Admitted | str:
        """A session for a new connection from `host`, or why there is none for it.

        The limits count the connections of all transports together.
        """
        if self._draining:
            return "the server is shutting down"
        ticket = self.admission.admit(host)
        if ticket is None:
            return "the server has too many connections"
        session = Session(self, self.timeouts, client=False)
        self._tickets[session] = ticket
        return Admitted(session, lambda: self._release(session))

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        admitted = self.admit(getattr(addr, "host", "local"))
        if isinstance(admitted, str):
            return TurnedAway(admitted, self.clock)
        protocol = JetStreamProtocol(
            admitted.session, self.handshake(), self._record_limits, admitted.release
        )
        protocol.factory = self
        return protocol

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        if self._access is not None:
            self._access(session, service)
        return super().accept(session, service)

    @property
    def authenticates(self) -> bool:
        overridden = type(self).authenticate is not JetStreamServerFactory.authenticate
        return overridden or self._authenticate is not None

    def authenticate(self, session: Session, hello: Hello) -> Deferred[object] | None:
        return None if self._authenticate is None else self._authenticate(session, hello)

    def session_made(self, session: Session) -> None:
        self.admission.established(self._tickets[session])
        super().session_made(session)

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None:
        super().session_lost(session, reason)
        if reason is not None:
            _log.info("{peer}: {reason}", peer=session.peer.address, reason=str(reason))

    def drain(self, reason: str = "the server is shutting down") -> Deferred[Any]:
        """Accept nobody new and let every session finish; fires when they are gone."""
        self._draining = True
        waiting = [session.drain(reason) for session in tuple(self._tickets)]
        return DeferredList(waiting)

    def _release(self, session: Session) -> None:
        ticket = self._tickets.pop(session, None)
        if ticket is not None:
            self.admission.release(ticket)


class JetStreamClientFactory(SessionFactory, ClientFactory):
    """Makes sessions with a server: give it to `connectTCP` or to a client endpoint.

    `trust` decides which server is believed; `host` is the name told to it (SNI), checked here:
    `ConfigurationError` if it is none. `identity` is
    shown if the server asks for a certificate, `credentials` are a user name and password.
    `services` are offered to the server, which may open channels too.
    """

    def __init__(
        self,
        trust: Trust,
        *,
        host: str | None = None,
        identity: Identity | None = None,
        credentials: tuple[str, str] | None = None,
        services: Mapping[str, Service] | None = None,
        settings: SessionSettings = DEFAULT_SETTINGS,
        ciphers: Sequence[Cipher] = DEFAULT_CIPHERS,
        record_limits: RecordLimits = DEFAULT_LIMITS,
        reactor: IReactorTime | None = None,
    ) -> None:
        tls = TlsContext(Role.CLIENT, identity=identity, trust=trust, ciphers=ciphers)
        super().__init__(tls, services, settings, record_limits, reactor)
        self._server_name = None if host is None else canonical_name(host)
        self._credentials = credentials

    def new_session(self) -> Session:
        """A session for a connection to the server that is about to be made."""
        return Session(self, self.timeouts, client=True)

    def buildProtocol(self, addr: IAddress | None) -> JetStreamProtocol:
        protocol = JetStreamProtocol(self.new_session(), self.handshake(), self._record_limits)
        protocol.factory = self
        return protocol

    def credentials(self) -> tuple[str, str] | None:
        return self._credentials
