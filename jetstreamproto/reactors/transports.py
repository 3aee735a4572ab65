"""Twisted's own transports, with sockets that have a profile.

They are what a tuned reactor makes in the place of their base classes. Each takes the profile
from whoever made it: a server's connection from its port, a client's from its connector.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from twisted.internet import tcp, udp
from twisted.logger import Logger

from jetstreamproto.sockets.offload import BatchingPort
from jetstreamproto.sockets.options import ON_LINUX, QUICK_ACK, REUSE_ADDRESS, Setting
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, Moment, SocketProfile

_log = Logger()


class _Acknowledging:
    """Has the kernel acknowledge at once what was read, where the profile says so.

    TCP_QUICKACK is not kept by the kernel (tcp(7)), so it is set again after each read: after the
    protocol had the data, so that an answer of its own carries the acknowledgement.
    """

    socket_profile: SocketProfile = DEFAULT_PROFILE

    def _dataReceived(self, data: bytes) -> Any:
        result = super()._dataReceived(data)  # type: ignore[misc]
        if self.socket_profile.quick_ack and result is None:
            handle = getattr(self, "socket", None)  # not once the connection was lost meanwhile
            if handle is not None:
                QUICK_ACK.set(handle, 1)
        return result


class TunedServer(_Acknowledging, tcp.Server):  # type: ignore[misc]
    """A connection that was accepted."""

    def __init__(
        self,
        skt: socket.socket,
        protocol: Any,
        client: Any,
        server: Any,
        sessionno: int,
        reactor: Any = None,
    ) -> None:
        super().__init__(skt, protocol, client, server, sessionno, reactor)
        if server is not None:
            self.tune(server.socket_profile, inherited=ON_LINUX)

    def tune(self, profile: SocketProfile, *, inherited: bool = False) -> None:
        """Take this profile; `inherited` if the socket that listened has left it its options."""
        self.socket_profile = profile
        try:
            if not inherited:
                profile.tune(self.socket)
                return
            if profile.quick_ack:
                QUICK_ACK.set(self.socket, 1)
            profile.tune_local(self.socket)
            if profile.also is not None:
                profile.also(self.socket, Moment.CONNECTED)
        except Exception:  # of the application's, which must not keep others from being accepted
            _log.failure("tuning a connection")


class TunedPort(tcp.Port):
    """A TCP port that listens."""

    transport = TunedServer  # type: ignore[assignment]
    socket_profile: SocketProfile = DEFAULT_PROFILE
    settings: list[Setting] | None = None
    """What became of the options of the profile."""

    def createInternetSocket(self) -> socket.socket:
        handle: socket.socket = super().createInternetSocket()
        self.settings = self.socket_profile.apply(handle, Moment.LISTENING)
        if not self._reuseAddress:  # type: ignore[attr-defined]  # so says the binding that was given for a port
            REUSE_ADDRESS.set(handle, 0)
        return handle


class TunedClient(_Acknowledging, tcp.Client):  # type: ignore[misc]
    """A connection that is being made, or was."""

    def createInternetSocket(self) -> socket.socket:
        handle: socket.socket = super().createInternetSocket()
        connector: Any = self.connector
        self.socket_profile = connector.socket_profile
        self.settings = self.socket_profile.apply(
            handle, Moment.CONNECTING, speaks_first=connector.speaks_first
        )
        return handle

    def _connectDone(self) -> None:
        self.socket_profile.tune_local(self.socket)
        super()._connectDone()


class TunedConnector(tcp.Connector):
    """Makes a connection, and makes it again when asked."""

    client = TunedClient
    socket_profile: SocketProfile = DEFAULT_PROFILE
    speaks_first = False

    def _makeTransport(self) -> tcp.Client:
        return self.client(self.host, self.port, self.bindAddress, self, self.reactor)


class _TunedDatagrams:
    """A UDP port."""

    socket_profile: SocketProfile = DEFAULT_PROFILE
    settings: list[Setting] | None = None

    def createInternetSocket(self) -> socket.socket:
        handle: socket.socket = super().createInternetSocket()  # type: ignore[misc]
        self.settings = self.socket_profile.apply(handle, Moment.DATAGRAMS)
        return handle


class TunedDatagramPort(_TunedDatagrams, udp.Port):
    """A UDP port."""


class TunedMulticastPort(_TunedDatagrams, udp.MulticastPort):
    """A UDP port that may join groups."""


@dataclass(frozen=True)
class TransportClasses:
    """The classes of which a tuned reactor makes its transports.

    A reactor with transports of its own has subclasses of the tuned ones here.
    """

    port: type[TunedPort] = TunedPort
    server: type[TunedServer] = TunedServer
    connector: type[TunedConnector] = TunedConnector
    datagrams: type[TunedDatagramPort] = TunedDatagramPort
    multicast: type[TunedMulticastPort] = TunedMulticastPort
    batching: type[BatchingPort] = BatchingPort
