"""The service that `twistd` starts and stops: listening sockets, and the factory behind them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.server.signals import StopSignals

_log = Logger(namespace="jetstream")


class JetStreamService(Service):
    """Serves a factory on sockets that listen already, which it owns from now on.

    Once it runs it logs `announcement`. When it stops, sessions are told, and have the drain
    timeout of their settings to finish. SIGINT and SIGTERM stop the reactor, see `StopSignals`.
    """

    def __init__(
        self,
        factory: JetStreamServerFactory,
        listeners: Sequence[socket.socket],
        announcement: Sequence[str],
        reactor: Any = None,
    ) -> None:
        self.factory = factory
        self._listeners = list(listeners)
        self._announcement = announcement
        self._reactor = reactor
        self._ports: list[IListeningPort] = []

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
        for listener in self._listeners:
            with listener:  # the reactor has its own descriptor of it
                port = self._reactor.adoptStreamPort(
                    listener.fileno(), listener.family, self.factory
                )
            self._ports.append(port)
        self._listeners.clear()
        self._reactor.callWhenRunning(self._running)

    def stop(self) -> Deferred[Any]:
        """Accept nobody new and drain the sessions; fires when they are gone."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self.factory.sessions:
            _log.info(
                "telling {count} session(s) to finish within {seconds:g} s",
                count=len(self.factory.sessions),
                seconds=self.factory.settings.drain_timeout,
            )
        ports, self._ports = self._ports, []
        closing: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in ports]
        return DeferredList([*closing, self.factory.drain()])

    def abort(self) -> None:
        """Drop the sessions that have not finished yet."""
        for session in tuple(self.factory.sessions):
            session.abort()

    def _running(self) -> None:
        StopSignals(self._reactor, self.abort).install()
        for line in self._announcement:
            _log.info("{line}", line=line)
