"""The hook: a reactor of which every TCP and UDP socket has a profile before it is used.

`install`, or `twistd --reactor=jetstream-epoll`, covers all of a process, also what knows nothing
of us: listenTCP, connectTCP, listenSSL, connectSSL, listenUDP, listenMulticast, adopt* and all
endpoints end here. `profiled` gives some of it another profile:

    TCP4ServerEndpoint(profiled(reactor, "bulk"), 8080).listen(factory)
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.main import installReactor
from twisted.logger import Logger

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reactors.transports import TransportClasses
from jetstreamproto.reactors.tuning import INTERNET, Tuning
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, SocketProfile, find_profile

try:
    from twisted.internet.epollreactor import EPollReactor as BaseReactor

    _INSTEAD = ""
except ImportError:  # a system without epoll: what Twisted itself would take there
    try:
        from twisted.internet.pollreactor import PollReactor as BaseReactor  # type: ignore[assignment]

        _INSTEAD = "poll"
    except ImportError:
        from twisted.internet.selectreactor import SelectReactor as BaseReactor

        _INSTEAD = "select"

PROFILE_VARIABLE = "JETSTREAM_PROFILE"

_log = Logger(namespace="jetstream")


class TunedMixin:
    """Goes in front of a POSIX reactor, and gives all of its sockets `socket_profile`.

    What is open already keeps the profile it has when another is set. A reactor with transports of
    its own sets `transport_classes`.
    """

    socket_profile: SocketProfile = DEFAULT_PROFILE
    transport_classes = TransportClasses()

    @property
    def _tuning(self) -> Tuning:
        return Tuning(self, self.socket_profile, self.transport_classes)

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self._tuning.listen_tcp(port, factory, backlog, interface)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: Any = None
    ) -> Any:
        return self._tuning.connect_tcp(host, port, factory, timeout, bindAddress)

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> Any:
        return self._tuning.listen_udp(port, protocol, interface, maxPacketSize)

    def listenMulticast(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> Any:
        return self._tuning.listen_multicast(
            port, protocol, interface, maxPacketSize, listenMultiple
        )

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        if addressFamily not in INTERNET:
            return super().adoptStreamPort(  # type: ignore[misc]
                fileDescriptor, addressFamily, factory
            )
        return self._tuning.adopt_port(fileDescriptor, addressFamily, factory)

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        if addressFamily not in INTERNET:
            return super().adoptStreamConnection(  # type: ignore[misc]
                fileDescriptor, addressFamily, factory
            )
        return self._tuning.adopt_connection(fileDescriptor, addressFamily, factory)

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: Any, protocol: Any, maxPacketSize: int = 8192
    ) -> Any:
        if addressFamily not in INTERNET:
            return super().adoptDatagramPort(  # type: ignore[misc]
                fileDescriptor, addressFamily, protocol, maxPacketSize
            )
        return self._tuning.adopt_datagrams(fileDescriptor, addressFamily, protocol, maxPacketSize)


class TunedReactor(TunedMixin, BaseReactor):
    """Twisted's epoll reactor, tuned; where there is no epoll, its poll or select reactor."""


def chosen_profile(profile: SocketProfile | str | None) -> SocketProfile:
    """This profile, or else that of `$JETSTREAM_PROFILE`, or else `default`.

    Raises `ConfigurationError` for one that there is not.
    """
    if profile is not None:
        return find_profile(profile)
    try:
        return find_profile(os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE)
    except ConfigurationError as error:
        raise ConfigurationError(f"${PROFILE_VARIABLE}: {error}") from None


def install(profile: SocketProfile | str | None = None) -> None:
    """As `jetstreamproto.reactors.install`."""
    found = chosen_profile(profile)
    reactor = TunedReactor()
    reactor.socket_profile = found
    installReactor(reactor)
    if _INSTEAD:
        _log.warn("this system has no epoll: the reactor is {instead}'s", instead=_INSTEAD)
