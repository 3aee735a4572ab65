"""Connecting to targets: look up, check, connect, each within its deadline."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet import error as network
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from twisted.internet.protocol import Factory
from zope.interface import implementer

from jetstreamproto.errors import ChannelReset, JetStreamError
from jetstreamproto.services.tunnel.model import (
    DEFAULT_LIMITS,
    TargetRules,
    TunnelCode,
    TunnelLimits,
    read_address,
    read_host,
    show_address,
)
from jetstreamproto.services.tunnel.tcp import TcpSide
from jetstreamproto.session.codes import ResetCode

T = TypeVar("T")

Resolve = Callable[[Any, str], Coroutine[Any, Any, Sequence[str]]]
"""`resolve(reactor, name)`: the IP addresses of a name, best first; `DNSLookupError` for none."""

_ATTEMPTS = 8
"""Addresses of a name that are tried."""

_CODES: dict[int, tuple[int, str]] = {
    errno.ECONNREFUSED: (TunnelCode.CONNECTION_REFUSED, "refuses the connection"),
    errno.EHOSTUNREACH: (TunnelCode.HOST_UNREACHABLE, "cannot be reached"),
    errno.EHOSTDOWN: (TunnelCode.HOST_UNREACHABLE, "is down"),
    errno.ENETUNREACH: (TunnelCode.NETWORK_UNREACHABLE, "is in a network that cannot be reached"),
    errno.ETIMEDOUT: (ResetCode.TIMED_OUT, "does not answer"),
}


class Dialler:
    """Makes the connections of one session's peer. What goes wrong is a `ChannelReset`."""

    def __init__(
        self, reactor: Any, resolve: Resolve, limits: TunnelLimits = DEFAULT_LIMITS
    ) -> None:
        self._reactor = reactor
        self._resolve = resolve
        self._limits = limits
        self._lookups = 0

    async def dial(self, host: str, port: int, rules: TargetRules | None = None) -> TcpSide:
        """A connection to a target that a peer names. Without `rules` it may be any.

        A name is looked up once, and what was checked is what is connected to.
        """
        try:
            host = read_host(host)
        except ValueError as error:
            raise ChannelReset(ResetCode.BAD_MESSAGE, str(error)) from None
        target = show_address(host, port)
        if not port:
            raise ChannelReset(ResetCode.BAD_MESSAGE, f"{target}: there is no port 0")
        free = rules is None or rules.allow_host(host, port)
        if not free and (read_address(host) is not None or not rules.need_lookup(port)):  # type: ignore[union-attr]
            raise not_allowed(target)
        addresses = await self._addresses(host, target)
        if not free:
            addresses = [a for a in addresses if _allowed(rules, a, port)]
            if not addresses:
                raise not_allowed(target)
        return await self._connect(host, port, addresses[:_ATTEMPTS], target)

    async def _addresses(self, host: str, target: str) -> Sequence[str]:
        if read_address(host) is not None:
            return [host]
        if self._lookups >= self._limits.lookups:
            raise ChannelReset(ResetCode.LIMIT_EXCEEDED, "too many names are being looked up")
        late = ChannelReset(ResetCode.TIMED_OUT, f"{target}: no answer about the name")
        try:
            found: Sequence[str] = await self._in_time(
                self._look_up(host), self._limits.lookup_timeout, late
            )
        except network.DNSLookupError:
            raise ChannelReset(
                TunnelCode.NAME_NOT_FOUND, f"{target}: the name has no address"
            ) from None
        return found

    def _look_up(self, host: str) -> Deferred[Sequence[str]]:
        """A lookup counts until it has ended, which giving it up does not bring about."""
        self._lookups += 1
        found: Deferred[Sequence[str]] = Deferred(lambda _: None)

        def done(result: Any) -> None:
            self._lookups -= 1
            if not found.called:
                found.callback(result)

        Deferred.fromCoroutine(self._resolve(self._reactor, host)).addBoth(done)
        return found

    async def _connect(
        self, host: str, port: int, addresses: Sequence[str], target: str
    ) -> TcpSide:
        seconds = self._limits.connect_timeout
        reactor = _Resolved(self._reactor, addresses)
        endpoint = HostnameEndpoint(reactor, host, port, timeout=seconds)
        late = ChannelReset(ResetCode.TIMED_OUT, f"{target} does not answer")
        try:
            tcp = await self._in_time(endpoint.connect(_Connecting()), seconds, late)
        except network.ConnectError as error:
            raise _explained(error, target) from error
        assert isinstance(tcp, TcpSide)
        return tcp

    async def _in_time(self, waiting: Deferred[Any], seconds: float, late: JetStreamError) -> Any:
        def timed_out(_result: object, _seconds: float) -> Any:
            raise late

        return await waiting.addTimeout(seconds, self._reactor, timed_out)


class _Connecting(Factory):
    protocol = TcpSide
    noisy = False


def not_allowed(target: str) -> ChannelReset:
    """The refusal of what no pattern covers."""
    return ChannelReset(ResetCode.NOT_ALLOWED, f"you may not use {target} here")


def _allowed(rules: TargetRules | None, text: str, port: int) -> bool:
    address = read_address(text)
    return rules is not None and address is not None and rules.allow_address(address, port)


def _explained(error: network.ConnectError, target: str) -> ChannelReset:
    number = error.osError
    if isinstance(error, network.ConnectionRefusedError):
        number = errno.ECONNREFUSED
    elif isinstance(error, network.TimeoutError | network.TCPTimedOutError):
        number = errno.ETIMEDOUT
    code, what = _CODES.get(number, (TunnelCode.CANNOT_CONNECT, "cannot be connected to"))
    return ChannelReset(code, f"{target} {what}")


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class _Resolved:
    """The reactor of an endpoint for which every name has the addresses that were checked."""

    def __init__(self, reactor: Any, addresses: Sequence[str]) -> None:
        self.nameResolver = self
        self.connectTCP = reactor.connectTCP
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds
        self._addresses = addresses

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise AssertionError("it has the one it has")

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        for address in self._addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolutionReceiver  # type: ignore[return-value]  # nobody cancels it
