"""Names of hosts, resolved for UDP as the reactor is set up to."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IAddress, IResolutionReceiver
from zope.interface import implementer


async def resolve(reactor: Any, host: str) -> list[str]:
    """The IP addresses of `host`, in the system's order of preference.

    Raises Twisted's `DNSLookupError` if it has none.
    """
    receiver = _Addresses()
    reactor.nameResolver.resolveHostName(
        receiver, host, addressTypes=(IPv6Address, IPv4Address), transportSemantics="UDP"
    )
    addresses = await receiver.complete
    if not addresses:
        raise DNSLookupError(f"no address for {host}")
    return addresses


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects what a resolver finds; `complete` fires with it."""

    def __init__(self) -> None:
        self.complete: Deferred[list[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        """Nothing to do: it is never cancelled."""

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address) and address.host not in self._found:
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self.complete.callback(self._found)
