"""Relays: services that one process must have all of are reached through the other processes.

For every client that uses such a service a worker has a session with that process, the backend,
over a UNIX socket, in which it says who the client is. The client's channels are carried over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import ChannelReset, JetStreamError
from jetstreamproto.factory import JetStreamClientFactory, Service
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.workers.backend import describe_peer
from jetstreamproto.services.offer import Offer
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings

FindSession = Callable[[Session], Deferred[Session]]
"""The session that a channel of the given one is carried over to."""


class Relay(ChannelProtocol):
    """One end of a channel that is carried over to a channel of another session.

    The end that the peer has opened is given `find`; it makes the other one.
    """

    def __init__(self, find: FindSession | None, partner: Relay | None = None) -> None:
        self._find = find
        self._partner = partner
        self._opening: Deferred[Any] | None = None
        self._joined = False

    def channel_opened(self) -> None:
        if self._find is None:
            assert self._partner is not None
            self._partner.join(self)
            self.join(self._partner)
            return
        channel = self.channel
        channel.pauseProducing()  # until there is somebody to carry it to
        far = Relay(None, self)
        self._opening = self._find(channel.session)
        self._opening.addCallback(
            lambda session: session.open(
                channel.service,
                far,
                urgency=channel.urgency,
                mode=channel.mode,
                deadline=channel.deadline,
                secret=True,  # what is within one machine is not worth compressing
            )
        )
        self._opening.addErrback(self._refused)

    def join(self, partner: Relay) -> None:
        """Carry everything over to `partner` from now on, no faster than it is taken there."""
        self._partner = partner
        self._joined = True
        self._opening = None
        self.channel.registerProducer(_Source(partner.channel), True)
        self.channel.resumeProducing()

    def message_received(self, message: bytes) -> None:
        assert self._partner is not None
        self._partner.channel.send(message)

    def end_received(self) -> None:
        if self._joined and self._partner is not None:
            self._partner.channel.end()

    def session_closing(self) -> None:
        if self._joined and self._partner is not None:
            self._partner.channel.end()  # the other side finishes, and ends its direction too
        else:
            self.channel.reset(ResetCode.GOING_AWAY, "the session is ending")

    def channel_closed(self, reason: JetStreamError | None) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        partner, self._partner = self._partner, None
        if reason is None or partner is None or not self._joined:
            return
        if isinstance(reason, ChannelReset):
            partner.channel.reset(reason.code, reason.reason)
        else:
            partner.channel.reset(ResetCode.GOING_AWAY, "the other session was lost")

    def _refused(self, failure: Failure) -> None:
        if self._opening is None:
            return  # given up
        self._opening = None
        error = failure.value
        if isinstance(error, ChannelReset):
            self.channel.reset(error.code, error.reason)
        else:
            self.channel.reset(ResetCode.GOING_AWAY, f"the backend is not there: {error}")


@implementer(IPushProducer)
class _Source:
    """What a channel sends comes from another one, which is told how by the relay alone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def pauseProducing(self) -> None:
        self._channel.pauseProducing()

    def resumeProducing(self) -> None:
        self._channel.resumeProducing()

    def stopProducing(self) -> None:
        """`channel_closed` follows, which knows why."""


class BackendFactory(JetStreamClientFactory):
    """Makes the session with the backend for one client, in which the backend may reach it."""

    def __init__(self, client: Session, identity: Identity, settings: SessionSettings) -> None:
        super().__init__(
            PinnedKeys([identity.fingerprint]),
            identity=identity,
            credentials=describe_peer(client),
            settings=settings,
            reactor=client.clock,
        )
        self._client = client

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        return Relay(self._find)

    def _find(self, _: Session) -> Deferred[Session]:
        found: Deferred[Session] = Deferred()
        found.callback(self._client)
        return found


class BackendSessions:
    """The sessions of one worker with the backend that listens at the UNIX socket `path`."""

    def __init__(
        self, reactor: Any, path: str, identity: Identity, settings: SessionSettings
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._identity = identity
        self._settings = settings
        self._opening: dict[Session, list[Deferred[Session]]] = {}
        self._open: dict[Session, Session] = {}

    def find(self, client: Session) -> Deferred[Session]:
        """The session with the backend that is `client`'s, made for the first who asks."""
        waiter: Deferred[Session] = Deferred()
        session = self._open.get(client)
        if session is not None and session.accepts_channels:
            waiter.callback(session)
            return waiter
        waiting = self._opening.setdefault(client, [])
        waiting.append(waiter)
        if len(waiting) == 1:
            connecting = Deferred.fromCoroutine(self._connect(client))
            connecting.addBoth(self._connected, client)
        return waiter

    async def _connect(self, client: Session) -> Session:
        factory = BackendFactory(client, self._identity, self._settings)
        timeout = self._settings.handshake_timeout
        endpoint = UNIXClientEndpoint(self._reactor, self._path, timeout=timeout)
        protocol: Any = await endpoint.connect(factory)
        session: Session = await protocol.when_connected()
        client.when_closed().addBoth(lambda _: session.close())
        self._open[client] = session
        session.when_closed().addBoth(lambda _: self._gone(client, session))
        return session

    def _connected(self, result: Session | Failure, client: Session) -> None:
        for waiter in self._opening.pop(client):
            if not waiter.called:
                waiter.callback(result)

    def _gone(self, client: Session, session: Session) -> None:
        if self._open.get(client) is session:
            del self._open[client]


def relays(
    identity: Identity, offers: Sequence[Offer], settings: SessionSettings, path: str
) -> dict[str, Service]:
    """A worker's services that are the backend's, which listens at `path`."""
    from twisted.internet import reactor

    sessions = BackendSessions(reactor, path, identity, settings)
    single = [name for offer in offers if offer.single for name in offer.services]
    return {name: lambda: Relay(sessions.find) for name in single}
