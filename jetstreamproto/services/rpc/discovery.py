"""`RpcDiscovery`: tells a balancer who provides a service, as a registry has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from jetstreamproto.client import connect
from jetstreamproto.errors import ConfigurationError, RpcError
from jetstreamproto.security.trust import PinnedKeys, Trust
from jetstreamproto.services.rpc.balancer import Connect, RpcBalancer
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.leases import RpcProvider
from jetstreamproto.services.rpc.model import check_service
from jetstreamproto.services.rpc.registration import until_closed
from jetstreamproto.services.rpc.registry import RpcRegistry
from jetstreamproto.session.session import Session

_log = Logger()

_PAUSE = 5.0  # seconds until a watch that failed is tried again


class RpcDiscovery:
    """Watches `service` at a registry, and updates `balancer` by what it says.

        discovery = RpcDiscovery("demo.Calculator", balancer)
        client = ReconnectingClient(endpoint, factory, prepare=discovery.prepare)

    Without a session the balancer goes on with the providers that were known last.
    """

    def __init__(self, service: str, balancer: RpcBalancer) -> None:
        self.service = check_service(service)
        self._balancer = balancer

    def prepare(self, session: Session) -> Deferred[None]:
        """Watch by `session` for as long as it lives."""
        until_closed(session, Deferred.fromCoroutine(self._watch(session)))
        return succeed(None)

    async def _watch(self, session: Session) -> None:
        while session.accepts_channels:
            try:
                async for providers in RpcClient(session).proxy(RpcRegistry).watch(self.service):
                    self._balancer.update(providers)
            except RpcError as error:
                _log.info("watching {service}: {error}", service=self.service, error=str(error))
            if session.accepts_channels:
                await deferLater(session.clock, _PAUSE)


def connect_provider(
    reactor: Any, trust: Callable[[RpcProvider], Trust] | None = None, **options: Any
) -> Connect:
    """What connects a balancer to providers, over the transport that each one names.

    `trust` says why a provider is believed; without it, that it has the fingerprint which the
    registry knows. `options` are those of `connect`.
    """

    def connect_to(provider: RpcProvider) -> Deferred[Session]:
        host, _, port = provider.address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if trust is None and not provider.fingerprint:
            raise ConfigurationError(f"{provider.address} is registered without a fingerprint")
        known = PinnedKeys([provider.fingerprint]) if trust is None else trust(provider)
        return connect(reactor, host, int(port), known, transport=provider.transport, **options)

    return connect_to
