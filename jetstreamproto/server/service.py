"""The service that `twistd` starts and stops: listening sockets, and the factory behind them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.reactors.profiled import profiled
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.server.listeners import Listeners
from jetstreamproto.server.signals import StopSignals
from jetstreamproto.services.offer import Offer
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, SocketProfile

if TYPE_CHECKING:
    from jetstreamproto.server.datagrams import DatagramListener
    from jetstreamproto.server.workers.forwarding import Mailbox

_log = Logger(namespace="jetstream")


class JetStreamService(Service):
    """Serves a factory on sockets that are bound already, which it owns from now on.

    Once it runs it logs `announcement`. When it stops, sessions are told, and have the drain
    timeout of their settings to finish. `mailboxes` are of the UDP sockets, if they are shared with
    other processes. The sockets have `profile`. SIGINT and SIGTERM stop the reactor, see
    `StopSignals`.
    """

    def __init__(
        self,
        factory: JetStreamServerFactory,
        listeners: Listeners,
        announcement: Sequence[str],
        reactor: Any = None,
        datagram_settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
        offers: Sequence[Offer] = (),
        mailboxes: Sequence[Mailbox] = (),
        profile: SocketProfile = DEFAULT_PROFILE,
    ) -> None:
        self.factory = factory
        self._offers = offers
        self._mailboxes = mailboxes
        self._profile = profile
        self._listeners = listeners
        self._announcement = announcement
        self._reactor = reactor
        self._datagram_settings = datagram_settings
        self._ports: list[IListeningPort] = []
        self._datagrams: list[DatagramListener] = []

    def startService(self) -> None:
        super().startService()
        self.start()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self.stop()

    def start(self) -> None:
        """Accept connections, and say where once signals are handled as they should be."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._reactor = profiled(self._reactor, self._profile)
        self._start_offers()
        listeners, self._listeners = self._listeners, Listeners()
        for listener in listeners.streams:
            with listener:  # the reactor has its own descriptor of it
                port = self._reactor.adoptStreamPort(
                    listener.fileno(), listener.family, self.factory
                )
            self._ports.append(port)
        self._datagrams = [
            self._start_datagrams(bound, listeners.transports, mailbox)
            for bound, mailbox in zip_longest(listeners.datagrams, self._mailboxes)
        ]
        self._reactor.callWhenRunning(self._running)

    def _start_offers(self) -> None:
        for offer in self._offers:
            try:
                offer.start(self._reactor)
            except ConfigurationError as error:  # a damaged database, say
                _log.critical("{error}", error=str(error))
                raise SystemExit(f"twistd jetstream: {error}") from None

    def _start_datagrams(
        self, bound: socket.socket, transports: Sequence[str], mailbox: Mailbox | None
    ) -> DatagramListener:
        from jetstreamproto.server.datagrams import DatagramListener  # TCP alone needs none of it

        settings = self._datagram_settings
        return DatagramListener(self._reactor, bound, self.factory, settings, transports, mailbox)

    def stop(self) -> Deferred[Any]:
        """Accept nobody new and drain the sessions; fires when they are gone."""
        self._listeners.close()
        if self.factory.sessions:
            _log.info(
                "telling {count} session(s) to finish within {seconds:g} s",
                count=len(self.factory.sessions),
                seconds=self.factory.settings.drain_timeout,
            )
        ports, self._ports = self._ports, []
        closing: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in ports]
        return DeferredList([*closing, Deferred.fromCoroutine(self._drain())])

    async def _drain(self) -> None:
        """UDP sockets are needed until the last of their sessions has ended."""
        await self.factory.drain()
        datagrams, self._datagrams = self._datagrams, []
        await DeferredList([Deferred.fromCoroutine(one.stop()) for one in datagrams])
        await DeferredList([maybeDeferred(offer.stop) for offer in self._offers])

    def abort(self) -> None:
        """Drop the sessions that have not finished yet."""
        for session in tuple(self.factory.sessions):
            session.abort()

    def _running(self) -> None:
        StopSignals(self._reactor, self.abort).install()
        for line in self._announcement:
            _log.info("{line}", line=line)
