"""The server's side: connects clients to targets, and listens for them, as the rules allow."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import CannotListenError, ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelReset, JetStreamError
from jetstreamproto.services.offer import Offer, Permissions
from jetstreamproto.services.tunnel.calling import AcceptedTcp, call
from jetstreamproto.services.tunnel.dialling import Dialler, Resolve, not_allowed
from jetstreamproto.services.tunnel.messages import REPLY, Purpose, Reply, Request
from jetstreamproto.services.tunnel.model import (
    DEFAULT_LIMITS,
    LISTEN,
    TARGETS,
    TUNNEL,
    TargetRules,
    TunnelCode,
    TunnelLimits,
    read_address,
    show_address,
)
from jetstreamproto.services.tunnel.relay import Answering
from jetstreamproto.services.tunnel.tcp import TcpSide
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

_log = Logger()

_BACKLOG = 128


class Guest:
    """What the tunnel does for one session's peer."""

    def __init__(self, dialler: Dialler) -> None:
        self.dialler = dialler
        self.connections = 0
        self.listeners = 0


class TunnelOffer(Offer):
    """The service `tunnel`. What a client may do is up to the scopes `targets` and `listen`; what
    they do not name is refused."""

    def __init__(
        self, permissions: Permissions, resolve: Resolve, limits: TunnelLimits = DEFAULT_LIMITS
    ) -> None:
        super().__init__({TUNNEL: self._make})
        self.limits = limits
        self._permissions = permissions
        self._resolve = resolve
        self._reactor: Any = None
        self._guests: WeakKeyDictionary[Session, Guest] = WeakKeyDictionary()

    def start(self, reactor: Any) -> None:
        self._reactor = reactor

    def _make(self) -> ChannelProtocol:
        return Answering(self._asked, self.limits.request_timeout)

    def rules(self, session: Session, scope: str) -> TargetRules:
        """What the session's peer may reach."""
        return TargetRules(self._permissions(session, TUNNEL, scope))

    def guest(self, session: Session) -> Guest:
        """What is counted for the session."""
        guest = self._guests.get(session)
        if guest is None:
            guest = Guest(Dialler(self._reactor, self._resolve, self.limits))
            self._guests[session] = guest
        return guest

    def _asked(self, relay: Answering, request: Request) -> None:
        if request.purpose == Purpose.CONNECT:
            work = self._connect(relay, request)
        elif request.purpose == Purpose.LISTEN:
            work = self._listen(relay, request)
        else:
            relay.reset(ResetCode.BAD_MESSAGE, f"a server takes no {request.purpose.name}")
            return
        working = relay.working = Deferred.fromCoroutine(work)
        working.addErrback(refuse, relay)

    async def _connect(self, relay: Answering, request: Request) -> None:
        session = relay.channel.session
        guest = self.guest(session)
        if guest.connections >= self.limits.connections:
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many connections in this session")
        guest.connections += 1

        def gone(_reason: JetStreamError | None) -> None:
            guest.connections -= 1

        relay.on_gone = gone
        rules = self.rules(session, TARGETS)
        relay.answer(await guest.dialler.dial(request.host, request.port, rules))

    async def _listen(self, relay: Answering, request: Request) -> None:
        session = relay.channel.session
        guest = self.guest(session)
        address = read_address(request.host)
        if address is None:
            raise ChannelReset(ResetCode.BAD_MESSAGE, f"{request.host!r} is not an IP address")
        where = show_address(str(address), request.port)
        if not self.rules(session, LISTEN).allow_address(address, request.port):
            raise not_allowed(where)
        if guest.listeners >= self.limits.listeners:
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many listeners in this session")
        factory = _Accepting(self, relay, guest)
        try:
            port = self._reactor.listenTCP(
                request.port, factory, backlog=_BACKLOG, interface=str(address)
            )
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise ChannelReset(TunnelCode.CANNOT_LISTEN, f"{where}: {why}") from error
        guest.listeners += 1
        _log.info(
            "{peer} has this server listen on {where}",
            peer=session.peer.address,
            where=show_address(port.getHost().host, port.getHost().port),
        )

        def gone(_reason: JetStreamError | None) -> None:
            guest.listeners -= 1
            maybeDeferred(port.stopListening)

        relay.on_gone = gone
        self._tell(relay, port)

    def _tell(self, relay: Answering, port: IListeningPort) -> None:
        host: Any = port.getHost()
        relay.channel.send(REPLY.encode(Reply(host.host, host.port)))
        relay.channel.resumeProducing()


def refuse(failure: Failure, relay: Answering) -> None:
    """Tell the peer why its request failed, unless it has given up itself."""
    if failure.check(ChannelReset):
        refusal: Any = failure.value
        relay.reset(refusal.code, refusal.reason)
    elif not failure.check(CancelledError, ConnectingCancelledError):
        _log.failure("a tunnel's request failed", failure)
        relay.reset(ResetCode.INTERNAL_ERROR, "the tunnel failed")


class _Accepting(Factory):
    """Accepts the connections to a port that a client has the server listen on."""

    noisy = False

    def __init__(self, offer: TunnelOffer, relay: Answering, guest: Guest) -> None:
        self._offer = offer
        self._relay = relay
        self._guest = guest

    def buildProtocol(self, addr: IAddress | None) -> AcceptedTcp:
        return AcceptedTcp(self.accepted, addr)

    def accepted(self, tcp: TcpSide, origin: Any) -> None:
        """Offer a connection to the client."""
        guest, channel = self._guest, self._relay.channel
        if guest.connections >= self._offer.limits.connections:
            tcp.abort()
            return
        guest.connections += 1

        def gone(_reason: JetStreamError | None) -> None:
            guest.connections -= 1

        host = origin.host.partition("%")[0]
        request = Request(Purpose.ACCEPTED, host, origin.port, channel.id)
        timeout = self._offer.limits.answer_timeout
        relay = call(channel.session, request, tcp, timeout, on_gone=gone)
        relay.answered.addErrback(lambda _: None)  # then it is reset already
