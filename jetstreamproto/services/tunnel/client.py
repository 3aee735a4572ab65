"""The client's side: ports of this host whose connections go out at the server, and the reverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from jetstreamproto.errors import ChannelReset, JetStreamError, SessionClosed
from jetstreamproto.factory import Service
from jetstreamproto.services.tunnel.calling import AcceptedTcp, call
from jetstreamproto.services.tunnel.dialling import Dialler, Resolve
from jetstreamproto.services.tunnel.messages import Purpose, Request
from jetstreamproto.services.tunnel.model import (
    DEFAULT_LIMITS,
    TUNNEL,
    TunnelLimits,
    show_address,
)
from jetstreamproto.services.tunnel.relay import Answering, Calling, Relay
from jetstreamproto.services.tunnel.service import refuse
from jetstreamproto.services.tunnel.socks5 import (
    SocksConversation,
    SocksError,
    SocksReply,
    SocksTarget,
    encode_reply,
    reply_for,
)
from jetstreamproto.services.tunnel.tcp import TcpSide
from jetstreamproto.session.codes import DEFAULT_URGENCY, ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

Address = tuple[str, int]
"""A host and a port."""

_BACKLOG = 128


class Carried:
    """One connection: who made it, and to where; `relay` is there once it is being carried."""

    def __init__(self, number: int, origin: str, target: str, started: float) -> None:
        self.number = number
        self.origin = origin
        self.target = target
        self.started = started
        self.relay: Relay | None = None


class Watcher:
    """Told of connections; override what matters. Those of SOCKS are told of with their target."""

    def opened(self, connection: Carried) -> None:
        """The target has been connected to."""

    def closed(self, connection: Carried, reason: JetStreamError | None) -> None:
        """It is over: None if both sides ended it."""

    def failed(self, connection: Carried, reason: JetStreamError) -> None:
        """There was no connection to the target."""


class TunnelClient:
    """Forwards connections through whichever session `get_session` returns a Deferred of.

    That is waited for `session_wait` seconds. `services` are for the factory of the sessions:
    without them the server cannot hand over what it accepts for us.
    """

    def __init__(
        self,
        reactor: Any,
        get_session: Callable[[], Deferred[Session]],
        resolve: Resolve,
        *,
        limits: TunnelLimits = DEFAULT_LIMITS,
        urgency: int = DEFAULT_URGENCY,
        watcher: Watcher | None = None,
        session_wait: float = 10.0,
    ) -> None:
        self.services: Mapping[str, Service] = {TUNNEL: self._make}
        self.reactor = reactor
        self.limits = limits
        self.watcher = watcher or Watcher()
        self._get_session = get_session
        self._dialler = Dialler(reactor, resolve, limits)
        self._urgency = urgency
        self._session_wait = session_wait
        self._ports: list[IListeningPort] = []
        self._remote: dict[tuple[Session, int], Address] = {}
        self._tcp: set[TcpSide] = set()
        self._number = 0

    # --- forwards ---------------------------------------------------------------------------

    def listen_local(self, bind: str, port: int, target: Address) -> Address:
        """Carry connections to a port of ours to `target`, as seen from the server.

        Returns where it listens. Raises Twisted's `CannotListenError`.
        """
        return self._listen(bind, port, lambda tcp, origin: self._accept(tcp, origin, target))

    def listen_socks(self, bind: str, port: int) -> Address:
        """The same, where each connection says by SOCKS5 what its target is."""
        return self._listen(bind, port, self._accept_socks)

    async def listen_remote(
        self, session: Session, bind: str, port: int, target: Address
    ) -> tuple[Address, Deferred[None]]:
        """Have the server listen, and carry its connections to `target`, as seen from here.

        Returns where it listens, for as long as the session lasts, and a Deferred that fires when
        it does no more. Raises `ChannelReset` if it will not, or `SessionClosed`.
        """
        if not session.accepts_channels:
            raise SessionClosed("the session is closing")
        listener = Calling(Request(Purpose.LISTEN, bind, port), self.limits.answer_timeout)
        opening = session.open(TUNNEL, listener, secret=True)
        listener.ask()
        opening.addErrback(listener.refused)
        key = (session, listener.channel.id)
        self._remote[key] = target

        def forget(_: object) -> None:
            self._remote.pop(key, None)

        closed = listener.channel.when_closed().addBoth(forget)
        try:
            reply = await listener.answered
        except BaseException:
            listener.reset(ResetCode.CANCELLED, "")
            raise
        return (reply.host, reply.port), closed

    def stop(self) -> Deferred[Any]:
        """Listen no more, and reset what is being carried."""
        ports, self._ports = self._ports, []
        stopping = DeferredList([maybeDeferred(port.stopListening) for port in ports])
        for tcp in tuple(self._tcp):
            if isinstance(tcp.user, Relay):
                tcp.user.reset(ResetCode.CANCELLED, "the tunnel is closed")
            else:
                tcp.abort()
        return stopping

    def _listen(self, bind: str, port: int, accepted: Callable[[TcpSide, Any], None]) -> Address:
        listening = self.reactor.listenTCP(
            port, _Accepting(accepted), backlog=_BACKLOG, interface=bind
        )
        self._ports.append(listening)
        host = listening.getHost()
        return host.host, host.port

    # --- connections that were accepted here --------------------------------------------------

    def _accept(self, tcp: TcpSide, origin: Any, target: Address) -> None:
        if self._count(tcp):
            tcp.transport.pauseProducing()  # until there is a session
            self._carry(tcp, self._carried(origin, target), target)

    def _accept_socks(self, tcp: TcpSide, origin: Any) -> None:
        if self._count(tcp):
            _SocksClient(self, tcp, origin)

    def _count(self, tcp: TcpSide) -> bool:
        """Whether there may be one connection more; otherwise it is reset."""
        self._tcp = {one for one in self._tcp if not one.lost}
        if len(self._tcp) >= self.limits.connections:
            tcp.abort()
            return False
        self._tcp.add(tcp)
        return True

    def _carried(self, origin: Any, target: Address) -> Carried:
        self._number += 1
        shown = show_address(origin.host, origin.port)
        return Carried(self._number, shown, show_address(*target), self.reactor.seconds())

    def carry_socks(
        self, client: _SocksClient, tcp: TcpSide, origin: Any, ask: SocksTarget
    ) -> None:
        """Carry a connection whose target is known now."""
        target = (ask.host, ask.port)
        tcp.transport.pauseProducing()
        self._carry(tcp, self._carried(origin, target), target, ask.rest, client)

    def _carry(
        self,
        tcp: TcpSide,
        connection: Carried,
        target: Address,
        received: bytes = b"",
        socks: _SocksClient | None = None,
    ) -> None:
        async def run() -> None:
            session = await self._session()
            if tcp.lost:
                return
            request = Request(Purpose.CONNECT, *target)
            connection.relay = relay = call(
                session,
                request,
                tcp,
                self.limits.answer_timeout,
                received,
                urgency=self._urgency,
                on_gone=lambda reason: self._gone(connection, reason),
            )
            tcp.transport.resumeProducing()
            try:
                reply = await relay.answered
            except JetStreamError:
                if socks is not None:
                    relay.part()
                raise
            if socks is not None:
                tcp.write(encode_reply(SocksReply.SUCCEEDED, reply.host, reply.port))
            self.watcher.opened(connection)

        def failed(failure: Failure) -> None:
            reason = failure.value
            connection.relay = None
            if socks is not None:
                socks.refuse(reply_for(getattr(reason, "code", 0)))
            else:
                tcp.abort()
            if isinstance(reason, JetStreamError):
                self.watcher.failed(connection, reason)
            else:
                failure.raiseException()

        Deferred.fromCoroutine(run()).addErrback(failed)

    async def _session(self) -> Session:
        late = SessionClosed("there is no session with the server")

        def timed_out(_result: object, _seconds: float) -> Session:
            raise late

        getting = self._get_session()
        try:
            return await getting.addTimeout(self._session_wait, self.reactor, timed_out)
        except CancelledError:
            raise late from None

    def _gone(self, connection: Carried, reason: JetStreamError | None) -> None:
        if connection.relay is not None:
            self.watcher.closed(connection, reason)

    # --- connections that were accepted by the server -------------------------------------------

    def _make(self) -> ChannelProtocol:
        return Answering(self._asked, self.limits.request_timeout)

    def _asked(self, relay: Answering, request: Request) -> None:
        target = self._remote.get((relay.channel.session, request.listener))
        if request.purpose != Purpose.ACCEPTED or target is None:
            relay.reset(ResetCode.NOT_ALLOWED, "nobody asked for that")
            return
        working = relay.working = Deferred.fromCoroutine(self._connect(relay, request, target))
        working.addErrback(refuse, relay)

    async def _connect(self, relay: Answering, request: Request, target: Address) -> None:
        self._number += 1
        origin = show_address(request.host, request.port)
        connection = Carried(self._number, origin, show_address(*target), self.reactor.seconds())
        self._tcp = {one for one in self._tcp if not one.lost}
        try:
            if len(self._tcp) >= self.limits.connections:
                raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many connections")
            tcp = await self._dialler.dial(*target)
        except JetStreamError as error:
            self.watcher.failed(connection, error)
            raise
        self._tcp.add(tcp)
        connection.relay = relay
        relay.on_gone = lambda reason: self._gone(connection, reason)
        relay.answer(tcp)
        self.watcher.opened(connection)


class _Accepting(Factory):
    noisy = False

    def __init__(self, accepted: Callable[[TcpSide, Any], None]) -> None:
        self._accepted = accepted

    def buildProtocol(self, addr: IAddress | None) -> AcceptedTcp:
        return AcceptedTcp(self._accepted, addr)


class _SocksClient:
    """Finds out what a client wants to be connected to, within `socks_timeout`."""

    def __init__(self, tunnel: TunnelClient, tcp: TcpSide, origin: Any) -> None:
        self._tunnel = tunnel
        self._tcp = tcp
        self._origin = origin
        self._conversation = SocksConversation()
        tcp.user = self
        self._timer = tunnel.reactor.callLater(tunnel.limits.socks_timeout, tcp.abort)

    def refuse(self, reply: SocksReply) -> None:
        """Tell the client that there is no connection, and close."""
        self._tcp.write(encode_reply(reply))
        self._tcp.user = None
        self._tcp.close()

    def tcp_received(self, data: bytes) -> None:
        try:
            answer, target = self._conversation.receive(data)
        except SocksError as error:
            self._stop()
            self._tcp.write(error.answer)
            self._tcp.close()
            return
        if answer:
            self._tcp.write(answer)
        if target is not None:
            self._stop()
            self._tunnel.carry_socks(self, self._tcp, self._origin, target)

    def tcp_ended(self) -> None:
        self._stop()
        self._tcp.close()

    def tcp_lost(self, reason: Failure) -> None:
        self._stop()

    def _stop(self) -> None:
        self._tcp.user = None
        if self._timer.active():
            self._timer.cancel()
