"""`RpcBalancer`: calls to whoever provides a service, over a session with each of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.balancing import (
    FAULTS,
    Chance,
    Ejection,
    Figures,
    RetryBudget,
    make_policy,
)
from jetstreamproto.services.rpc.client import DEFAULT_TIMEOUT, Proxy, RpcClient
from jetstreamproto.services.rpc.leases import RpcProvider
from jetstreamproto.services.rpc.model import DEFAULT_LIMITS, RpcLimits, RpcStatus
from jetstreamproto.services.rpc.stream import RpcStream
from jetstreamproto.session.session import Session

_log = Logger()

Connect: TypeAlias = Callable[[RpcProvider], Deferred[Session]]
"""Makes a session with a provider."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before a provider is tried again
_RETRIED = (RpcStatus.UNAVAILABLE, RpcStatus.RESOURCE_EXHAUSTED)


class _Node:
    """A provider, and the session with it if there is one."""

    def __init__(self, provider: RpcProvider) -> None:
        self.provider = provider
        self.figures = Figures()
        self.client: RpcClient | None = None
        self.connecting: Deferred[Any] | None = None
        self.timer: IDelayedCall | None = None
        self.wait = _FIRST_WAIT
        self.removed = False

    @property
    def ready(self) -> bool:
        return self.client is not None and self.client.session.accepts_channels


