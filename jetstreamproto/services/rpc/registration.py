"""`RpcRegistration`: keeps a provider in a registry for as long as there is a session with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from jetstreamproto.errors import JetStreamError, RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.leases import Lease, RpcProvider
from jetstreamproto.services.rpc.model import RpcStatus, check_service
from jetstreamproto.services.rpc.registry import RpcRegistry
from jetstreamproto.session.session import Session

_log = Logger()


def until_closed(session: Session, work: Deferred[None]) -> None:
    """Cancel `work`, which goes on in the background, when the session is gone."""
    work.addErrback(lambda failure: failure.trap(CancelledError) and None)
    work.addErrback(lambda failure: _log.failure("what runs beside a session failed", failure))
    session.when_closed().addCallback(lambda _: work.cancel())


class RpcRegistration:
    """Says at a registry that `services` can be called at `provider`.

        registration = RpcRegistration(["demo.Calculator"], RpcProvider("host:9000", fingerprint))
        client = ReconnectingClient(endpoint, factory, prepare=registration.prepare)

    So every session that is made registers again. Leases of `seconds` are renewed three times as
    often as they must be. Raises `ValueError` for what cannot be registered.
    """

    def __init__(
        self, services: Sequence[str], provider: RpcProvider, *, seconds: float = 15.0
    ) -> None:
        self.services = tuple(map(check_service, services))
        self.provider = msgspec.convert(msgspec.to_builtins(provider), RpcProvider)  # checks it
        self.seconds = seconds
        self._leases: dict[Session, dict[str, str]] = {}

    def prepare(self, session: Session) -> Deferred[None]:
        """Register by `session`, and stay so while it lives; fails as the registry's method."""
        return Deferred.fromCoroutine(self._register(session))

    async def release(self) -> None:
        """Withdraw from wherever it is registered; sessions stay open."""
        leases, self._leases = self._leases, {}
        for session, held in leases.items():
            registry = RpcClient(session).proxy(RpcRegistry)
            for lease in held.values():
                try:
                    await registry.release(lease)
                except RpcError as error:
                    _log.info("{error}: it ends by itself", error=str(error))

    async def _register(self, session: Session) -> None:
        registry = RpcClient(session, timeout=self.seconds).proxy(RpcRegistry)
        held = self._leases[session] = {}
        session.when_closed().addCallback(lambda _: self._leases.pop(session, None))
        for service in self.services:
            held[service] = await self._lease(registry, service)
        renewing = Deferred.fromCoroutine(self._renew(session, registry, held))
        until_closed(session, renewing)

    async def _lease(self, registry: Any, service: str) -> str:
        lease: Lease = await registry.register(service, self.provider, seconds=self.seconds)
        return lease.id

    async def _renew(self, session: Session, registry: Any, held: dict[str, str]) -> None:
        while True:
            await deferLater(session.clock, self.seconds / 3)
            if self._leases.get(session) is not held:
                return
            for service, lease in tuple(held.items()):
                try:
                    await registry.renew(lease)
                except RpcError as error:
                    await self._again(registry, service, held, error)

    async def _again(
        self, registry: Any, service: str, held: dict[str, str], error: RpcError
    ) -> None:
        """A lease could not be renewed; if it has ended, have another."""
        if error.status is not RpcStatus.NOT_FOUND:
            return  # the next turn tries again
        try:
            held[service] = await self._lease(registry, service)
        except JetStreamError as problem:
            _log.warn(
                "{service} cannot be registered: {problem}", service=service, problem=str(problem)
            )
