"""The registry: providers register here, and clients ask it, or watch, who provides a service."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Annotated

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.leases import (
    MAX_LEASE,
    MIN_LEASE,
    Lease,
    LeaseTable,
    RpcProvider,
)
from jetstreamproto.services.rpc.model import ANY, RpcStatus, check_service, matches
from jetstreamproto.services.rpc.signatures import rpc_method, rpc_service
from jetstreamproto.session.session import Session

REGISTRY = "jetstream.Registry"

_Seconds = Annotated[float, msgspec.Meta(ge=MIN_LEASE, le=MAX_LEASE)]
MAX_WATCHERS = 10_000


@rpc_service(REGISTRY)
class RpcRegistry:
    """Who provides which service. Leases end with the session that holds them, or their time.

    `registrable` gives the patterns of services, as `demo.*`, that a session's peer may say it
    provides. Nothing is kept beyond the process: providers register again.
    """

    def __init__(
        self,
        registrable: Callable[[Session], Iterable[str]] = lambda _: (ANY,),
        leases: LeaseTable | None = None,
    ) -> None:
        self._registrable = registrable
        self._leases = leases or LeaseTable()
        self._owners: set[Session] = set()
        self._watchers: dict[str, set[Deferred[None]]] = {}
        self._watching = 0
        self._clock: IReactorTime | None = None
        self._timer: IDelayedCall | None = None

    @rpc_method
    def register(
        self, service: str, provider: RpcProvider, context: RpcContext, seconds: _Seconds = 15.0
    ) -> Lease:
        """Say that `service` can be called at `provider`, for `seconds` unless renewed."""
        _check(service)
        session = context.session
        # A pattern stands for the service if it does for all of its methods.
        if not matches(self._registrable(session), f"{service}#{ANY}"):
            raise RpcError(RpcStatus.PERMISSION_DENIED, f"you may not register {service} here")
        lease = secrets.token_hex(16)
        now = context.clock.seconds()
        self._leases.grant(lease, session, service, provider, seconds, now)
        if session not in self._owners:
            self._owners.add(session)
            session.when_closed().addCallback(lambda _: self._session_gone(session))
        self._clock = context.clock
        self._schedule()
        self._changed({service})
        return Lease(lease, seconds)

    @rpc_method(idempotent=True)
    def renew(self, lease: str, context: RpcContext) -> float:
        """Keep a lease; NOT_FOUND means that it is to be registered anew."""
        return self._leases.renew(lease, context.session, context.clock.seconds())

    @rpc_method
    def release(self, lease: str, context: RpcContext) -> None:
        """End a lease now."""
        self._changed({self._leases.release(lease, context.session)})
        self._schedule()

    @rpc_method(idempotent=True)
    def resolve(self, service: str) -> list[RpcProvider]:
        """The providers of a service; none is no error."""
        return self._leases.providers(_check(service))

    @rpc_method(idempotent=True)
    def services(self) -> list[str]:
        """The services that have providers."""
        return self._leases.services()

    @rpc_method
    async def watch(self, service: str, context: RpcContext) -> AsyncIterator[list[RpcProvider]]:
        """All providers of a service, now and after each change."""
        _check(service)
        if self._watching >= MAX_WATCHERS:
            raise RpcError(RpcStatus.RESOURCE_EXHAUSTED, "too many are watching")
        self._watching += 1
        told: list[RpcProvider] | None = None
        try:
            while not context.closing:
                providers = self._leases.providers(service)
                if providers != told:
                    told = providers
                    yield providers
                else:
                    await self._change(service, context)
        finally:
            self._watching -= 1

    # --- inside ------------------------------------------------------------------------

    async def _change(self, service: str, context: RpcContext) -> None:
        """Returns when the providers of `service` may have changed, or the session is closing."""
        changed: Deferred[None] = Deferred()
        closing = context.when_closing().addCallback(lambda _: _fire(changed))
        closing.addErrback(lambda _: None)
        waiting = self._watchers.setdefault(service, set())
        waiting.add(changed)
        try:
            await changed
        finally:
            closing.cancel()
            waiting.discard(changed)
            if not waiting and self._watchers.get(service) is waiting:
                del self._watchers[service]

    def _changed(self, services: Iterable[str]) -> None:
        for service in services:
            for watcher in tuple(self._watchers.get(service, ())):
                _fire(watcher)

    def _session_gone(self, session: Session) -> None:
        self._owners.discard(session)
        self._changed(self._leases.release_all(session))
        self._schedule()

    def _schedule(self) -> None:
        earliest = self._leases.earliest
        if self._timer is not None:
            if earliest is not None and self._timer.getTime() <= earliest:
                return
            self.stop()
        if self._clock is None or earliest is None:
            return
        self._timer = self._clock.callLater(
            max(0.0, earliest - self._clock.seconds()), self._expire
        )

    def _expire(self) -> None:
        assert self._clock is not None
        self._timer = None
        self._changed(self._leases.expire(self._clock.seconds()))
        self._schedule()

    def stop(self) -> None:
        """Let no lease expire any more: the server ends."""
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer.cancel()


def _fire(watcher: Deferred[None]) -> None:
    if not watcher.called:
        watcher.callback(None)


def _check(service: str) -> str:
    try:
        return check_service(service)
    except ValueError as error:
        raise RpcError(RpcStatus.INVALID_ARGUMENT, str(error)) from None