class RpcBalancer:
    """Calls methods of a service that several hosts provide. `update` says which.

        balancer = RpcBalancer(connect_provider(reactor), clock=reactor)
        balancer.update([RpcProvider("one:9000", "sha256:..."), RpcProvider("two:9000", ...)])
        total = await balancer.call("demo.Calculator#add", 1, 2)

    `policy` is `round-robin`, `least-outstanding` or `power-of-two` (by latency). A call goes to
    one provider; it is tried at others, `attempts` in all and within its one deadline, if it
    certainly was not begun, or is `idempotent` and its session broke, and `budget` allows. A
    provider that keeps failing is left alone for a while (`ejection`); one whose session broke
    gets no calls until there is another.
    """

    repeats = True

    def __init__(
        self,
        connect: Connect,
        *,
        clock: IReactorTime,
        policy: str = "power-of-two",
        timeout: float = DEFAULT_TIMEOUT,
        attempts: int = 3,
        limits: RpcLimits = DEFAULT_LIMITS,
        ejection: Ejection | None = None,
        budget: RetryBudget | None = None,
        chance: Chance = random.random,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._policy = make_policy(policy)
        self._timeout = timeout
        self._attempts = attempts
        self._limits = limits
        self._ejection = ejection or Ejection()
        self._budget = budget or RetryBudget()
        self._chance = chance
        self._nodes: dict[RpcProvider, _Node] = {}
        self._told = False
        self._closed = False
        self._waiting: list[Deferred[None]] = []
        self._leaving: set[Deferred[None]] = set()

    # --- providers ---------------------------------------------------------------------

    @property
    def providers(self) -> list[RpcProvider]:
        """Those there are, connected or not."""
        return list(self._nodes)

    def update(self, providers: Iterable[RpcProvider]) -> None:
        """These are all there are now. Sessions with others end once their calls have."""
        if self._closed:
            return
        self._told = True
        wanted = set(providers)
        for provider in self._nodes.keys() - wanted:
            self._remove(self._nodes.pop(provider))
        for provider in sorted(wanted - self._nodes.keys()):
            node = self._nodes[provider] = _Node(provider)
            self._start(node)
        self._changed()

    def close(self) -> Deferred[Any]:
        """End all sessions, once their calls have ended; fires when they are gone."""
        self.update(())
        self._closed = True
        return DeferredList(tuple(self._leaving))

    # --- calls -------------------------------------------------------------------------

    def call(
        self, method: str, *arguments: Any, idempotent: bool = False, **options: Any
    ) -> Deferred[Any]:
        """As `RpcClient.call`, at one of the providers."""
        return Deferred.fromCoroutine(self._call(method, arguments, idempotent, options))

    def stream(self, method: str, *arguments: Any, **options: Any) -> RpcStream:
        """As `RpcClient.stream`, at one that is connected. Raises `RpcError` (UNAVAILABLE)."""
        node = self._choose(set())
        if node is None:
            raise self._nobody()
        assert node.client is not None
        stream = node.client.stream(method, *arguments, **options)
        began = self._clock.seconds()
        node.figures.began()

        def ended(result: Any) -> None:
            # How long a stream takes says nothing of the provider's latency.
            usual = node.figures.latency or 0.0
            fault = _is_fault(result) and self._clock.seconds() >= began
            node.figures.ended(usual, fault)
            self._eject(node)

        stream.result().addBoth(ended)
        return stream

    def proxy(self, cls: type) -> Any:
        """As `RpcClient.proxy`; methods that are declared idempotent are repeated."""
        return Proxy(self, cls)

    async def _call(
        self, method: str, arguments: tuple[Any, ...], idempotent: bool, options: dict[str, Any]
    ) -> Any:
        timeout = options.pop("timeout", None)
        deadline = self._clock.seconds() + (self._timeout if timeout is None else timeout)
        self._budget.earn()
        tried: set[RpcProvider] = set()
        for attempt in range(1, self._attempts + 1):
            node = await self._ready_node(tried, deadline)
            tried.add(node.provider)
            try:
                return await self._attempt(node, method, arguments, deadline, options)
            except RpcError as error:
                safe = not error.started or (idempotent and error.status is RpcStatus.UNAVAILABLE)
                if not safe or error.status not in _RETRIED or attempt == self._attempts:
                    raise
                if not self._others(tried) or not self._budget.spend():
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self,
        node: _Node,
        method: str,
        arguments: tuple[Any, ...],
        deadline: float,
        options: dict[str, Any],
    ) -> Any:
        client, began = node.client, self._clock.seconds()
        assert client is not None
        node.figures.began()
        fault, counted = False, True
        try:
            return await client.call(method, *arguments, timeout=deadline - began, **options)
        except CancelledError:
            counted = False
            raise
        except RpcError as error:
            fault = error.status in FAULTS
            raise
        finally:
            usual = node.figures.latency or 0.0
            node.figures.ended(self._clock.seconds() - began if counted else usual, fault)
            self._eject(node)

    def _eject(self, node: _Node) -> None:
        everyone = [other.figures for other in self._nodes.values()]
        if self._ejection.consider(node.figures, everyone, self._clock.seconds()):
            _log.warn("{address} keeps failing: no calls for now", address=node.provider.address)

    # --- choosing ----------------------------------------------------------------------

    async def _ready_node(self, tried: set[RpcProvider], deadline: float) -> _Node:
        """The provider for the next attempt; waits while it may still become clear."""
        while True:
            node = self._choose(tried)
            if node is not None:
                return node
            if self._told and not any(other.connecting for other in self._nodes.values()):
                raise self._nobody()
            left = deadline - self._clock.seconds()
            if left <= 0:
                raise RpcError(
                    RpcStatus.DEADLINE_EXCEEDED, "no provider within the deadline", started=False
                )
            changed: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(changed)
            changed.addTimeout(left, self._clock, lambda _, __: None)
            await changed

    def _choose(self, tried: set[RpcProvider]) -> _Node | None:
        ready = [node for node in self._nodes.values() if node.ready]
        now = self._clock.seconds()
        fresh = [node for node in ready if node.provider not in tried] or ready
        fit = [node for node in fresh if node.figures.ejected_until <= now] or fresh
        if not fit:
            return None
        return fit[self._policy.choose([node.figures for node in fit], self._chance)]

    def _others(self, tried: set[RpcProvider]) -> bool:
        """Whether there is anybody left to try."""
        return any(
            (node.ready or node.connecting) and provider not in tried
            for provider, node in self._nodes.items()
        )

    def _nobody(self) -> RpcError:
        what = "no provider can be reached" if self._nodes else "there is no provider"
        return RpcError(RpcStatus.UNAVAILABLE, what, started=False)

    # --- sessions ----------------------------------------------------------------------

    def _start(self, node: _Node) -> None:
        node.timer = None
        if node.removed:
            return
        node.connecting = connecting = maybeDeferred(self._connect, node.provider)
        connecting.addCallbacks(self._connected, self._failed, (node,), {}, (node,), {})

    def _connected(self, session: Session, node: _Node) -> None:
        node.connecting = None
        if node.removed:
            session.abort()
            return
        node.wait = _FIRST_WAIT
        node.client = RpcClient(session, timeout=self._timeout, limits=self._limits)
        session.when_closed().addCallback(lambda _: self._lost(node))
        self._changed()

    def _failed(self, failure: Failure, node: _Node) -> None:
        node.connecting = None
        if not node.removed:
            _log.info(
                "no session with {address}: {reason}",
                address=node.provider.address,
                reason=failure.getErrorMessage(),
            )
            self._again(node)
        self._changed()

    def _lost(self, node: _Node) -> None:
        node.client = None
        if not node.removed:
            self._again(node)
        self._changed()

    def _again(self, node: _Node) -> None:
        wait = node.wait * (0.5 + 0.5 * self._chance())
        node.wait = min(2 * node.wait, _LONGEST_WAIT)
        node.timer = self._clock.callLater(wait, self._start, node)

    def _remove(self, node: _Node) -> None:
        node.removed = True
        if node.timer is not None:
            node.timer.cancel()
        if node.connecting is not None:
            node.connecting.cancel()
        if node.client is not None:
            leaving = node.client.session.close()
            self._leaving.add(leaving)
            leaving.addCallback(lambda _: self._leaving.discard(leaving))

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)


def _is_fault(result: Any) -> bool:
    error = result.value if isinstance(result, Failure) else None
    return isinstance(error, RpcError) and error.status in FAULTS
