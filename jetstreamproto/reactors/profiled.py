"""A reactor as it is, but for the profile of the sockets that are made through it."""

from __future__ import annotations

from typing import Any

from twisted.internet.posixbase import PosixReactorBase
from zope.interface import directlyProvides, providedBy

from jetstreamproto.reactors.transports import TransportClasses
from jetstreamproto.reactors.tuning import INTERNET, Tuning
from jetstreamproto.sockets.profiles import SocketProfile, find_profile

_OFTEN = ("seconds", "callLater", "addReader", "removeReader", "addWriter", "removeWriter")


def profiled(reactor: Any, profile: SocketProfile | str, *, speaks_first: bool = False) -> Any:
    """`reactor`, giving this profile to every socket that is made through what is returned.

    Use it wherever a reactor is wanted: with endpoints, `listenTCP`, `connect`, `listen_udp`. It
    need not be one of ours. Transports and ports know the reactor itself. `speaks_first` says that
    clients write before they wait for the peer, which TCP Fast Open takes: one that waits for a
    greeting would wait for ever. Reactors that are not of POSIX, such as those of tests, are
    returned as they are. Raises `ConfigurationError` for a profile that there is not.
    """
    found = find_profile(profile)
    if isinstance(reactor, ProfiledReactor):
        return ProfiledReactor(reactor.unprofiled, found, speaks_first)
    if not isinstance(reactor, PosixReactorBase):
        return reactor
    return ProfiledReactor(reactor, found, speaks_first)


class ProfiledReactor:
    """What `profiled` returns: everything else is the reactor's own."""

    def __init__(
        self, reactor: PosixReactorBase, profile: SocketProfile, speaks_first: bool
    ) -> None:
        self.unprofiled = reactor
        self.socket_profile = profile
        classes = getattr(reactor, "transport_classes", None) or TransportClasses()
        self._tuning = Tuning(reactor, profile, classes, speaks_first)
        for name in _OFTEN:  # these shall not take the way through __getattr__
            setattr(self, name, getattr(reactor, name))
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unprofiled, name)

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self._tuning.listen_tcp(port, factory, backlog, interface)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        return self._tuning.connect_tcp(host, port, factory, timeout, bindAddress)

    # These make a TCP port or connection through `self`.
    listenSSL = PosixReactorBase.listenSSL
    connectSSL = PosixReactorBase.connectSSL

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
            return self.unprofiled.adoptStreamPort(fileDescriptor, addressFamily, factory)
        return self._tuning.adopt_port(fileDescriptor, addressFamily, factory)

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        if addressFamily not in INTERNET:
            return self.unprofiled.adoptStreamConnection(fileDescriptor, addressFamily, factory)
        return self._tuning.adopt_connection(fileDescriptor, addressFamily, factory)

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: Any, protocol: Any, maxPacketSize: int = 8192
    ) -> Any:
        if addressFamily not in INTERNET:
            return self.unprofiled.adoptDatagramPort(
                fileDescriptor, addressFamily, protocol, maxPacketSize
            )
        return self._tuning.adopt_datagrams(fileDescriptor, addressFamily, protocol, maxPacketSize)
