"""What a reactor with a profile does when it is asked to listen, to connect or to adopt."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Any

from jetstreamproto.reactors.transports import TransportClasses
from jetstreamproto.sockets.profiles import Moment, SocketProfile

INTERNET = (socket.AF_INET, socket.AF_INET6)
"""The address families whose sockets are tuned."""


@dataclass(frozen=True)
class Tuning:
    """Makes the transports of `reactor` with a profile.

    Arguments and errors are those of Twisted's `IReactorTCP`, `IReactorUDP`, `IReactorMulticast`
    and `IReactorSocket`. `speaks_first`: clients write before they read, so that their first bytes
    may travel with the SYN.
    """

    reactor: Any
    profile: SocketProfile
    classes: TransportClasses = field(default_factory=TransportClasses)
    speaks_first: bool = False

    def listen_tcp(self, port: Any, factory: Any, backlog: int, interface: str) -> Any:
        listener = self.classes.port(port, factory, backlog, interface, self.reactor)
        listener.transport = self.classes.server
        return self._started(listener)

    def connect_tcp(
        self, host: str, port: int, factory: Any, timeout: float, bind_address: Any
    ) -> Any:
        connector = self.classes.connector(
            host,
            port,
            factory,
            timeout,
            bind_address,
            self.reactor,
        )
        connector.socket_profile = self.profile
        connector.speaks_first = self.speaks_first
        connector.connect()
        return connector

    def listen_udp(self, port: int, protocol: Any, interface: str, max_packet_size: int) -> Any:
        return self._started(
            self.classes.datagrams(port, protocol, interface, max_packet_size, self.reactor)
        )

    def listen_multicast(
        self, port: int, protocol: Any, interface: str, max_packet_size: int, multiple: bool
    ) -> Any:
        return self._started(
            self.classes.multicast(
                port, protocol, interface, max_packet_size, self.reactor, multiple
            )
        )

    def adopt_port(self, descriptor: int, family: Any, factory: Any) -> Any:
        listener = self.classes.port._fromListeningDescriptor(
            self.reactor, descriptor, family, factory
        )
        listener.transport = self.classes.server
        return self._adopted(listener, Moment.ADOPTED)

    def adopt_connection(self, descriptor: int, family: Any, factory: Any) -> Any:
        with socket.socket(family, socket.SOCK_STREAM, fileno=os.dup(descriptor)) as handle:
            self.profile.tune(handle)
        transport: Any = self.classes.server._fromConnectedSocket(
            descriptor, family, factory, self.reactor
        )
        if transport is not None:  # the factory may have refused it
            transport.socket_profile = self.profile
        return transport

    def adopt_datagrams(
        self, descriptor: int, family: Any, protocol: Any, max_packet_size: int
    ) -> Any:
        port: Any = self.classes.datagrams._fromListeningDescriptor(
            self.reactor, descriptor, family, protocol, maxPacketSize=max_packet_size
        )
        return self._adopted(port, Moment.DATAGRAMS)

    def _started(self, port: Any) -> Any:
        port.socket_profile = self.profile
        port.startListening()
        return port

    def _adopted(self, port: Any, moment: Moment) -> Any:
        port.settings = self.profile.apply(port._preexistingSocket, moment)
        return self._started(port)
